#include "runtime/sweep_config.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "policies/policy.h"
#include "policies/registry.h"
#include "runtime/config_keys.h"
#include "runtime/names.h"

namespace tandem {
namespace {

struct Preset {
  const char* name;
  std::vector<const char*> rules;
  std::vector<double> min_p, token_cascade, query_cascade, temperatures;
  std::vector<int32_t> gammas, seeds;
  int32_t items_per_category, max_texts, text_tokens, latency_per_category, latency_repetitions, tv_positions;
};

// `quick` is the initial value of SweepConfig.
std::vector<Preset> OtherPresets() {
  std::vector<const char*> all;
  for (const RuleEntry& entry : Rules()) {
    // `greedy` and `sample_match` have no parameter and are no frontier; `lossless` is among the baselines.
    if (entry.info->n_params() > 0) all.push_back(entry.info->name);
  }
  return {{"standard",
           {"chow", "diff", "opt", "token_v1", "token_v2", "token_v3", "lossy_sd", "lenience", "mentored",
            "bild"},
           {0.9, 0.7, 0.5, 0.3, 0.1},
           {0.1, 0.3, 0.5, 0.7, 0.9},
           {-0.5, -0.2, -0.1, -0.05, -0.02},
           {0, 1},
           {5},
           {1, 2, 3},
           30,
           24,
           64,
           1,
           3,
           192},
          {"full",
           all,
           {0.9, 0.7, 0.5, 0.3, 0.1},
           {0.1, 0.3, 0.5, 0.7, 0.9},
           {-0.5, -0.2, -0.1, -0.05, -0.02},
           {0, 0.5, 1},
           {1, 3, 5, 8},
           {1, 2, 3},
           0,
           0,
           128,
           3,
           5,
           512}};
}

struct KnownGrid {
  const char* rule;
  const char* parameter;
  std::vector<double> values;  // from near the target's law to near the draft's
};

const std::vector<KnownGrid>& KnownGrids() {
  static const std::vector<KnownGrid> grids = {
      {"bild", "rollback", {0.5, 1, 2, 3, 5}},
      {"chow", "alpha", {0.1, 0.3, 0.5, 0.7, 0.9}},
      {"diff", "alpha", {0, 0.1, 0.3, 0.5, 0.8}},
      {"ensemble", "weight", {0.9, 0.7, 0.5, 0.3, 0.1}},
      {"lenience", "lenience", {0.9, 0.7, 0.5, 0.3, 0.1}},
      {"lossy_sd", "alpha", {0.1, 0.3, 0.5, 0.7, 0.9}},
      {"mentored", "budget", {0.02, 0.1, 0.3, 0.6, 1}},
      {"opt", "alpha", {0, 0.1, 0.3, 0.5, 0.8}},
      {"threshold_single_acc", "acc", {0.9, 0.7, 0.5, 0.3, 0.1}},
      {"token_v1", "alpha", {0.1, 0.3, 0.5, 0.7, 0.9}},
      {"token_v2", "alpha", {0.1, 0.3, 0.5, 0.7, 0.9}},
      {"token_v3", "alpha", {0.1, 0.3, 0.5, 0.7, 0.9}},
      {"top_k", "k", {1, 2, 3, 5, 10}},
      {"typical", "eps", {0.9, 0.5, 0.3, 0.1, 0.05}},
  };
  return grids;
}

std::vector<RuleGrid> NamedGrids(const std::vector<const char*>& names) {
  std::vector<RuleGrid> grids;
  for (const char* name : names) grids.push_back({.name = name});
  return grids;
}

// Reads one entry of sweep.rules.
class GridReader {
 public:
  GridReader(std::string path, std::vector<Complaint>* complaints)
      : path_(std::move(path)), complaints_(complaints) {}

  RuleGrid Read(const YamlNode& node) {
    grid_.where = node.where;
    if (node.kind == YamlNode::Kind::kScalar) {
      Rule(node);
    } else if (node.kind == YamlNode::Kind::kMap) {
      Map(node);
    } else {
      Complain(node.where, "", absl::StrCat("expected the name of a rule or a map, got ", node.Describe()));
    }
    return std::move(grid_);
  }

 private:
  void Complain(const Where& where, const std::string& key, const std::string& what) {
    complaints_->push_back({where, absl::StrCat(path_, key.empty() ? "" : ".", key, ": ", what)});
  }

  void Rule(const YamlNode& node) {
    grid_.name = node.text;
    entry_ = FindRule(node.text);
    if (entry_ != nullptr) return;
    std::vector<std::string> names;
    for (const RuleEntry& rule : Rules()) names.push_back(rule.info->name);
    Complain(
        node.where, "",
        absl::StrCat("expected the name of a rule, got ", node.Describe(), Suggestion(node.text, names)));
  }

  void Map(const YamlNode& node) {
    const YamlNode* name = node.Find("name");
    if (name == nullptr || name->kind != YamlNode::Kind::kScalar)
      return Complain(node.where, "name", "expected the name of a rule");
    Rule(*name);
    if (entry_ == nullptr) return;
    for (const YamlEntry& entry : node.entries) {
      if (entry.key == "verification") {
        Choice(entry, {"token", "block"}, &grid_.verification);
      } else if (entry.key == "bonus") {
        Choice(entry, {"p", "pi"}, &grid_.bonus);
      } else if (entry.key != "name") {
        Parameter(entry);
      }
    }
    PolicyOptions options{.rule = grid_.name};
    options.verification = grid_.verification == "block" ? Verification::kBlock : Verification::kToken;
    options.bonus = grid_.bonus == "pi" ? Bonus::kPi : Bonus::kP;
    if (const auto policy = Policy::Create(options, true); !policy.ok())
      Complain(node.where, "", std::string(policy.status().message()));
  }

  void Choice(const YamlEntry& entry, const std::vector<std::string>& choices, std::string* field) {
    if (std::find(choices.begin(), choices.end(), entry.value.text) == choices.end()) {
      return Complain(
          entry.value.where, entry.key,
          absl::StrCat("expected ", absl::StrJoin(choices, " or "), ", got ", entry.value.Describe()));
    }
    *field = entry.value.text;
  }

  void Parameter(const YamlEntry& entry) {
    const RuleInfo& info = *entry_->info;
    std::vector<std::string> names;
    for (int i = 0; i < info.n_params(); ++i) names.push_back(info.params[i].name);
    if (std::find(names.begin(), names.end(), entry.key) == names.end()) {
      return Complain(entry.where, entry.key,
                      names.empty() ? absl::StrCat("unknown key: the rule ", info.name, " has no parameters")
                                    : "unknown key" + Suggestion(entry.key, names));
    }
    std::vector<double> values;
    std::vector<const YamlNode*> nodes = {&entry.value};
    if (entry.value.kind == YamlNode::Kind::kList) {
      nodes.clear();
      for (const YamlNode& item : entry.value.items) nodes.push_back(&item);
      if (nodes.empty()) Complain(entry.value.where, entry.key, "expected at least one number");
    }
    for (const YamlNode* node : nodes) {
      double value;
      if (node->kind != YamlNode::Kind::kScalar || node->quoted || !absl::SimpleAtod(node->text, &value)) {
        Complain(node->where, entry.key,
                 absl::StrCat("expected a number or a list of numbers, got ", node->Describe()));
        continue;
      }
      const auto policy = Policy::Create({.rule = grid_.name, .params = {{entry.key, value}}}, true);
      if (!policy.ok()) Complain(node->where, entry.key, std::string(policy.status().message()));
      values.push_back(value);
    }
    grid_.parameters.push_back({entry.key, std::move(values)});
  }

  const std::string path_;
  std::vector<Complaint>* complaints_;
  RuleGrid grid_;
  const RuleEntry* entry_ = nullptr;
};

}  // namespace

SweepConfig::SweepConfig()
    : rules(NamedGrids(
          {"chow", "diff", "opt", "token_v1", "token_v2", "token_v3", "lossy_sd", "lenience", "bild"})) {}

std::vector<RuleGrid> ReadRuleGrids(const YamlNode& node, const std::string& path,
                                    std::vector<Complaint>* complaints) {
  std::vector<RuleGrid> grids;
  if (node.kind != YamlNode::Kind::kList) {
    complaints->push_back(
        {node.where, absl::StrCat(path,
                                  ": expected a list of rules, such as [opt, {name: token_v3, alpha: "
                                  "[0.3, 0.7]}], got ",
                                  node.Describe())});
  }
  for (size_t i = 0; i < node.items.size(); ++i) {
    grids.push_back(GridReader(absl::StrCat(path, "[", i, "]"), complaints).Read(node.items[i]));
  }
  return grids;
}

std::string YamlValue(const RuleGrid& grid) {
  std::vector<std::string> fields = {absl::StrCat("name: ", grid.name)};
  if (grid.verification != "token") fields.push_back(absl::StrCat("verification: ", grid.verification));
  if (grid.bonus != "p") fields.push_back(absl::StrCat("bonus: ", grid.bonus));
  for (const auto& [name, values] : grid.parameters) {
    std::vector<std::string> items;
    for (const double value : values) items.push_back(ShortestNumber(value));
    fields.push_back(absl::StrCat(name, ": [", absl::StrJoin(items, ", "), "]"));
  }
  return fields.size() == 1 ? grid.name : absl::StrCat("{", absl::StrJoin(fields, ", "), "}");
}

ParameterGrid DefaultGrid(const RuleInfo& info) {
  if (info.n_params() == 0) return {};
  for (const KnownGrid& known : KnownGrids()) {
    if (std::strcmp(known.rule, info.name) == 0) return {{known.parameter, known.values}};
  }
  const ParamInfo& param = info.params[0];
  std::vector<double> values;
  for (int i = 0; i < param.check.n; ++i) values.push_back(ShortestDecimal(param.check.value[i]));
  for (int i = 0; i < 5 && param.check.n == 0; ++i) {
    const double value = param.min + (param.max - param.min) * i / 4.0;
    values.push_back(param.whole ? std::floor(value) : value);
  }
  return {{param.name, values}};
}

std::vector<std::vector<std::pair<std::string, double>>> Combinations(const RuleGrid& grid) {
  const ParameterGrid parameters =
      grid.parameters.empty() ? DefaultGrid(*FindRule(grid.name)->info) : grid.parameters;
  std::vector<std::vector<std::pair<std::string, double>>> all = {{}};
  for (const auto& [name, values] : parameters) {
    std::vector<std::vector<std::pair<std::string, double>>> longer;
    for (const auto& start : all) {
      for (const double value : values) {
        longer.push_back(start);
        longer.back().push_back({name, value});
      }
    }
    all = std::move(longer);
  }
  return all;
}

void ApplyPreset(Config* config) {
  SweepConfig& sweep = config->sweep;
  for (const Preset& preset : OtherPresets()) {
    if (sweep.preset != preset.name) continue;
    const Where where{absl::StrCat("preset ", preset.name)};
    const auto apply = [&](const char* key, auto* field, auto value) {
      if (config->origins.contains(key)) return;
      *field = std::move(value);
      config->origins[key] = where;
    };
    apply("sweep.rules", &sweep.rules, NamedGrids(preset.rules));
    apply("sweep.min_p", &sweep.min_p, preset.min_p);
    apply("sweep.token_cascade", &sweep.token_cascade, preset.token_cascade);
    apply("sweep.query_cascade", &sweep.query_cascade, preset.query_cascade);
    apply("sweep.temperatures", &sweep.temperatures, preset.temperatures);
    apply("sweep.gammas", &sweep.gammas, preset.gammas);
    apply("sweep.seeds", &sweep.seeds, preset.seeds);
    apply("sweep.items_per_category", &sweep.items_per_category, preset.items_per_category);
    apply("sweep.max_texts", &sweep.max_texts, preset.max_texts);
    apply("sweep.text_tokens", &sweep.text_tokens, preset.text_tokens);
    apply("sweep.latency_per_category", &sweep.latency_per_category, preset.latency_per_category);
    apply("sweep.latency_repetitions", &sweep.latency_repetitions, preset.latency_repetitions);
    apply("sweep.tv_positions", &sweep.tv_positions, preset.tv_positions);
  }
}

bool HasSweep(const Config& config) {
  const auto found = config.origins.lower_bound("sweep");
  return found != config.origins.end() && absl::StartsWith(found->first, "sweep.");
}

}  // namespace tandem
