#include "runtime/rule_config.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "policies/registry.h"
#include "runtime/config_keys.h"
#include "runtime/names.h"

namespace tandem {
namespace {

// Where the rule was named; a configuration that names none takes the default, and its file stands for the
// place.
Where RulePlace(const Config& config) {
  const auto found = config.origins.find("rule.name");
  return found == config.origins.end() ? Where{config.file.text} : found->second;
}

void CheckParameters(const RuleInfo& info, Config* config, std::vector<Complaint>* complaints) {
  std::vector<std::string> names;
  for (int i = 0; i < info.n_params(); ++i) names.push_back(info.params[i].name);
  for (const auto& [name, parameter] : config->rule.parameters) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      std::vector<std::string> keys = KeyNamesIn("rule");
      keys.insert(keys.end(), names.begin(), names.end());
      const std::string why = names.empty() && NearestName(name, keys).empty()
                                  ? absl::StrCat(": the rule ", info.name, " has no parameters")
                                  : Suggestion(name, keys);
      complaints->push_back({parameter.where, absl::StrCat("rule.", name, ": unknown key", why)});
      continue;
    }
    const ParamInfo& info_of = info.params[found - names.begin()];
    // As the float that the rule gets: 0.1 is within a range from 0.1f.
    const auto value = static_cast<float>(parameter.value);
    if (!(value >= info_of.min && value <= info_of.max)) {
      complaints->push_back(
          {parameter.where, absl::StrCat("rule.", name, ": expected a number from ", info_of.min, " to ",
                                         info_of.max, ", got ", parameter.written)});
    }
  }
}

}  // namespace

void CheckRuleConfig(Config* config, std::vector<Complaint>* complaints) {
  const RuleEntry* entry = FindRule(config->rule.name);
  if (entry == nullptr) {
    std::vector<std::string> names;
    for (const RuleEntry& rule : Rules()) names.push_back(rule.info->name);
    complaints->push_back(
        {RulePlace(*config), absl::StrCat("rule.name: expected the name of a rule, got ", config->rule.name,
                                          Suggestion(config->rule.name, names))});
    return;
  }
  const size_t n_complaints = complaints->size();
  CheckParameters(*entry->info, config, complaints);
  if (complaints->size() > n_complaints) return;
  for (int i = 0; i < entry->info->n_params(); ++i) {
    const ParamInfo& info = entry->info->params[i];
    // What is printed is the decimal that the rule's author wrote, not its nearest float.
    config->rule.parameters.emplace(info.name, RuleParameter{ShortestDecimal(info.value), {}, ""});
  }
  const absl::StatusOr<std::unique_ptr<Policy>> policy = MakePolicy(*config);
  if (!policy.ok()) complaints->push_back({RulePlace(*config), std::string(policy.status().message())});
}

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(const Config& config) {
  PolicyOptions options;
  options.rule = config.rule.name;
  for (const auto& [name, parameter] : config.rule.parameters) options.params[name] = parameter.value;
  options.verification = config.rule.verification == "block" ? Verification::kBlock : Verification::kToken;
  options.bonus = config.rule.bonus == "pi" ? Bonus::kPi : Bonus::kP;
  // Without a drafter the rule judges nothing: what it needs of one does not matter.
  return Policy::Create(options, config.draft_kind != DraftKind::kNgram);
}

absl::Status CheckLossless(const Config& config) {
  if (!config.require_lossless) return absl::OkStatus();
  const bool greedy = config.sampling.temperature == 0;
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Policy> policy, MakePolicy(config));
  if (policy->guarantee(greedy) == Guarantee::kExact) return absl::OkStatus();
  std::vector<std::string> exact;
  for (const RuleEntry& rule : Rules()) {
    const bool fits = rule.info->guarantee == Guarantee::kExact ||
                      (greedy && rule.info->guarantee == Guarantee::kExactAtZero);
    if (fits) exact.push_back(rule.info->name);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      RulePlace(config).Text(), ": rule.name: ", config.rule.name, " is ", Name(policy->info().guarantee),
      ", and require_lossless asks for the target's law at temperature ",
      ShortestNumber(config.sampling.temperature), "; use ", absl::StrJoin(exact, " or ")));
}

}  // namespace tandem
