#include "runtime/model/arch/registry.h"

#include <absl/strings/str_cat.h>

#include "runtime/model/arch/llama.h"
#include "runtime/model/arch/qwen3.h"
#include "runtime/model/json.h"

namespace tandem {
namespace {

constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", MakeLlama},
    {"Qwen3ForCausalLM", MakeQwen3},
};

}  // namespace

std::span<const Architecture> Architectures() { return kArchitectures; }

absl::StatusOr<const Architecture*> FindArchitecture(std::string_view name, const std::string& config_path) {
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(architecture.name));
  }
  return absl::FailedPreconditionError(absl::StrCat(config_path, ": architectures: unsupported architecture ",
                                                    Quoted(name), ", expected one of: ", known,
                                                    "; choose another model"));
}

}  // namespace tandem
