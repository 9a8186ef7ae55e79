// A sweep's plan: the grid of a configuration as a list of cells, and what each of them is known by.
//
// A cell is a configuration: the file's, with some keys replaced, exactly as `tandem run FILE --set ...` would do it.
// Plain values; no thread owns them.
#ifndef TANDEM_RUNTIME_SWEEP_PLAN_H_
#define TANDEM_RUNTIME_SWEEP_PLAN_H_

#include <optional>
#include <string>
#include <vector>

#include "runtime/config.h"
#include "runtime/core/status.h"

namespace tandem {

enum class CellKind {
  kPair,         // as its configuration says
  kTargetAlone,  // no draft
  kDraftAlone,   // the draft in the target's place
};

struct Cell {
  CellKind kind = CellKind::kPair;
  std::string series;           // the curve it belongs to: "token_v3", "target alone"
  std::string label;            // "token_v3 alpha=0.3"
  std::string parameter;        // that moves along the curve; empty: a single mark
  std::optional<double> value;  // of it
  double temperature = 0;
  int32_t gamma = 0;  // 0 where nothing is proposed
  int32_t seed = 0;   // 0 at T = 0, where nothing depends on it
  std::vector<Override> overrides;
  Config config;    // resolved; without prompts
  std::string key;  // set by NameCells
};

// Series that are marks of their own in every chart.
inline constexpr const char* kTargetAlone = "target alone";
inline constexpr const char* kDraftAlone = "draft alone";
inline constexpr const char* kLossless = "lossless";
inline constexpr const char* kTruncated = "lossless, min-p";
inline constexpr const char* kTokenCascade = "token cascade";  // Chow's rule, no speculation
inline constexpr const char* kQueryCascade = "query cascade";  // by the mean log-probability of an answer

// The cells of `config`, which LoadConfig(config.file, overrides) gave, in the order in which they run: those that can
// share an engine stand together. kInvalidArgument: everything that is wrong with the grid or a cell, by its place.
//
// Left out, since it would be the same again: seeds at T = 0; all but one value of a rule that judges as `lossless`
// does at T = 0; min_p at T = 0.
absl::StatusOr<std::vector<Cell>> PlanSweep(const Config& config, const std::vector<Override>& overrides);

// The items and texts of a sweep after sweep.items_per_category and sweep.max_texts.
struct SweepPrompts {
  std::vector<Prompt> items;
  std::vector<Prompt> texts;
};
// kInvalidArgument: no prompts at all; an item without an answer, or with one that no output could give; a prompt with
// a seed of its own.
absl::StatusOr<SweepPrompts> SelectPrompts(const Config& config);

// The first `n` prompts of each category (0: all), in their order.
std::vector<Prompt> FirstOfEachCategory(const std::vector<Prompt>& prompts, int32_t n);

// What else the figures of a cell depend on: the models' files, the prompts, this program, the machine.
struct SweepContext {
  std::string models;  // FingerprintModel of both
  SweepPrompts prompts;
  std::string machine;
  SweepConfig settings;  // of these, how latency and TV are measured
};
// A checkpoint's identity: names and sizes of its files, and a hash of their first and last 64 KiB. kNotFound.
absl::StatusOr<std::string> FingerprintModel(const std::string& folder);

// Sets the key of every cell: 16 hexadecimal digits, a hash of all that its figures depend on, so that a figure is
// measured once and never taken for another.
void NameCells(const SweepContext& context, std::vector<Cell>* cells);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_PLAN_H_
