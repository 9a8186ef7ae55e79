#include <absl/strings/str_cat.h>

#include <filesystem>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/config_print.h"
#include "runtime/pair.h"

namespace tandem {
namespace {

// Reads a configuration and, if the target is there, what its generation_config.json adds. No model is
// loaded.
int Resolve(const Args& args, Config* config) {
  if (const int code = ReadConfig(args, config); code != kExitOk) return code;
  std::error_code error;
  if (!std::filesystem::exists(config->target.model.text, error)) {
    Warn(absl::StrCat(config->target.model.text, ": no such folder; the target is not there yet"));
    return kExitOk;
  }
  const absl::StatusOr<GenerationDefaults> defaults = ApplyGenerationDefaults(config);
  if (defaults.ok()) return kExitOk;
  return Fail(defaults.status(), absl::IsInvalidArgument(defaults.status()) ? kExitConfig : kExitModel);
}

}  // namespace

int RunConfigCheck(const Args& args) {
  Config config;
  if (const int code = Resolve(args, &config); code != kExitOk) return code;
  return Print(absl::StrCat(args.operand(0), ": ok\n")).ok() ? kExitOk : kExitFailure;
}

int RunConfigPrint(const Args& args) {
  Config config;
  if (const int code = Resolve(args, &config); code != kExitOk) return code;
  return Print(PrintConfig(config)).ok() ? kExitOk : kExitFailure;
}

}  // namespace tandem
