#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <thread>
#include <type_traits>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/cli/interrupt.h"
#include "runtime/core/cuda.h"
#include "runtime/planted_bench.h"

namespace tandem {
namespace {

template <typename T>
bool Parse(const std::string& text, T* value) {
  if constexpr (std::is_same_v<T, double>) {
    return absl::SimpleAtod(text, value);
  } else {
    return absl::SimpleAtoi(text, value);
  }
}

// What the flags say; a number's range is RunPlantedBench's to check.
absl::Status ReadOptions(const Args& args, PlantedBenchOptions* options) {
  TANDEM_RETURN_IF_ERROR(ParsePlantedPair(args.Value("--planted"), options));
  const auto read = [&](const char* flag, auto* value) {
    if (!args.Has(flag) || Parse(args.Value(flag), value)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(flag, ": expected a number, got ", args.Value(flag)));
  };
  TANDEM_RETURN_IF_ERROR(read("--agreement", &options->agreement));
  TANDEM_RETURN_IF_ERROR(read("--gamma", &options->gamma));
  TANDEM_RETURN_IF_ERROR(read("--context", &options->context));
  TANDEM_RETURN_IF_ERROR(read("--prefill", &options->n_prefill));
  TANDEM_RETURN_IF_ERROR(read("--rounds", &options->n_rounds));
  TANDEM_RETURN_IF_ERROR(read("--repetitions", &options->n_repetitions));
  options->n_threads = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  constexpr Device kFirstGpu = {.cuda_index = 0};
  if (args.Has("--device")) {
    const absl::StatusOr<Device> device = ParseDevice(args.Value("--device"));
    if (!device.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--device: ", std::string(device.status().message())));
    }
    options->device = *device;
  } else if (cuda::Check(kFirstGpu).ok()) {
    options->device = kFirstGpu;
  }
  const std::string small = args.Value("--small", options->device.is_cuda() ? "qwen3-0.6b" : "none");
  if (small == "none") return absl::OkStatus();
  const absl::StatusOr<const PlantedShape*> shape = FindPlantedShape(small);
  if (!shape.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--small: none, or ", std::string(shape.status().message())));
  }
  options->small = *shape;
  return absl::OkStatus();
}

}  // namespace

std::vector<Flag> PlantedFlags() {
  return {{"--planted", "TARGET+DRAFT",
           "instead of CONFIG: models made here, without a checkpoint, as llama-8b+llama-1b; also llama-3b, "
           "qwen3-8b+qwen3-0.6b, and llama-tiny, qwen3-tiny. The flags below belong to it"},
          {"--agreement", "A",
           "share of the vocabulary on which the draft proposes what the target says (default 0.8)"},
          {"--device", "DEVICE", "cpu, cuda or cuda:N (default: cuda:0 where there is one)"},
          {"--gamma", "N", "proposed tokens of a block (default 4)"},
          {"--context", "N", "length of a sequence about the middle of what is measured (default 1024)"},
          {"--prefill", "N", "tokens of the prompt whose time is measured (default 2048)"},
          {"--rounds", "N", "rounds of a repetition (default 48)"},
          {"--small", "SHAPE",
           "one more shape whose draft step is measured, or none (default qwen3-0.6b, on a CPU none)"}};
}

int RunBenchPlanted(const Args& args) {
  for (const char* flag : {"--prompt", "--prompts", "--set", "--require-lossless"}) {
    if (!args.Has(flag)) continue;
    Log(absl::StrCat(flag, ": belongs to a CONFIG, and --planted has none (tandem bench --help)"));
    return kExitUsage;
  }
  if (!args.operand(0).empty()) {
    Log(absl::StrCat("expected CONFIG or --planted, got both: ", args.operand(0), " (tandem bench --help)"));
    return kExitUsage;
  }
  PlantedBenchOptions options;
  if (const absl::Status read = ReadOptions(args, &options); !read.ok()) return Fail(read, kExitUsage);
  const InterruptScope interrupt;
  absl::StatusOr<PlantedBenchResult> result;
  {
    ProgressBar progress;
    options.progress = [&](const std::string& doing, double done) { progress.Show(doing, done); };
    options.interrupted = [&] { return interrupt.Raised(); };
    result = RunPlantedBench(options);
  }
  if (!result.ok()) return Fail(result.status(), kExitUsage);
  const std::string path = args.Value("--json");
  if (!path.empty()) {
    const absl::Status written = WriteJson(PlantedBenchJson(options, *result), path);
    if (!written.ok()) return Fail(written, kExitFailure);
  }
  if (path != "-") {
    const absl::Status printed = Print(PlantedBenchText(options, *result, StdoutHasColour()));
    if (!printed.ok()) return Fail(printed, kExitFailure);
  }
  if (interrupt.Raised()) {
    Log("interrupted; figures that were not measured are missing");
    return kExitInterrupt;
  }
  if (!result->status.ok()) return Fail(result->status, kExitFailure);
  if (result->n_different > 0) {
    Log("greedy outputs differ from what was planted");
    return kExitCheck;
  }
  return kExitOk;
}

}  // namespace tandem
