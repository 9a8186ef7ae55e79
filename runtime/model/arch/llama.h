// Llama 2, 3 and 3.x (LlamaForCausalLM): https://github.com/huggingface/transformers, models/llama. Grouped
// queries, rope with or without long-wave scaling, tied or untied head, optional biases.
#ifndef TANDEM_RUNTIME_MODEL_ARCH_LLAMA_H_
#define TANDEM_RUNTIME_MODEL_ARCH_LLAMA_H_

#include <memory>

#include "runtime/model/checkpoint.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"

namespace tandem {

// As Architecture::make (registry.h).
std::shared_ptr<const Model> MakeLlama(const ModelConfig& config, GenerationDefaults generation,
                                       WeightReader& weights);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ARCH_LLAMA_H_
