// Config: everything that a run is told, resolved: the YAML file, what --set and other flags replace in it,
// what the target's generation_config.json says, and the defaults. Plain values; no thread owns them.
//
// One table (config_keys.h) drives parsing, defaults, printing and the reference that `tandem help config`
// shows. The default of a key is the initial value of its member here.
#ifndef TANDEM_RUNTIME_CONFIG_H_
#define TANDEM_RUNTIME_CONFIG_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/prompts.h"
#include "runtime/yaml_reader.h"

namespace tandem {

// A file or folder; a relative one in a YAML file is taken from that file's folder, one in a flag from the
// current one.
struct Path {
  std::string text;   // absolute once resolved; empty: none
  std::string given;  // as the configuration or the flag says it
};

struct ModelChoice {
  Path model;
  std::string device = "cpu";
  std::string dtype = "fp32";
};

enum class DraftKind { kNone, kModel, kNgram };

struct NgramConfig {
  int32_t min = 2;
  int32_t max = 5;
};

struct RuleParameter {
  double value = 0;  // NaN: what was written is no number
  Where where;
  std::string written;
};

struct RuleConfig {
  std::string name = "lossless";
  std::string verification = "token";
  std::string bonus = "p";
  std::map<std::string, RuleParameter> parameters;  // those written
};

// Cascades without speculation (runtime/cascade).
struct CascadeConfig {
  std::string mode = "none";
  std::string rule = "chow";                        // token
  std::map<std::string, RuleParameter> parameters;  // of that rule; those written
  std::string score = "mean";                       // query
  double quantile = 0.1;
  double threshold = 0;

  bool is_token() const { return mode == "token"; }
  bool is_query() const { return mode == "query"; }
};

struct SpeculationConfig {
  int32_t gamma = 5;
  std::string schedule = "fixed";
  double draft_confidence_min = 0;
};

struct SamplingConfig {
  double temperature = 0;
  int32_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  uint64_t seed = 0;
  int32_t max_new_tokens = 128;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
};

struct CacheConfig {
  int32_t page_size = 16;
  int64_t tokens = 0;
  int32_t max_context = 0;
};

struct ExecutionConfig {
  int32_t batch = 1;
  int32_t threads = 0;
  std::string streams = "inline";
  int32_t prefill_chunk = 128;
  int32_t rounds_ahead = 1;
  bool check_steps = false;
  bool stream_kernels = true;
};

struct PromptConfig {
  std::vector<Prompt> prompts;
  Path file;  // where they were read from, if from a file
};

struct ReportConfig {
  Path json;
  bool text = true;
};

// An entry of sweep.rules: a rule, and the values of its parameters that are tried, in every combination.
struct RuleGrid {
  std::string name;
  // As written; none: DefaultGrid (sweep_config.h).
  std::vector<std::pair<std::string, std::vector<double>>> parameters;
  std::string verification = "token";
  std::string bonus = "p";
  Where where;
};

// What `tandem sweep` varies and runs. The initial values are those of the preset `quick`.
struct SweepConfig {
  SweepConfig();

  std::string preset = "quick";
  PromptConfig items;  // with answers
  PromptConfig texts;  // without
  std::vector<RuleGrid> rules;
  std::vector<double> min_p = {0.9, 0.5, 0.1};
  std::vector<double> token_cascade = {0.1, 0.5, 0.9};      // alphas of chow
  std::vector<double> query_cascade = {-0.3, -0.1, -0.03};  // thresholds of the mean log-probability
  std::vector<double> temperatures = {0, 1};
  std::vector<int32_t> gammas = {5};
  std::vector<int32_t> seeds = {1};
  int32_t items_per_category = 12;
  int32_t max_texts = 12;
  int32_t text_tokens = 48;
  int32_t latency_per_category = 1;
  int32_t latency_repetitions = 3;
  int32_t tv_positions = 64;
  int32_t batch = 32;
};

struct Config {
  Path file;
  ModelChoice target;
  DraftKind draft_kind = DraftKind::kNone;
  ModelChoice draft;
  NgramConfig ngram;
  RuleConfig rule;
  bool require_lossless = false;
  SpeculationConfig speculation;
  CascadeConfig cascade;
  SamplingConfig sampling;
  CacheConfig cache;
  ExecutionConfig execution;
  PromptConfig prompts;
  ReportConfig report;
  SweepConfig sweep;

  // Where each key that is not at its default came from, by its path in the table.
  std::map<std::string, Where> origins;
};

// A flag that replaces a key: `path` as in --set, `value` as YAML, or as a text that is not parsed.
struct Override {
  std::string path;
  std::string value;
  bool is_text = false;
  std::string flag;  // as the user gave it, for errors and `config print`
};

// "a.b=c" of a --set. kInvalidArgument if it has no key or no value.
absl::StatusOr<Override> ParseSet(std::string_view argument);

// Reads and resolves. A --set replaces what the file says at its key, a whole section if the key names one.
// Every complaint about every key at once, as kInvalidArgument; kNotFound if the file is not there. Reads the
// prompts' file too, and nothing else: no model.
absl::StatusOr<Config> LoadConfig(const std::string& file, const std::vector<Override>& overrides);
// The same of a text; `file` names it.
absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& file,
                                   const std::vector<Override>& overrides);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CONFIG_H_
