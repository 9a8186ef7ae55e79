#include "runtime/planted_bench.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <memory>
#include <utility>

#include "runtime/core/cuda.h"
#include "runtime/decode_bench.h"
#include "runtime/memory_plan.h"
#include "runtime/model_bench.h"
#include "runtime/read_rate.h"
#include "runtime/report.h"
#include "runtime/scheduler.h"
#include "runtime/tail_bench.h"

namespace tandem {
namespace {

constexpr int32_t kBatches[] = {8, 32};
constexpr int32_t kBatchGamma = 3;
constexpr int32_t kVerifyRows = 5;
constexpr int32_t kTailGamma = 4;
constexpr double kDenseFlops = 790e12;  // bf16 through PyTorch on an H200: what prefill_share is of

// 1 + a + ... + a^gamma: tokens of a round if every proposed token stays with probability a.
double TokensPerRound(double agreement, int32_t gamma) {
  double sum = 0, power = 1;
  for (int32_t i = 0; i <= gamma; ++i, power *= agreement) sum += power;
  return sum;
}

// "06b" of "qwen3-0.6b".
std::string SizeKey(const PlantedShape& shape) {
  const std::string name(shape.name);
  return absl::StrReplaceAll(name.substr(name.rfind('-') + 1), {{".", ""}});
}

// Of the figure about options.small; empty if the draft's own stands for it.
std::string SmallKey(const PlantedBenchOptions& options) {
  const std::string of_draft = SizeKey(*options.draft);
  std::string size = options.small == nullptr ? "06b" : SizeKey(*options.small);
  if (options.small == options.draft || (options.small == nullptr && size == of_draft)) return "";
  if (size == of_draft) size = absl::StrReplaceAll(std::string(options.small->name), {{"-", "_"}, {".", ""}});
  return absl::StrCat("step_", size, "_ms");
}

std::vector<PlantedFigure> MakeFigures(const PlantedBenchOptions& options) {
  const std::string target(options.target->name), draft(options.draft->name);
  const std::string small = options.small == nullptr ? "a small shape" : std::string(options.small->name);
  std::vector<PlantedFigure> figures = {
      {"read_gb_s", "GB/s", "streaming read of a large buffer: what floors are computed from"},
      {"make_models_s", "s", "making the pair's weights"},
      {absl::StrCat("plain_", SizeKey(*options.target), "_tok_s"), "tokens/s",
       absl::StrCat(target, " alone, batch 1, greedy, through the engine")},
      {absl::StrCat("step_", SizeKey(*options.draft), "_ms"), "ms",
       absl::StrCat("one draft step of ", draft, ": plan, forward, law, sampling at T = 1")},
      {SmallKey(options), "ms", absl::StrCat("the same of ", small)},
      {"forward_1_ms", "ms", absl::StrCat("a forward of ", target, " by itself, 1 row with logits")},
      {"forward_5_ms", "ms", "the same, 5 rows"},
      {"verify_ratio_5", "x", "forward_5_ms over forward_1_ms"},
      {"tail_us", "us", "laws, judge and settle behind the target's logits: opt, T = 1, gamma 4"},
      {"tail_law_us", "us", "its parts: the laws of 5 rows"},
      {"tail_judge_us", "us", "total variation and judge"},
      {"tail_settle_us", "us", "settle"},
      {"round_ms_greedy", "ms", "a whole round of the pair through the engine, greedy"},
      {"round_ms_sampled", "ms", "the same at T = 1 (rule lossless)"},
      {"tokens_per_round", "tokens", "of greedy rounds, beside the planted and the formula's"},
      {"tokens_per_round_sampled", "tokens", "of rounds at T = 1"},
      {"spec_over_plain", "x", "greedy tokens/s of the pair over the target alone"},
      {"host_gap_us", "us",
       options.device.is_cuda()
           ? "device idle between two rounds: stamps of its clock, one round queued ahead"
           : "time between two rounds in which no step ran: the host's bookkeeping"},
      {"round_busy_ms", "ms", "a greedy round without that"},
  };
  for (const int32_t batch : kBatches) {
    const std::string name = absl::StrCat("batch", batch);
    figures.push_back({name + "_plain_tok_s", "tokens/s",
                       absl::StrCat(target, " alone, ", batch, " sequences, all together")});
    figures.push_back(
        {name + "_tok_s", "tokens/s", absl::StrCat("the pair, gamma ", kBatchGamma, ", all together")});
    figures.push_back({name + "_over_plain", "x", "the two compared"});
  }
  figures.push_back({"prefill_ms", "ms",
                     absl::StrCat("a prompt of ", FormatCount(options.n_prefill), " tokens, one forward")});
  figures.push_back({"prefill_tflop_s", "TFLOP/s", "its matrix products (those that ran), per second"});
  figures.push_back({"prefill_share", "", "prefill_tflop_s as a share of 790"});
  std::erase_if(figures, [](const PlantedFigure& figure) { return figure.key.empty(); });
  for (PlantedFigure& figure : figures) figure.is_rate = figure.unit == "tokens/s";
  return figures;
}

std::string UtcNow() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts = {};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// Bytes that the device, or the CPU's memory, has to give; nothing if the system does not say.
std::optional<int64_t> FreeMemory(Device device) {
  if (device.is_cuda()) return cuda::Memory(device).free;
  std::ifstream info("/proc/meminfo");
  for (std::string key, unit; info >> key;) {
    int64_t kib = 0;
    info >> kib;
    std::getline(info, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return std::nullopt;
}

PlannedModel Planned(const PlantedShape& shape) {
  PlannedModel model{
      .name = std::string(shape.name), .weight_bytes = PlantedBytes(shape), .cache_dtype = DType::kBf16};
  model.shape.n_layers = shape.n_layers;
  model.shape.hidden = shape.hidden;
  model.shape.intermediate = shape.intermediate;
  model.shape.n_heads = shape.n_heads;
  model.shape.n_kv_heads = shape.n_kv_heads;
  model.shape.head_dim = shape.head_dim;
  model.shape.n_vocab = shape.n_vocab;
  return model;
}

absl::Status CheckOptions(const PlantedBenchOptions& options) {
  const auto in_range = [](const char* name, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": expected ", least, " to ", most, ", got ", value));
  };
  TANDEM_RETURN_IF_ERROR(in_range("--agreement", options.agreement, 0, 1));
  TANDEM_RETURN_IF_ERROR(in_range("--gamma", options.gamma, 1, 16));
  TANDEM_RETURN_IF_ERROR(in_range("--context", options.context, 16, 4096));
  TANDEM_RETURN_IF_ERROR(in_range("--prefill", options.n_prefill, 16, 8000));
  TANDEM_RETURN_IF_ERROR(in_range("--rounds", options.n_rounds, 2, 256));
  TANDEM_RETURN_IF_ERROR(in_range("--repetitions", options.n_repetitions, 1, 100));
  TANDEM_RETURN_IF_ERROR(cuda::Check(options.device));
  const std::optional<int64_t> free = FreeMemory(options.device);
  if (!free) return absl::OkStatus();
  std::vector<PlannedModel> models = {Planned(*options.target), Planned(*options.draft)};
  if (options.small != nullptr)
    models.push_back(Planned(*options.small));  // beside the pair, as if it drafted
  const int32_t n_slots = *std::max_element(std::begin(kBatches), std::end(kBatches));
  const int64_t positions = options.context + int64_t{2} * options.n_rounds * (kBatchGamma + 1);
  const PlannedRun run{.n_slots = n_slots,
                       .gamma = kBatchGamma,
                       .prefill_chunk = std::max(options.n_prefill, options.context),
                       .cache_tokens = n_slots * positions,
                       .max_context = static_cast<int32_t>(positions),
                       .on_cpu = !options.device.is_cuda()};
  return CheckFits(PlanMemory(PlannedEngine{models, run}), options.device, *free);
}

class PlantedBench {
 public:
  explicit PlantedBench(const PlantedBenchOptions& options) : options_(options) {
    result_.figures = MakeFigures(options);
    result_.formula_tokens_per_round = TokensPerRound(options.agreement, options.gamma);
    result_.date = UtcNow();
    result_.device = options.device.is_cuda() ? cuda::Describe(options.device)
                                              : absl::StrCat(CpuName(), ", ", options.n_threads, " threads");
    if (options.device.is_cuda()) options_.n_threads = 1;  // the CPU's
    executor_ = {.device = options.device, .n_threads = options_.n_threads};
  }

  PlantedBenchResult Run() {
    const int64_t begin = NowNs();
    Do("the read rate", {"read_gb_s"}, [&] { return ReadRate(); });
    Do("making the models", {"make_models_s"}, [&] { return MakeModels(); });
    if (models_.draft != nullptr) {
      Do("the target's forwards",
         {"forward_1_ms", "forward_5_ms", "verify_ratio_5", "prefill_ms", "prefill_tflop_s", "prefill_share"},
         [&] { return Target(); });
      const std::string step = absl::StrCat("step_", SizeKey(*options_.draft), "_ms");
      Do("the draft's step", {step}, [&] { return DraftStep(models_.draft, step); });
      Small();
      Do("the tail of a round", {"tail_us", "tail_law_us", "tail_judge_us", "tail_settle_us"},
         [&] { return Tail(); });
      Rounds();
      for (const int32_t batch : kBatches) Batch(batch);
    }
    for (PlantedFigure& figure : result_.figures) {
      if (!figure.value && figure.missing.empty())
        figure.missing = absl::StrCat("not run, after: ", std::string(result_.status.message()));
    }
    result_.seconds = static_cast<double>(NowNs() - begin) * 1e-9;
    return std::move(result_);
  }

 private:
  PlantedFigure& At(const std::string& key) {
    const auto found = std::find_if(result_.figures.begin(), result_.figures.end(),
                                    [&](const PlantedFigure& figure) { return figure.key == key; });
    TANDEM_CHECK(found != result_.figures.end()) << key;
    return *found;
  }
  void Set(const std::string& key, double value) {
    if (std::isfinite(value)) {
      At(key).value = value;
    } else {
      At(key).missing = "the measurement gave no number";
    }
  }
  // The floor of a time in `unit`s of a second.
  void SetFloor(const std::string& key, const ProgramWork& work, double unit) {
    if (read_rate_ > 0 && work.bytes() > 0)
      At(key).floor = static_cast<double>(work.bytes()) / read_rate_ / unit;
  }

  // One measurement, and the figures that come of it: those that it leaves without a value say why. A device that failed,
  // and whoever interrupts, ends the bench.
  template <typename F>
  bool Do(const std::string& doing, const std::vector<std::string>& keys, F measure) {
    if (!over_ && options_.interrupted && options_.interrupted()) End(absl::CancelledError("interrupted"));
    if (over_) return false;
    constexpr double kMeasurements = 14;
    if (options_.progress) options_.progress(doing, std::min(1., n_done_++ / kMeasurements));
    const absl::Status status = measure();
    if (status.ok()) return true;
    for (const std::string& key : keys) {
      if (!At(key).value) At(key).missing = std::string(status.message());
    }
    if (status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kCancelled)
      over_ = true;
    if (result_.status.ok())
      result_.status = absl::Status(status.code(), absl::StrCat(doing, ": ", status.message()));
    return false;
  }
  void End(const absl::Status& status) {
    over_ = true;
    if (result_.status.ok()) result_.status = status;
  }

  absl::Status ReadRate() {
    TANDEM_ASSIGN_OR_RETURN(read_rate_, MeasureReadRate(options_.device, options_.n_threads));
    Set("read_gb_s", read_rate_ * 1e-9);
    return absl::OkStatus();
  }

  absl::Status MakeModels() {
    const int64_t begin = NowNs();
    const uint64_t seed = options_.seed;
    models_.target_successor = PlantSuccessors(options_.target->n_vocab, seed);
    models_.draft_successor = PlantAgreement(models_.target_successor, options_.agreement, seed + 1);
    models_.target = MakePlanted(*options_.target, models_.target_successor, seed + 2, options_.device);
    models_.draft = MakePlanted(*options_.draft, models_.draft_successor, seed + 3, options_.device);
    Set("make_models_s", static_cast<double>(NowNs() - begin) * 1e-9);
    return absl::OkStatus();
  }

  ModelBenchOptions ModelOptions() const {
    return {.executor = executor_,
            .context = options_.context,
            .n_prefill = options_.n_prefill,
            .n_repetitions = options_.n_repetitions};
  }

  absl::Status Target() {
    ModelBench bench(models_.target, ModelOptions());
    TANDEM_ASSIGN_OR_RETURN(const ModelBench::Timed prefill, bench.Prefill());
    Set("prefill_ms", prefill.ms);
    Set("prefill_tflop_s", prefill.work.product_flops / prefill.ms * 1e-9);
    if (options_.device.is_cuda()) {
      Set("prefill_share", prefill.work.product_flops / (prefill.ms * 1e-3) / kDenseFlops);
    } else {
      At("prefill_share").missing = "a GPU's rate is nothing to compare a CPU with";
    }
    TANDEM_ASSIGN_OR_RETURN(const ModelBench::Timed one, bench.Forward(1));
    Set("forward_1_ms", one.ms);
    SetFloor("forward_1_ms", one.work, 1e-3);
    TANDEM_ASSIGN_OR_RETURN(const ModelBench::Timed five, bench.Forward(kVerifyRows));
    Set("forward_5_ms", five.ms);
    SetFloor("forward_5_ms", five.work, 1e-3);
    Set("verify_ratio_5", five.ms / one.ms);
    return absl::OkStatus();
  }

  absl::Status DraftStep(const std::shared_ptr<const Model>& model, const std::string& key) {
    ModelBench bench(model, ModelOptions());
    TANDEM_RETURN_IF_ERROR(bench.Prefill().status());
    TANDEM_ASSIGN_OR_RETURN(const ModelBench::Timed step, bench.DraftStep());
    Set(key, step.ms);
    SetFloor(key, step.work, 1e-3);
    return absl::OkStatus();
  }

  void Small() {
    const std::string key = SmallKey(options_);
    if (key.empty()) return;
    if (options_.small == nullptr) {
      At(key).missing = "no such shape was asked for (--small qwen3-0.6b)";
      return;
    }
    Do("the small shape's step", {key}, [&] {
      const std::vector<int32_t> successor = PlantSuccessors(options_.small->n_vocab, options_.seed);
      return DraftStep(MakePlanted(*options_.small, successor, options_.seed + 4, options_.device), key);
    });
  }

  absl::Status Tail() {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<TailBench> tail,
                            TailBench::Create({.executor = executor_,
                                               .n_vocab = options_.target->n_vocab,
                                               .gamma = kTailGamma,
                                               .rule = "opt",
                                               .sampling = {.temperature = 1},
                                               .n_repetitions = options_.n_repetitions}));
    const auto set = [&](const char* key, const std::function<void(Program&)>& add) -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const double us, tail->Us(add));
      Set(key, us);
      return absl::OkStatus();
    };
    TANDEM_RETURN_IF_ERROR(set("tail_law_us", [&](Program& program) { tail->Law(program); }));
    TANDEM_RETURN_IF_ERROR(set("tail_judge_us", [&](Program& program) { tail->Judge(program); }));
    TANDEM_RETURN_IF_ERROR(set("tail_settle_us", [&](Program& program) { tail->Settle(program); }));
    return set("tail_us", [&](Program& program) {
      tail->Law(program);
      tail->Judge(program);
      tail->Settle(program);
    });
  }

  DecodeBenchOptions DecodeOptions(int32_t gamma, int32_t n_slots, float temperature) const {
    return {.gamma = gamma,
            .n_slots = n_slots,
            .temperature = temperature,
            .context = options_.context,
            .tokens_per_round = TokensPerRound(options_.agreement, gamma),
            .n_rounds = options_.n_rounds,
            .n_repetitions = options_.n_repetitions,
            .n_threads = options_.n_threads,
            .seed = options_.seed,
            .interrupted = options_.interrupted};
  }

  absl::StatusOr<DecodeTimes> Decode(int32_t gamma, int32_t n_slots, float temperature) {
    const DecodeBenchOptions options = DecodeOptions(gamma, n_slots, temperature);
    TANDEM_ASSIGN_OR_RETURN(DecodeTimes times, MeasureDecode(models_, options));
    result_.n_compared += times.n_compared;
    result_.n_different += times.n_different;
    return times;
  }

  // Batch 1.
  void Rounds() {
    const std::string plain_key = absl::StrCat("plain_", SizeKey(*options_.target), "_tok_s");
    double plain_ms = 0;
    Do("plain decoding", {plain_key}, [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const DecodeTimes plain, Decode(0, 1, 0));
      plain_ms = plain.round_ms;
      Set(plain_key, 1e3 / plain_ms);
      if (read_rate_ > 0) At(plain_key).floor = read_rate_ / static_cast<double>(plain.work.bytes());
      return absl::OkStatus();
    });
    Do("greedy rounds", {"round_ms_greedy", "tokens_per_round", "spec_over_plain"}, [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const DecodeTimes pair, Decode(options_.gamma, 1, 0));
      Set("round_ms_greedy", pair.round_ms);
      SetFloor("round_ms_greedy", pair.work, 1e-3);
      Set("tokens_per_round", pair.tokens_per_round);
      result_.planted_tokens_per_round = pair.planted_per_round;
      if (plain_ms > 0) Set("spec_over_plain", pair.tokens_per_round / pair.round_ms * plain_ms);
      if (!options_.device.is_cuda()) {
        Set("host_gap_us", pair.idle_us);
        Set("round_busy_ms", pair.busy_ms);
      }
      return absl::OkStatus();
    });
    Do("sampled rounds", {"round_ms_sampled", "tokens_per_round_sampled"}, [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const DecodeTimes pair, Decode(options_.gamma, 1, 1));
      Set("round_ms_sampled", pair.round_ms);
      SetFloor("round_ms_sampled", pair.work, 1e-3);
      Set("tokens_per_round_sampled", pair.tokens_per_round);
      return absl::OkStatus();
    });
    if (!options_.device.is_cuda()) return;
    Do("idle between rounds", {"host_gap_us", "round_busy_ms"}, [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const DecodeTimes idle,
                              MeasureIdle(models_, DecodeOptions(options_.gamma, 1, 0)));
      Set("host_gap_us", idle.idle_us);
      Set("round_busy_ms", idle.busy_ms);
      return absl::OkStatus();
    });
  }

  void Batch(int32_t batch) {
    const std::string name = absl::StrCat("batch", batch);
    double plain = 0;
    Do(absl::StrCat("batch ", batch, ", plain"), {name + "_plain_tok_s"}, [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const DecodeTimes times, Decode(0, batch, 0));
      plain = times.tokens_per_round / times.round_ms * 1e3;
      Set(name + "_plain_tok_s", plain);
      return absl::OkStatus();
    });
    Do(absl::StrCat("batch ", batch), {name + "_tok_s", name + "_over_plain"}, [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(const DecodeTimes times, Decode(kBatchGamma, batch, 0));
      const double speculative = times.tokens_per_round / times.round_ms * 1e3;
      Set(name + "_tok_s", speculative);
      if (plain > 0) Set(name + "_over_plain", speculative / plain);
      return absl::OkStatus();
    });
  }

  PlantedBenchOptions options_;
  ExecutorOptions executor_;
  PlantedModels models_;
  PlantedBenchResult result_;
  double read_rate_ = 0;  // bytes per second
  int n_done_ = 0;
  bool over_ = false;
};

}  // namespace

std::optional<double> PlantedFigure::over_floor() const {
  if (!value || !floor) return std::nullopt;
  return is_rate ? *floor / *value : *value / *floor;
}

const PlantedFigure* PlantedBenchResult::Find(const std::string& key) const {
  for (const PlantedFigure& figure : figures) {
    if (figure.key == key) return &figure;
  }
  return nullptr;
}

absl::StatusOr<PlantedBenchResult> RunPlantedBench(const PlantedBenchOptions& options) {
  TANDEM_RETURN_IF_ERROR(CheckOptions(options));
  return PlantedBench(options).Run();
}

absl::Status ParsePlantedPair(const std::string& text, PlantedBenchOptions* options) {
  const std::vector<std::string> names = absl::StrSplit(text, '+');
  if (names.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("--planted: expected TARGET+DRAFT, as llama-8b+llama-1b, got ", text));
  }
  const PlantedShape** shapes[] = {&options->target, &options->draft};
  for (int i = 0; i < 2; ++i) {
    const absl::StatusOr<const PlantedShape*> shape = FindPlantedShape(names[i]);
    if (!shape.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--planted: ", std::string(shape.status().message())));
    }
    *shapes[i] = *shape;
  }
  if (options->target->n_vocab == options->draft->n_vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--planted ", text, ": the vocabularies have ",
                                                 options->target->n_vocab, " and ", options->draft->n_vocab,
                                                 " tokens; choose two shapes of one family"));
}

}  // namespace tandem
