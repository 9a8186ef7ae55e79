#include "runtime/decode_bench.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/hash_chain/hash_chain.h"
#include "policies/policy.h"
#include "runtime/device_clock.h"
#include "runtime/scheduler.h"

namespace tandem {
namespace {

constexpr int32_t kWarmUp = 4;  // rounds of every run that do not count

// How the rounds of a measurement lie in its runs.
struct Layout {
  int32_t n_runs;     // the first one warms up, if there are several
  int32_t n_windows;  // repetitions in a run
  int32_t n_rounds;   // of a window

  int32_t rounds_of_run() const { return kWarmUp + n_windows * n_rounds; }
};

Layout LayoutOf(const DecodeBenchOptions& options) {
  if (options.n_slots == 1) return {options.n_repetitions + 1, 1, options.n_rounds};
  return {1, options.n_repetitions, std::max(2, options.n_rounds / 4)};
}

// A run's rounds, seen from the host: after how long each was read, and what it brought.
class RoundClock : public EngineListener {
 public:
  struct Mark {
    int64_t time_ns;
    int64_t n_tokens;  // so far
    int64_t step_ns;   // so far, of all phases
  };

  RoundClock(const Engine& engine, int32_t n_rounds, const std::function<bool()>& interrupted)
      : engine_(engine), n_rounds_(n_rounds), interrupted_(interrupted) {
    marks_.reserve(static_cast<size_t>(n_rounds) + 1);
  }
  void OnTokens(const Request&, std::span<const int32_t> tokens, std::span<const Origin>,
                std::string_view) override {
    n_tokens_ += static_cast<int64_t>(tokens.size());
  }
  bool Cancelled() override {
    int64_t step_ns = 0;
    for (const int64_t ns : engine_.times().ns) step_ns += ns;
    marks_.push_back({NowNs(), n_tokens_, step_ns});
    was_interrupted_ = interrupted_ && interrupted_();
    return was_interrupted_ || static_cast<int32_t>(marks_.size()) > n_rounds_;
  }

  // marks()[i]: after round i + 1.
  const std::vector<Mark>& marks() const { return marks_; }
  bool was_interrupted() const { return was_interrupted_; }

 private:
  const Engine& engine_;
  const int32_t n_rounds_;
  const std::function<bool()>& interrupted_;
  std::vector<Mark> marks_;
  int64_t n_tokens_ = 0;
  bool was_interrupted_ = false;
};

// Tokens of each of the first rounds behind `token`, by the permutations.
std::vector<int32_t> PlantedRounds(const PlantedModels& models, int32_t token, int32_t gamma, int32_t n) {
  std::vector<int32_t> rounds;
  for (int32_t r = 0; r < n; ++r) {
    int32_t kept = 0;
    for (; kept < gamma && models.draft_successor[token] == models.target_successor[token]; ++kept)
      token = models.target_successor[token];
    token = models.target_successor[token];
    rounds.push_back(kept + 1);
  }
  return rounds;
}

bool IsPlanted(const PlantedModels& models, const RequestResult& result) {
  int32_t token = result.request.prompt.back();
  return std::all_of(result.token_ids.begin(), result.token_ids.end(),
                     [&](int32_t next) { return next == (token = models.target_successor[token]); });
}

// An engine and prompts for it.
class Decode {
 public:
  static absl::StatusOr<std::unique_ptr<Decode>> Create(const PlantedModels& models,
                                                        const DecodeBenchOptions& options, int32_t n_rounds,
                                                        int32_t rounds_ahead) {
    std::unique_ptr<Decode> decode(new Decode(models, options, n_rounds));
    TANDEM_RETURN_IF_ERROR(decode->MakeEngine(rounds_ahead));
    return decode;
  }

  // One prompt for every slot.
  absl::Status Submit(int32_t run) {
    for (int32_t slot = 0; slot < options_.n_slots; ++slot) {
      Request request{.id = absl::StrCat(run, ".", slot), .max_new_tokens = n_new_};
      request.sampling.temperature = options_.temperature;
      request.seed = options_.seed;
      uint64_t hash = HashMix(options_.seed, static_cast<uint64_t>(run) << 32 | static_cast<uint64_t>(slot));
      for (int32_t i = 0; i < n_prompt_; ++i) {
        hash = HashMix(hash, static_cast<uint64_t>(i));
        request.prompt.push_back(static_cast<int32_t>(hash % models_.target_successor.size()));
      }
      TANDEM_RETURN_IF_ERROR(engine_->Submit(std::move(request)));
    }
    return absl::OkStatus();
  }

  Engine& engine() { return *engine_; }

 private:
  Decode(const PlantedModels& models, const DecodeBenchOptions& options, int32_t n_rounds)
      : models_(models), options_(options) {
    // As many as the rounds can bring, those queued ahead too.
    n_new_ = (n_rounds + 4) * (options.gamma + 1) + 1;
    const double to_come = n_rounds * options.tokens_per_round;
    n_prompt_ = std::max(1, options.context - static_cast<int32_t>(std::lround(to_come / 2)));
  }

  absl::Status MakeEngine(int32_t rounds_ahead) {
    EngineOptions engine{.n_slots = options_.n_slots,
                         .gamma = options_.gamma,
                         .max_context = n_prompt_ + n_new_,
                         .prefill_chunk = std::min(options_.prefill_chunk, n_prompt_),
                         .rounds_ahead = rounds_ahead,
                         .n_threads = options_.n_threads};
    engine.cache_tokens = int64_t{options_.n_slots} *
                          ((engine.max_context + engine.page_size - 1) / engine.page_size * engine.page_size);
    PairSpec pair{.target = {models_.target, ActivationDType::kBf16, "the planted target"}};
    if (options_.gamma > 0)
      pair.draft = ModelSpec{models_.draft, ActivationDType::kBf16, "the planted draft"};
    TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Policy> policy, Policy::Create(PolicyOptions{}, true));
    TANDEM_ASSIGN_OR_RETURN(engine_, Engine::Create(engine, std::move(pair), std::move(policy)));
    return absl::OkStatus();
  }

  const PlantedModels& models_;
  const DecodeBenchOptions& options_;
  int32_t n_new_, n_prompt_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

absl::StatusOr<DecodeTimes> MeasureDecode(const PlantedModels& models, const DecodeBenchOptions& options) {
  const Layout layout = LayoutOf(options);
  const int32_t n_rounds = layout.rounds_of_run();
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Decode> decode,
                          Decode::Create(models, options, n_rounds, EngineOptions().rounds_ahead));
  Engine& engine = decode->engine();
  DecodeTimes times;
  times.work = WorkOf(engine.round(), int64_t{options.n_slots} * options.context);
  std::vector<double> round_ms;
  int64_t n_measured = 0, n_tokens = 0, n_planted = 0, idle_ns = 0;
  for (int32_t run = 0; run < layout.n_runs; ++run) {
    TANDEM_RETURN_IF_ERROR(decode->Submit(run));
    RoundClock clock(engine, n_rounds, options.interrupted);
    std::vector<RequestResult> results;
    TANDEM_RETURN_IF_ERROR(engine.Run(&clock, &results));
    if (clock.was_interrupted()) return absl::CancelledError("interrupted");
    const std::vector<RoundClock::Mark>& marks = clock.marks();
    if (static_cast<int32_t>(marks.size()) <= n_rounds) {
      return absl::FailedPreconditionError(
          absl::StrCat("a run ended after ", marks.size(), " of ", n_rounds + 1, " rounds"));
    }
    if (options.temperature == 0) {
      for (const RequestResult& result : results) {
        ++times.n_compared;
        times.n_different += !IsPlanted(models, result);
      }
    }
    if (run == 0 && layout.n_runs > 1) continue;
    for (int32_t window = 0; window < layout.n_windows; ++window) {
      const RoundClock::Mark& begin = marks[kWarmUp + window * layout.n_rounds];
      const RoundClock::Mark& end = marks[kWarmUp + (window + 1) * layout.n_rounds];
      round_ms.push_back(static_cast<double>(end.time_ns - begin.time_ns) * 1e-6 / layout.n_rounds);
      n_measured += layout.n_rounds;
      n_tokens += end.n_tokens - begin.n_tokens;
      idle_ns += end.time_ns - begin.time_ns - (end.step_ns - begin.step_ns);
    }
    for (const RequestResult& result : results) {
      const auto planted = PlantedRounds(models, result.request.prompt.back(), options.gamma, n_rounds + 1);
      for (int32_t r = kWarmUp + 1; r <= n_rounds; ++r) n_planted += planted[r];
    }
  }
  times.round_ms = MedianOf(std::move(round_ms));
  times.tokens_per_round = static_cast<double>(n_tokens) / static_cast<double>(n_measured);
  times.planted_per_round = static_cast<double>(n_planted) / static_cast<double>(n_measured);
  times.idle_us = static_cast<double>(idle_ns) * 1e-3 / static_cast<double>(n_measured);
  times.n_idle = n_measured;
  times.busy_ms = times.round_ms - times.idle_us * 1e-3;
  return times;
}

absl::StatusOr<DecodeTimes> MeasureIdle(const PlantedModels& models, const DecodeBenchOptions& options) {
  const Device device = models.target->device();
  const int32_t n_rounds = kWarmUp + 2 * options.n_rounds;
  // The engine admits a sequence and runs one round; the rounds behind it run here, with stamps.
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Decode> decode,
                          Decode::Create(models, options, n_rounds, /*rounds_ahead=*/0));
  TANDEM_RETURN_IF_ERROR(decode->Submit(0));
  EngineListener silent;
  TANDEM_RETURN_IF_ERROR(decode->engine().Step(&silent));

  DeviceClock clock(device);
  Program stamped;
  clock.Around(decode->engine().round(), &stamped);
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor, NewExecutor({.device = device}));
  TANDEM_RETURN_IF_ERROR(executor->Prepare(stamped));
  for (int32_t i = 0; i < n_rounds; ++i) {
    executor->Enqueue(stamped);
    TANDEM_RETURN_IF_ERROR(executor->WaitFor(1));
  }
  TANDEM_RETURN_IF_ERROR(executor->WaitFor(0));
  const DeviceClock::Times stamps = clock.Read();
  if (stamps.n_rounds == 0)
    return absl::FailedPreconditionError(
        "the stamps of the device's clock around the rounds are out of order");
  DecodeTimes times;
  times.idle_us = stamps.idle_us;
  times.n_idle = stamps.n_rounds;
  times.busy_ms = stamps.round_ms;
  return times;
}

}  // namespace tandem
