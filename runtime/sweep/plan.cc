#include "runtime/sweep/plan.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "policies/registry.h"
#include "runtime/config_keys.h"
#include "runtime/pair.h"
#include "runtime/report_json.h"
#include "runtime/rule_config.h"
#include "runtime/sweep/answer_check.h"
#include "runtime/sweep_config.h"
#include "runtime/version.h"

namespace tandem {
namespace {

// Raised when the meaning of a cell's figures changes: results of an older one are measured again.
constexpr int kResultsVersion = 1;

using Values = std::vector<std::pair<std::string, double>>;

// One curve's point before temperature, gamma and seed.
struct Point {
  CellKind kind = CellKind::kPair;
  std::string series;
  Values values;
  std::string rule;     // as YAML; empty: the file's does not matter
  std::string cascade;  // as YAML; empty: none
  std::optional<double> min_p;
  Where where;
  bool greedy_is_lossless = false;

  bool proposes() const { return kind == CellKind::kPair && series != kTokenCascade; }
};

std::string NumbersOf(const Values& values, const char* equals, const char* separator) {
  std::vector<std::string> texts;
  for (const auto& [name, value] : values) texts.push_back(absl::StrCat(name, equals, ShortestNumber(value)));
  return absl::StrJoin(texts, separator);
}

bool JudgesAsLossless(const RuleInfo& info) {
  return std::strcmp(info.at_zero, FindRule("lossless")->info->at_zero) == 0;
}

std::vector<Point> PointsOf(const RuleGrid& grid) {
  std::vector<Point> points;
  std::string series = grid.name;
  std::string rule = absl::StrCat("{name: ", grid.name);
  if (grid.verification != "token") {
    absl::StrAppend(&series, ", block");
    absl::StrAppend(&rule, ", verification: ", grid.verification);
  }
  if (grid.bonus != "p") {
    absl::StrAppend(&series, ", bonus pi");
    absl::StrAppend(&rule, ", bonus: ", grid.bonus);
  }
  for (const Values& values : Combinations(grid)) {
    // A curve is what the first parameter with several values moves along; the others name it.
    std::string name = series;
    for (size_t i = 1; i < values.size(); ++i)
      absl::StrAppend(&name, ", ", values[i].first, " ", ShortestNumber(values[i].second));
    points.push_back(
        {.series = name,
         .values = values,
         .rule = absl::StrCat(rule, values.empty() ? "" : ", ", NumbersOf(values, ": ", ", "), "}"),
         .where = grid.where,
         .greedy_is_lossless = JudgesAsLossless(*FindRule(grid.name)->info)});
  }
  return points;
}

std::vector<Point> AllPoints(const Config& config) {
  std::vector<Point> points = {{.kind = CellKind::kTargetAlone, .series = kTargetAlone}};
  if (config.draft_kind == DraftKind::kModel)
    points.push_back({.kind = CellKind::kDraftAlone, .series = kDraftAlone});
  points.push_back({.series = kLossless, .rule = "{name: lossless}"});
  for (const double min_p : config.sweep.min_p) {
    points.push_back(
        {.series = kTruncated, .values = {{"min_p", min_p}}, .rule = "{name: lossless}", .min_p = min_p});
  }
  if (config.draft_kind == DraftKind::kModel) {
    for (const double alpha : config.sweep.token_cascade) {
      points.push_back(
          {.series = kTokenCascade,
           .values = {{"alpha", alpha}},
           .cascade = absl::StrCat("{mode: token, rule: chow, alpha: ", ShortestNumber(alpha), "}")});
    }
    for (const double threshold : config.sweep.query_cascade) {
      points.push_back({.series = kQueryCascade,
                        .values = {{"threshold", threshold}},
                        .rule = "{name: lossless}",
                        .cascade = absl::StrCat(
                            "{mode: query, score: mean, threshold: ", ShortestNumber(threshold), "}")});
    }
  }
  for (const RuleGrid& grid : config.sweep.rules) {
    for (Point& point : PointsOf(grid)) points.push_back(std::move(point));
  }
  return points;
}

class Planner {
 public:
  Planner(const Config& config, const std::vector<Override>& overrides)
      : config_(config), overrides_(overrides) {}

  absl::StatusOr<std::vector<Cell>> Plan() {
    CheckLists();
    for (size_t g = 0; g < config_.sweep.gammas.size(); ++g) {
      for (const Point& point : AllPoints(config_)) {
        if (!point.proposes() && g > 0) continue;
        for (const double temperature : config_.sweep.temperatures)
          AddSeeds(point, config_.sweep.gammas[g], temperature);
      }
    }
    TANDEM_RETURN_IF_ERROR(ToStatus(complaints_));
    TANDEM_RETURN_IF_ERROR(failure_);
    if (!cell_errors_.empty()) return absl::InvalidArgumentError(absl::StrJoin(cell_errors_, "\n"));
    return std::move(cells_);
  }

 private:
  Where PlaceOf(const char* key) const {
    const auto found = config_.origins.find(key);
    return found == config_.origins.end() ? Where{config_.file.text} : found->second;
  }

  void Complain(const char* key, const std::string& what) {
    complaints_.push_back({PlaceOf(key), absl::StrCat(key, ": ", what)});
  }

  template <typename T>
  void CheckList(const char* key, const std::vector<T>& values) {
    if (values.empty()) Complain(key, "expected at least one value, got an empty list");
    std::vector<T> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end())
      Complain(key, absl::StrCat("expected each value once, got ", *twice, " twice"));
  }

  void CheckLists() {
    if (config_.draft_kind == DraftKind::kNone)
      Complain("draft", "a sweep compares rules, and rules need a draft; name one: draft: {model: FOLDER}");
    if (!config_.sweep.texts.prompts.empty() &&
        (config_.target.device != "cpu" || config_.draft.device != "cpu")) {
      Complain("sweep.texts", "texts are scored on the CPU only; use device: cpu, or items alone");
    }
    CheckList("sweep.temperatures", config_.sweep.temperatures);
    CheckList("sweep.gammas", config_.sweep.gammas);
    CheckList("sweep.seeds", config_.sweep.seeds);
  }

  void AddSeeds(const Point& point, int32_t gamma, double temperature) {
    const bool greedy = temperature == 0;
    if (greedy && point.min_p) return;
    if (greedy && point.greedy_is_lossless &&
        !greedy_lossless_.insert(absl::StrCat(point.series, "/", gamma)).second) {
      return;
    }
    for (const int32_t seed : config_.sweep.seeds) {
      Add(point, gamma, temperature, seed);
      if (greedy) break;
    }
  }

  void Add(const Point& point, int32_t gamma, double temperature, int32_t seed) {
    Cell cell;
    cell.kind = point.kind;
    cell.series = point.series;
    if (!point.values.empty()) {
      cell.parameter = point.values[0].first;
      cell.value = point.values[0].second;
    }
    cell.label = absl::StrCat(point.series, point.values.empty() ? "" : " ",
                              point.values.empty() ? "" : NumbersOf({point.values[0]}, "=", ""));
    cell.temperature = temperature;
    cell.gamma = point.proposes() ? gamma : 0;
    cell.seed = temperature == 0 ? 0 : seed;
    const auto set = [&](const char* path, const std::string& value) {
      const bool placed = !point.where.source.empty();
      cell.overrides.push_back(
          {path, value, false, placed ? point.where.Text() : absl::StrCat("--set ", path, "=", value)});
    };
    if (!point.cascade.empty() || config_.cascade.mode != "none")
      set("cascade", point.cascade.empty() ? "{mode: none}" : point.cascade);
    if (point.proposes()) {
      set("rule", point.rule);
      set("speculation.gamma", absl::StrCat(gamma));
    } else if (point.kind == CellKind::kPair) {
      set("rule", "{}");
      set("speculation", "{}");
    } else if (point.kind == CellKind::kTargetAlone) {
      set("draft", "none");
    }
    set("sampling.temperature", ShortestNumber(temperature));
    set("sampling.seed", absl::StrCat(cell.seed));
    if (point.min_p) set("sampling.min_p", ShortestNumber(*point.min_p));
    Resolve(&cell);
    cells_.push_back(std::move(cell));
  }

  // Reads the file again with the cell's keys, as `run` would; prompts and the sweep itself are no part of a cell.
  void Resolve(Cell* cell) {
    std::vector<Override> all = overrides_;
    all.insert(all.end(), cell->overrides.begin(), cell->overrides.end());
    all.push_back({"prompts", "[]", false, "sweep"});
    all.push_back({"sweep", "{}", false, "sweep"});
    all.push_back({"execution.batch", absl::StrCat(config_.sweep.batch), false, "sweep.batch"});
    absl::StatusOr<Config> loaded = LoadConfig(config_.file.text, all);
    absl::Status status = loaded.status();
    if (status.ok()) status = ApplyGenerationDefaults(&*loaded).status();
    if (status.ok()) {
      cell->config = *std::move(loaded);
      return;
    }
    // Cells share mistakes: each is said once.
    if (absl::IsInvalidArgument(status)) {
      for (const absl::string_view line : absl::StrSplit(status.message(), '\n'))
        cell_errors_.insert(std::string(line));
    } else if (failure_.ok()) {
      failure_ = status;
    }
  }

  const Config& config_;
  const std::vector<Override>& overrides_;
  std::set<std::string> greedy_lossless_;
  std::vector<Complaint> complaints_;
  std::set<std::string> cell_errors_;
  absl::Status failure_;  // of a model's folder
  std::vector<Cell> cells_;
};

// FNV-1a, 64 bits.
class Hash {
 public:
  void Add(std::string_view bytes) {
    for (const char c : bytes) AddByte(static_cast<uint8_t>(c));
    AddByte(0xff);  // ends a field: never a byte of UTF-8
  }
  std::string Text() const { return absl::StrCat(absl::Hex(value_, absl::kZeroPad16)); }

 private:
  void AddByte(uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001b3u; }
  uint64_t value_ = 0xcbf29ce484222325u;
};

void AddPrompts(const std::vector<Prompt>& prompts, Hash* hash) {
  for (const Prompt& prompt : prompts) hash->Add(YamlValue(prompt));
}

// What a cell's own configuration says that its figures depend on: not where files lie or how many threads run.
OrderedJson RelevantConfig(const Cell& cell) {
  OrderedJson json = ConfigJson(cell.config);
  for (const char* key : {"file", "prompts", "report", "require_lossless"}) json.erase(key);
  for (const char* side : {"target", "draft"}) {
    if (json[side].is_object()) json[side].erase("model");
  }
  return json;
}

}  // namespace

absl::StatusOr<std::vector<Cell>> PlanSweep(const Config& config, const std::vector<Override>& overrides) {
  return Planner(config, overrides).Plan();
}

std::vector<Prompt> FirstOfEachCategory(const std::vector<Prompt>& prompts, int32_t n) {
  std::map<std::string, int32_t> n_taken;
  std::vector<Prompt> first;
  for (const Prompt& prompt : prompts) {
    if (n == 0 || n_taken[prompt.category]++ < n) first.push_back(prompt);
  }
  return first;
}

absl::StatusOr<SweepPrompts> SelectPrompts(const Config& config) {
  const SweepConfig& sweep = config.sweep;
  if (sweep.items.prompts.empty() && sweep.texts.prompts.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file.text,
                     ": sweep.items: missing; expected prompts with answers (sweep: {items: {file: "
                     "FILE.jsonl}}), or sweep.texts, prompts without"));
  }
  std::vector<Complaint> complaints;
  for (const Prompt& item : sweep.items.prompts) {
    const std::string name = absl::StrCat("item ", item.id, ": ");
    if (!item.answer) {
      complaints.push_back({item.where, absl::StrCat(name,
                                                     "answer: missing; a prompt without one belongs in "
                                                     "sweep.texts")});
    } else if (const absl::Status status = CheckAnswer(item.check, *item.answer); !status.ok()) {
      complaints.push_back({item.where, absl::StrCat(name, std::string(status.message()))});
    }
  }
  for (const PromptConfig* prompts : {&sweep.items, &sweep.texts}) {
    for (const Prompt& prompt : prompts->prompts) {
      if (!prompt.seed) continue;
      complaints.push_back({prompt.where, absl::StrCat("prompt ", prompt.id,
                                                       ": seed: a sweep gives every prompt "
                                                       "the seeds of sweep.seeds; remove it")});
    }
  }
  TANDEM_RETURN_IF_ERROR(ToStatus(std::move(complaints)));
  SweepPrompts selected = {FirstOfEachCategory(sweep.items.prompts, sweep.items_per_category),
                           sweep.texts.prompts};
  if (sweep.max_texts > 0 && selected.texts.size() > static_cast<size_t>(sweep.max_texts))
    selected.texts.resize(sweep.max_texts);
  for (Prompt& text : selected.texts)
    text.max_new_tokens = std::min(text.max_new_tokens.value_or(sweep.text_tokens), sweep.text_tokens);
  return selected;
}

absl::StatusOr<std::string> FingerprintModel(const std::string& folder) {
  constexpr int64_t kSample = 64 << 10;
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string extension = entry.path().extension();
    if (extension == ".json" || extension == ".safetensors") files.push_back(entry.path());
  }
  if (error) return absl::NotFoundError(absl::StrCat(folder, ": ", error.message()));
  std::sort(files.begin(), files.end());
  Hash hash;
  for (const std::filesystem::path& file : files) {
    std::ifstream stream(file, std::ios::binary | std::ios::ate);
    const int64_t n_bytes = stream.tellg();
    hash.Add(absl::StrCat(file.filename().string(), " ", n_bytes));
    for (const int64_t at : {int64_t{0}, std::max<int64_t>(0, n_bytes - kSample)}) {
      std::string bytes(static_cast<size_t>(std::min(kSample, n_bytes)), 0);
      stream.seekg(at);
      stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      hash.Add(bytes);
    }
    if (!stream) return absl::NotFoundError(absl::StrCat(file.string(), ": cannot be read"));
  }
  return hash.Text();
}

void NameCells(const SweepContext& context, std::vector<Cell>* cells) {
  Hash shared;
  shared.Add(absl::StrCat(kResultsVersion, " ", kVersion));
  shared.Add(context.models);
  shared.Add(context.machine);
  const SweepConfig& settings = context.settings;
  shared.Add(absl::StrCat(settings.latency_per_category, " ", settings.latency_repetitions, " ",
                          settings.tv_positions));
  AddPrompts(context.prompts.items, &shared);
  AddPrompts(context.prompts.texts, &shared);
  for (Cell& cell : *cells) {
    Hash hash = shared;
    hash.Add(absl::StrCat(static_cast<int>(cell.kind), " ", cell.series, " ", cell.label));
    hash.Add(RelevantConfig(cell).dump());
    cell.key = hash.Text();
  }
}

}  // namespace tandem
