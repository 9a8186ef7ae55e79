// The bench of a planted pair: `tandem bench --planted llama-8b+llama-1b`. Two full-size models without a checkpoint
// (runtime/model/planted.h), measured through the engine: plain decoding, rounds, batches; and their parts by themselves:
// forwards, draft steps, the tail of a round, a prompt.
//
// Plain values and one call; one thread, the host.
#ifndef TANDEM_RUNTIME_PLANTED_BENCH_H_
#define TANDEM_RUNTIME_PLANTED_BENCH_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/device.h"
#include "runtime/core/status.h"
#include "runtime/model/planted.h"
#include "runtime/report_json.h"
#include "runtime/round_budget.h"

namespace tandem {

struct PlantedBenchOptions {
  const PlantedShape* target = nullptr;
  const PlantedShape* draft = nullptr;  // of the target's vocabulary
  const PlantedShape* small = nullptr;  // one more, whose step as a draft is measured; null: none
  double agreement = 0.8;  // share of the vocabulary on which the draft proposes the target's successor
  Device device;
  int32_t n_threads = 1;  // the CPU's
  int32_t gamma = 4;
  int32_t context = 1024;    // a sequence's length about the middle of what is measured
  int32_t n_prefill = 2048;  // tokens of the prompt whose time is measured
  int32_t n_rounds = 48;     // of a repetition
  int32_t n_repetitions = 7;
  uint64_t seed = 1;
  std::function<void(const std::string& doing, double done)> progress;  // done: 0 to 1; may be empty
  std::function<bool()> interrupted;                                    // asked now and then; may be empty
};

// One number, or why there is none.
struct PlantedFigure {
  std::string key;  // in JSON
  std::string unit;
  std::string about;  // one line
  std::optional<double> value;
  std::string missing;  // the reason, where there is no value
  std::optional<double>
      floor;             // the value if reading weights and cache at the read rate were all there is to it
  bool is_rate = false;  // more is better: a value over its floor is floor / value

  // How far the floor is: 1 or more, but for noise.
  std::optional<double> over_floor() const;
};

struct PlantedBenchResult {
  std::vector<PlantedFigure> figures;  // in their order, all of them
  int64_t n_compared = 0;              // greedy outputs, against the text that was planted
  int64_t n_different = 0;
  double formula_tokens_per_round = 0;  // 1 + agreement + ... + agreement^gamma
  std::optional<double>
      planted_tokens_per_round;  // along the very texts that were measured, by the two permutations
  std::string device;            // its name
  std::string date;              // UTC
  double seconds = 0;            // all of it
  absl::Status status;           // the first failure: figures behind it are missing

  const PlantedFigure* Find(const std::string& key) const;
};

// kInvalidArgument: options out of range; kUnavailable: the device; kResourceExhausted: memory, before anything is made.
// Failures behind that are in the result.
absl::StatusOr<PlantedBenchResult> RunPlantedBench(const PlantedBenchOptions& options);

// A round of 4 proposed tokens at T = 1, by its parts as they were measured by themselves; what they leave of the round's time
// is idle (on a device: between programs and kernels). Nothing if a part is missing.
std::optional<RoundBudget> BudgetOf(const PlantedBenchOptions& options, const PlantedBenchResult& result);

std::string PlantedBenchText(const PlantedBenchOptions& options, const PlantedBenchResult& result,
                             bool colour);
OrderedJson PlantedBenchJson(const PlantedBenchOptions& options, const PlantedBenchResult& result);

// "llama-8b+llama-1b". kInvalidArgument: not two known shapes, or of two vocabularies.
absl::Status ParsePlantedPair(const std::string& text, PlantedBenchOptions* options);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_PLANTED_BENCH_H_
