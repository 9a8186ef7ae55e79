// Qwen3, dense (Qwen3ForCausalLM): https://github.com/huggingface/transformers, models/qwen3. Llama's stack
// with its own head_dim and an RMS norm of every query and key head before the rotation.
#ifndef TANDEM_RUNTIME_MODEL_ARCH_QWEN3_H_
#define TANDEM_RUNTIME_MODEL_ARCH_QWEN3_H_

#include <memory>

#include "runtime/model/checkpoint.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"

namespace tandem {

// As Architecture::make (registry.h).
std::shared_ptr<const Model> MakeQwen3(const ModelConfig& config, GenerationDefaults generation,
                                       WeightReader& weights);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ARCH_QWEN3_H_
