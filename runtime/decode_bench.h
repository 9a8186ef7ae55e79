// DecodeBench: the rounds of an engine, timed as its caller sees them, and checked: greedy text is what was planted.
//
// One thread, the host.
#ifndef TANDEM_RUNTIME_DECODE_BENCH_H_
#define TANDEM_RUNTIME_DECODE_BENCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/engine.h"
#include "runtime/model/model.h"
#include "runtime/program_timer.h"

namespace tandem {

// A planted pair at work.
struct PlantedModels {
  std::shared_ptr<const Model> target, draft;
  std::vector<int32_t> target_successor, draft_successor;
};

struct DecodeBenchOptions {
  int32_t gamma = 0;  // 0: the target alone
  int32_t n_slots = 1;
  float temperature = 0;
  int32_t context = 1024;
  double tokens_per_round = 1;  // to expect of one sequence: the prompt is shorter by half of what will come
  int32_t n_rounds = 48;        // of a repetition
  int32_t n_repetitions = 5;
  int32_t prefill_chunk = 1024;
  int32_t n_threads = 1;
  uint64_t seed = 1;
  std::function<bool()> interrupted;  // may be empty
};

struct DecodeTimes {
  double round_ms = 0;                      // the median of the repetitions' means
  double tokens_per_round = 0;              // of all sequences together, over all repetitions
  double planted_per_round = 0;             // the same by the permutations alone; greedy runs only
  ProgramWork work;                         // of a round
  int64_t n_compared = 0, n_different = 0;  // greedy outputs against the planted text
  // Nothing runs for this long between two rounds, of how many rounds that is the mean, and a round's time without it. On
  // the CPU, where the executor books the time of every step, it is what is left; on a device see MeasureIdle.
  double idle_us = 0;
  int64_t n_idle = 0;
  double busy_ms = 0;
};

// Runs an engine over prompts of random tokens until every repetition has had its rounds. One sequence: a run of it for
// each repetition, with another prompt, and one more to warm up. Several: one run, cut into repetitions, all of the slots
// at work in every round that counts. kCancelled: interrupted.
absl::StatusOr<DecodeTimes> MeasureDecode(const PlantedModels& models, const DecodeBenchOptions& options);

// What a CUDA device idles between two rounds of one sequence, by stamps of its own clock, with one round queued ahead as the
// engine does: idle_us, n_idle and busy_ms, no other. kFailedPrecondition: the stamps make no sense.
// REQUIRES: the models are on a CUDA device.
absl::StatusOr<DecodeTimes> MeasureIdle(const PlantedModels& models, const DecodeBenchOptions& options);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_DECODE_BENCH_H_
