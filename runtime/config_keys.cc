#include "runtime/config_keys.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>

#include <charconv>
#include <cmath>
#include <limits>

#include "runtime/core/sequence.h"
#include "runtime/sweep_config.h"

namespace tandem {
namespace {

constexpr double kInt32Max = std::numeric_limits<int32_t>::max();
constexpr double kInt64Max = static_cast<double>(std::numeric_limits<int64_t>::max());

#define TANDEM_FIELD(member) [](Config& c) -> ConfigField { return &c.member; }

const ConfigKey kKeys[] = {
    {"target.model", "folder of the target's checkpoint, as Hugging Face writes it",
     TANDEM_FIELD(target.model)},
    {.path = "target.device",
     .help = "where it runs: the CPU, the first CUDA device, or one by number",
     .field = TANDEM_FIELD(target.device),
     .choices = "cpu|cuda|cuda:N"},
    {.path = "target.dtype",
     .help = "what products read: fp32, or inputs rounded to bf16 with a bf16 cache",
     .field = TANDEM_FIELD(target.dtype),
     .choices = "fp32|bf16"},

    {"draft.model", "folder of the draft's checkpoint; it shares the target's vocabulary",
     TANDEM_FIELD(draft.model)},
    {.path = "draft.device",
     .help = "where it runs; the target's device if it is left out, and no other",
     .field = TANDEM_FIELD(draft.device),
     .choices = "cpu|cuda|cuda:N"},
    {.path = "draft.dtype",
     .help = "what its products read",
     .field = TANDEM_FIELD(draft.dtype),
     .choices = "fp32|bf16"},
    {"draft.ngram.min", "prompt lookup instead of a model: shortest match of the last tokens",
     TANDEM_FIELD(ngram.min), 1, 64},
    {"draft.ngram.max", "longest match, tried first", TANDEM_FIELD(ngram.max), 1, 64},

    {"rule.name", "the rule that judges a block (tandem rules list); its parameters stand beside the name",
     TANDEM_FIELD(rule.name)},
    {.path = "rule.verification",
     .help = "judge token by token, or the block as a whole (keeps more, same law)",
     .field = TANDEM_FIELD(rule.verification),
     .choices = "token|block"},
    {.path = "rule.bonus",
     .help =
         "law of the token after a fully kept block: the target's p, or the rule's pi (one more draft pass)",
     .field = TANDEM_FIELD(rule.bonus),
     .choices = "p|pi"},
    {"require_lossless", "refuse a rule whose output law is not exactly the target's",
     TANDEM_FIELD(require_lossless)},

    {.path = "speculation.gamma",
     .help = "proposed tokens per block; 0: no speculation",
     .field = TANDEM_FIELD(speculation.gamma),
     .max = kMaxGamma - 1,
     .alias = "speculation.num_speculative_tokens"},
    {.path = "speculation.schedule",
     .help = "fixed, or heuristic: gamma is the start, +2 after a fully kept block, else -1",
     .field = TANDEM_FIELD(speculation.schedule),
     .choices = "fixed|heuristic"},
    {"speculation.draft_confidence_min",
     "stop drafting after a token whose draft probability is under it; 0: never",
     TANDEM_FIELD(speculation.draft_confidence_min), 0, 1},

    {.path = "cascade.mode",
     .help =
         "a cascade without speculation. token: the draft writes, and the target is called for the tokens "
         "that the draft defers; query: whole answers of the draft are kept, or redone by the target",
     .field = TANDEM_FIELD(cascade.mode),
     .choices = "none|token|query"},
    {"cascade.rule",
     "mode token: the rule that says where the draft defers, one that looks at the draft's law alone; its "
     "parameters stand beside it",
     TANDEM_FIELD(cascade.rule)},
    {.path = "cascade.score",
     .help = "mode query: of the log-probabilities that the draft gave its answer's tokens at temperature 1",
     .field = TANDEM_FIELD(cascade.score),
     .choices = "mean|sum|quantile"},
    {"cascade.quantile", "score quantile: which; 0: the least sure token, 0.5: the median",
     TANDEM_FIELD(cascade.quantile), 0, 1},
    {"cascade.threshold",
     "mode query: answers whose score, which is never over 0, is under it are redone. Required there",
     TANDEM_FIELD(cascade.threshold), -1e9, 1},

    {"sampling.temperature", "0: greedy", TANDEM_FIELD(sampling.temperature), 0, 100},
    {"sampling.top_k", "keep the k likeliest tokens; 0: all", TANDEM_FIELD(sampling.top_k), 0, kInt32Max},
    {"sampling.top_p", "keep the likeliest tokens that hold this much probability; 1: all",
     TANDEM_FIELD(sampling.top_p), 0, 1, true},
    {"sampling.min_p", "keep tokens at least this likely relative to the likeliest; 0: all",
     TANDEM_FIELD(sampling.min_p), 0, 1},
    {"sampling.seed", "key of all random numbers: same request, seed and configuration, same tokens",
     TANDEM_FIELD(sampling.seed)},
    {"sampling.max_new_tokens", "longest output of a request", TANDEM_FIELD(sampling.max_new_tokens), 1,
     kInt32Max},
    {"sampling.stop", "texts that end the output and are not part of it", TANDEM_FIELD(sampling.stop)},
    {.path = "sampling.stop_token_ids",
     .help = "token ids that end the output, besides the end of text",
     .field = TANDEM_FIELD(sampling.stop_token_ids),
     .max = kInt32Max,
     .choices = "token id"},
    {"sampling.ignore_eos", "go on after the end of text", TANDEM_FIELD(sampling.ignore_eos)},

    {"cache.page_size", "positions per page of the KV caches", TANDEM_FIELD(cache.page_size), 1, 65536},
    {"cache.tokens",
     "positions that each cache holds; 0: enough for every sequence of the batch. With fewer, some may be "
     "preempted",
     TANDEM_FIELD(cache.tokens), 0, 1 << 30},
    {"cache.max_context", "longest sequence, prompt included; 0: what the models allow",
     TANDEM_FIELD(cache.max_context), 0, kInt32Max},

    {"execution.batch", "sequences that run at once", TANDEM_FIELD(execution.batch), 1, 1024},
    {"execution.threads", "CPU threads; 0: as many as the machine has", TANDEM_FIELD(execution.threads), 0,
     1024},
    {.path = "execution.streams",
     .help = "inline: one thread after the other; threaded: draft and target on their own threads",
     .field = TANDEM_FIELD(execution.streams),
     .choices = "inline|threaded"},
    {"execution.prefill_chunk", "prompt tokens computed in one forward",
     TANDEM_FIELD(execution.prefill_chunk), 1, 65536},
    {"execution.rounds_ahead", "rounds queued beyond the one that is waited for",
     TANDEM_FIELD(execution.rounds_ahead), 0, 8},
    {"execution.check_steps", "CUDA: wait for every step, so that an error names the one that failed (slow)",
     TANDEM_FIELD(execution.check_steps)},
    {"execution.stream_kernels",
     "CUDA, sm_90 and later: a decode forward as one kernel; the same output either way",
     TANDEM_FIELD(execution.stream_kernels)},

    {"prompts",
     "a text, a list of texts, of lists of token ids or of maps (prompt or prompt_token_ids; id, category, "
     "max_new_tokens, seed), or {file: FILE.jsonl}",
     TANDEM_FIELD(prompts)},

    {"report.text", "print the report after the text", TANDEM_FIELD(report.text)},
    {.path = "report.json",
     .help = "write requests, tokens and metrics to this file",
     .field = TANDEM_FIELD(report.json),
     .choices = "none"},

    {.path = "sweep.preset",
     .help =
         "what `tandem sweep` runs where the keys below do not say: quick takes minutes on the demo pair, "
         "standard about an hour, full hours. The defaults shown are those of quick",
     .field = TANDEM_FIELD(sweep.preset),
     .choices = "quick|standard|full"},
    {"sweep.items",
     "prompts with answers (prompts.h: answer, check), as in `prompts`: quality is exact match",
     TANDEM_FIELD(sweep.items)},
    {"sweep.texts", "prompts without: quality is the target's log-probability of what is written",
     TANDEM_FIELD(sweep.texts)},
    {"sweep.rules",
     "rules, each a curve: a name, or {name: token_v3, alpha: [0.3, 0.7]} with values to try instead of "
     "those that tandem rules info suggests",
     TANDEM_FIELD(sweep.rules)},
    {"sweep.min_p",
     "lossless speculation with both laws cut off at these sampling.min_p (T > 0): what rules that truncate "
     "are compared with",
     TANDEM_FIELD(sweep.min_p), 0, 1},
    {"sweep.token_cascade",
     "token-level cascades without speculation, by Chow's rule with these alphas: the target is called for "
     "the "
     "tokens that the draft defers",
     TANDEM_FIELD(sweep.token_cascade), 0, 1},
    {"sweep.query_cascade",
     "query-level cascades: the draft's answers whose mean log-probability per token is under these "
     "thresholds "
     "are redone by the target",
     TANDEM_FIELD(sweep.query_cascade), -1e9, 1},
    {"sweep.temperatures", "each is a set of charts", TANDEM_FIELD(sweep.temperatures), 0, 100},
    {"sweep.gammas", "each is a set of charts", TANDEM_FIELD(sweep.gammas), 1, kMaxGamma - 1},
    {"sweep.seeds", "repetitions of every cell with T > 0", TANDEM_FIELD(sweep.seeds), 0, kInt32Max},
    {"sweep.items_per_category", "the first items of each category; 0: all",
     TANDEM_FIELD(sweep.items_per_category), 0, kInt32Max},
    {"sweep.max_texts", "the first texts; 0: all", TANDEM_FIELD(sweep.max_texts), 0, kInt32Max},
    {"sweep.text_tokens", "longest output of a text", TANDEM_FIELD(sweep.text_tokens), 1, kInt32Max},
    {"sweep.latency_per_category",
     "of each category, the prompts that run alone (batch 1), in turns with the target alone, for the "
     "relative latency",
     TANDEM_FIELD(sweep.latency_per_category), 1, kInt32Max},
    {"sweep.latency_repetitions", "times that each of them runs; the fastest counts, on either side",
     TANDEM_FIELD(sweep.latency_repetitions), 1, 1000},
    {"sweep.tv_positions", "positions of the texts' outputs at which the rule's law is compared; 0: none",
     TANDEM_FIELD(sweep.tv_positions), 0, kInt32Max},
    {"sweep.batch", "sequences that run at once where quality is measured", TANDEM_FIELD(sweep.batch), 1,
     1024},
};

#undef TANDEM_FIELD

std::string RangeText(const ConfigKey& key, double type_max) {
  const std::string min = ShortestNumber(key.min);
  if (key.max == 0 || key.max >= type_max)
    return absl::StrCat(key.above_min ? ", over " : ", at least ", min);
  if (key.above_min) return absl::StrCat(" over ", min, " and up to ", ShortestNumber(key.max));
  return absl::StrCat(" from ", min, " to ", ShortestNumber(key.max));
}

struct ExpectationOf {
  const ConfigKey& key;

  std::string operator()(bool*) const { return "true or false"; }
  std::string operator()(int32_t*) const { return absl::StrCat("a whole number", RangeText(key, kInt32Max)); }
  std::string operator()(int64_t*) const { return absl::StrCat("a whole number", RangeText(key, kInt64Max)); }
  std::string operator()(uint64_t*) const { return "a whole number from 0 to 2^64 - 1"; }
  std::string operator()(double*) const { return absl::StrCat("a number", RangeText(key, HUGE_VAL)); }
  std::string operator()(std::string*) const {
    return *key.choices == 0 ? "a text" : absl::StrReplaceAll(key.choices, {{"|", " or "}});
  }
  std::string operator()(Path*) const { return *key.choices != 0 ? "a path or none" : "a path"; }
  std::string operator()(std::vector<std::string>*) const { return "a list of texts"; }
  std::string operator()(std::vector<int32_t>*) const {
    if (*key.choices != 0) return absl::StrCat("a list of ", key.choices, "s");
    return absl::StrCat("a list of whole numbers", RangeText(key, kInt32Max));
  }
  std::string operator()(std::vector<double>*) const {
    return absl::StrCat("a list of numbers", RangeText(key, HUGE_VAL));
  }
  std::string operator()(std::vector<RuleGrid>*) const { return "a list of rules"; }
  std::string operator()(PromptConfig*) const { return "a text, a list of prompts, or {file: FILE.jsonl}"; }
};

std::string Flow(const std::vector<std::string>& items) {
  return absl::StrCat("[", absl::StrJoin(items, ", "), "]");
}

struct ValueText {
  std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
  std::string operator()(const int32_t* value) const { return absl::StrCat(*value); }
  std::string operator()(const int64_t* value) const { return absl::StrCat(*value); }
  std::string operator()(const uint64_t* value) const { return absl::StrCat(*value); }
  std::string operator()(const double* value) const { return ShortestNumber(*value); }
  std::string operator()(const std::string* value) const { return YamlText(*value); }
  std::string operator()(const Path* value) const {
    return value->text.empty() ? "none" : YamlText(value->text);
  }
  std::string operator()(const std::vector<std::string>* value) const {
    std::vector<std::string> items;
    for (const std::string& item : *value) items.push_back(YamlText(item));
    return Flow(items);
  }
  std::string operator()(const std::vector<int32_t>* value) const {
    return absl::StrCat("[", absl::StrJoin(*value, ", "), "]");
  }
  std::string operator()(const std::vector<double>* value) const {
    std::vector<std::string> items;
    for (const double item : *value) items.push_back(ShortestNumber(item));
    return Flow(items);
  }
  std::string operator()(const std::vector<RuleGrid>* value) const {
    std::vector<std::string> items;
    for (const RuleGrid& item : *value) items.push_back(YamlValue(item));
    return Flow(items);
  }
  std::string operator()(const PromptConfig* value) const {
    if (!value->file.text.empty()) return absl::StrCat("{file: ", YamlText(value->file.text), "}");
    std::vector<std::string> items;
    for (const Prompt& prompt : value->prompts) items.push_back(YamlValue(prompt));
    return Flow(items);
  }
};

}  // namespace

std::span<const ConfigKey> ConfigKeys() { return kKeys; }

const ConfigKey* FindConfigKey(std::string_view path) {
  for (const ConfigKey& key : kKeys) {
    if (key.path == path || (*key.alias != 0 && key.alias == path)) return &key;
  }
  return nullptr;
}

std::vector<std::string> KeyNamesIn(const std::string& section) {
  std::vector<std::string> names;
  const std::string start = section.empty() ? "" : section + ".";
  for (const ConfigKey& key : ConfigKeys()) {
    for (const std::string path : {key.path, key.alias}) {
      if (path.size() <= start.size() || !absl::StartsWith(path, start)) continue;
      const std::string name = path.substr(start.size(), path.find('.', start.size()) - start.size());
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return names;
}

bool IsInUse(const ConfigKey& key, const Config& config) {
  if (absl::StartsWith(key.path, "draft.ngram.")) return config.draft_kind == DraftKind::kNgram;
  if (absl::StartsWith(key.path, "sweep.")) return HasSweep(config);
  if (absl::StartsWith(key.path, "draft.")) return config.draft_kind == DraftKind::kModel;
  const CascadeConfig& cascade = config.cascade;
  const std::string_view path = key.path;
  if (absl::StartsWith(key.path, "rule.") || absl::StartsWith(key.path, "speculation."))
    return !cascade.is_token();
  if (path == "cascade.rule") return cascade.is_token();
  if (path == "cascade.score" || path == "cascade.threshold") return cascade.is_query();
  if (path == "cascade.quantile") return cascade.is_query() && cascade.score == "quantile";
  return true;
}

const std::map<std::string, RuleParameter>* ParametersAfter(const ConfigKey& key, const Config& config) {
  const std::string_view path = key.path;
  return path == "rule.bonus"     ? &config.rule.parameters
         : path == "cascade.rule" ? &config.cascade.parameters
                                  : nullptr;
}

std::string Expectation(const ConfigKey& key) {
  Config config;
  return std::visit(ExpectationOf{key}, key.field(config));
}

std::string YamlValue(const ConfigKey& key, const Config& config) {
  // The table's accessor serves readers and writers; nothing is written here.
  return std::visit(ValueText{}, key.field(const_cast<Config&>(config)));
}

std::string YamlValue(const Prompt& prompt) {
  std::vector<std::string> fields;
  fields.push_back(absl::StrCat("id: ", YamlText(prompt.id)));
  if (!prompt.category.empty()) fields.push_back(absl::StrCat("category: ", YamlText(prompt.category)));
  if (prompt.max_new_tokens) fields.push_back(absl::StrCat("max_new_tokens: ", *prompt.max_new_tokens));
  if (prompt.seed) fields.push_back(absl::StrCat("seed: ", *prompt.seed));
  if (prompt.answer) {
    fields.push_back(absl::StrCat("answer: ", YamlText(*prompt.answer)));
    const std::string mark =
        prompt.check.mark.empty() ? "" : absl::StrCat(", mark: ", YamlText(prompt.check.mark));
    fields.push_back(absl::StrCat("check: {kind: ", Name(prompt.check.kind), mark, "}"));
  }
  fields.push_back(prompt.text
                       ? absl::StrCat("prompt: ", YamlText(*prompt.text))
                       : absl::StrCat("prompt_token_ids: [", absl::StrJoin(*prompt.token_ids, ", "), "]"));
  return absl::StrCat("{", absl::StrJoin(fields, ", "), "}");
}

std::string YamlText(std::string_view text) {
  static constexpr std::string_view kWords[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '/';
  };
  bool plain = !text.empty() && is_letter(text[0]);
  for (const char c : text) plain = plain && (is_letter(c) || (c >= '0' && c <= '9') || c == '.' || c == '-');
  for (const std::string_view word : kWords) {
    plain =
        plain && !(text.size() == word.size() && std::equal(text.begin(), text.end(), word.begin(),
                                                            [](char a, char b) { return (a | 32) == b; }));
  }
  if (plain) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < ' ' || c == 127) {
          absl::StrAppend(&out, "\\x", absl::Hex(c, absl::kZeroPad2));
        } else {
          out += c;
        }
    }
  }
  return out + '"';
}

std::string ShortestNumber(double value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

double ShortestDecimal(float value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, value);
  double decimal = value;
  std::from_chars(text, end.ptr, decimal);
  return decimal;
}

}  // namespace tandem
