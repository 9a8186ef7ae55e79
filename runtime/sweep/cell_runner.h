// CellRunner: runs cells of a sweep on one pair of models and measures them. Models are loaded once for a whole sweep;
// an engine is made once for the cells that differ in temperature or seed only.
//
// Of every cell: all items and texts in batches, for quality and counts; then some of them one at a time (batch 1),
// each in turns with the target alone and several times, for latency. One thread calls it.
#ifndef TANDEM_RUNTIME_SWEEP_CELL_RUNNER_H_
#define TANDEM_RUNTIME_SWEEP_CELL_RUNNER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/engine.h"
#include "runtime/pair.h"
#include "runtime/report.h"
#include "runtime/sweep/plan.h"
#include "runtime/sweep/text_scorer.h"

namespace tandem {

// What was measured of a cell on items, or on texts.
struct Figures {
  Measured batched;
  Measured single;         // batch 1: of every prompt the fastest of its runs
  Measured target_single;  // the target alone on the same prompts, in turns with it
};

struct Right {
  int64_t n_right = 0;
  int64_t n_items = 0;
};

struct CellResult {
  std::string guarantee;
  Figures items;
  std::map<std::string, Right> right;  // by category
  Figures texts;
  // Over the tokens of all texts' outputs: the sum of log p1, the target's law at temperature 1 with nothing cut off.
  double log_prob_sum = 0;
  int64_t n_log_probs = 0;
  std::vector<double> log_prob_of_text;  // the mean over each text's tokens
  // TV of the rule's law to the target's at some of these positions; none of a rule or drafter without a law.
  double tv_sum = 0;
  int64_t n_tv = 0;
  double elapsed_s = 0;
};

// Milliseconds from admission to the last token, prefill included, per output token; NaN of no tokens.
double LatencyPerToken(const Measured& measured);
// The same without what comes before a request's first output.
double DecodeLatencyPerToken(const Measured& measured);
// Judged positions whose token did not stay, of all that were judged after only kept ones; NaN of none.
double RejectionRate(const SpeculationCounts& counts);

class CellRunner {
 public:
  // Both outlive it. The prompts are those that a SweepPrompts selects.
  CellRunner(const Config& config, const Pair& pair, SweepPrompts prompts);

  // Requests that a cell runs, for progress.
  int64_t n_requests() const;
  // Runs a cell. kCancelled if the listener cancelled it; kInvalidArgument: a prompt, by its place; else what
  // Engine::Run fails with.
  absl::StatusOr<CellResult> Run(const Cell& cell, EngineListener* listener);

 private:
  enum Slots { kBatched, kSingle };

  absl::StatusOr<std::unique_ptr<Generator>> MakeGenerator(const Cell& cell, Slots slots) const;
  // One of the models alone: the draft if the cell says so, else the target.
  absl::StatusOr<std::unique_ptr<Engine>> MakeAlone(const Cell& cell, Slots slots) const;
  // The engines for a cell: those of the last one, if they fit.
  absl::Status PrepareEngines(const Cell& cell);
  absl::StatusOr<std::vector<RequestResult>> RunAll(Generator& engine, const std::vector<Request>& requests,
                                                    EngineListener* listener) const;
  absl::StatusOr<Figures> Measure(const Cell& cell, const std::vector<Prompt>& prompts,
                                  EngineListener* listener, std::vector<RequestResult>* results);
  absl::StatusOr<Measured> RunOne(Generator& engine, const Request& request, EngineListener* listener) const;
  absl::StatusOr<std::vector<Request>> RequestsOf(const Cell& cell, const std::vector<Prompt>& prompts) const;
  void CheckItems(const std::vector<RequestResult>& results, CellResult* result) const;
  void ScoreTexts(const Cell& cell, const std::vector<RequestResult>& results, CellResult* result);

  const Config& config_;
  const Pair& pair_;
  const SweepPrompts prompts_;
  const int32_t n_threads_;
  std::string engines_are_for_;
  std::unique_ptr<Generator> batched_, single_;
  std::unique_ptr<Engine> target_;
  std::unique_ptr<TextScorer> target_scorer_, draft_scorer_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_CELL_RUNNER_H_
