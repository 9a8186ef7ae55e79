// The architectures that tandem knows, by the name that config.json gives them. A new one is a file beside
// this and a line in registry.cc.
#ifndef TANDEM_RUNTIME_MODEL_ARCH_REGISTRY_H_
#define TANDEM_RUNTIME_MODEL_ARCH_REGISTRY_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "runtime/model/checkpoint.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"

namespace tandem {

struct Architecture {
  std::string_view name;
  // Takes its weights from `weights`; the caller looks at weights.status() before it uses the model.
  std::shared_ptr<const Model> (*make)(const ModelConfig& config, GenerationDefaults generation,
                                       WeightReader& weights);
};

std::span<const Architecture> Architectures();

// kFailedPrecondition, listing the known ones, if `name` is none of them.
absl::StatusOr<const Architecture*> FindArchitecture(std::string_view name, const std::string& config_path);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ARCH_REGISTRY_H_
