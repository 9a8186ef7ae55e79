#include "runtime/rule_config.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "policies/registry.h"
#include "runtime/config_keys.h"
#include "runtime/names.h"

namespace tandem {
namespace {

// The rule that a configuration chooses: for the judge, or in a token cascade for the draft.
struct Choice {
  const char* section;
  const char* key;  // that names it
  const std::string& name;
  const std::map<std::string, RuleParameter>& parameters;
};

Choice ChoiceOf(const Config& config) {
  if (config.cascade.is_token())
    return {"cascade", "cascade.rule", config.cascade.rule, config.cascade.parameters};
  return {"rule", "rule.name", config.rule.name, config.rule.parameters};
}

// Where the rule was named; a configuration that names none takes the default, and its file stands for the
// place.
Where RulePlace(const Config& config) {
  const auto found = config.origins.find(ChoiceOf(config).key);
  return found == config.origins.end() ? Where{config.file.text} : found->second;
}

void CheckParameters(const RuleInfo& info, const Choice& choice, std::vector<Complaint>* complaints) {
  std::vector<std::string> names;
  for (int i = 0; i < info.n_params(); ++i) names.push_back(info.params[i].name);
  for (const auto& [name, parameter] : choice.parameters) {
    const std::string path = absl::StrCat(choice.section, ".", name);
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      std::vector<std::string> keys = KeyNamesIn(choice.section);
      keys.insert(keys.end(), names.begin(), names.end());
      const std::string why = names.empty() && NearestName(name, keys).empty()
                                  ? absl::StrCat(": the rule ", info.name, " has no parameters")
                                  : Suggestion(name, keys);
      complaints->push_back({parameter.where, absl::StrCat(path, ": unknown key", why)});
      continue;
    }
    const ParamInfo& info_of = info.params[found - names.begin()];
    // As the float that the rule gets: 0.1 is within a range from 0.1f.
    const auto value = static_cast<float>(parameter.value);
    if (!(value >= info_of.min && value <= info_of.max)) {
      complaints->push_back(
          {parameter.where, absl::StrCat(path, ": expected a number from ", info_of.min, " to ", info_of.max,
                                         ", got ", parameter.written)});
    }
  }
}

std::vector<std::string> RuleNames(bool (*wanted)(const RuleInfo&)) {
  std::vector<std::string> names;
  for (const RuleEntry& rule : Rules()) {
    if (wanted(*rule.info)) names.push_back(rule.info->name);
  }
  return names;
}

}  // namespace

void CheckRuleConfig(Config* config, std::vector<Complaint>* complaints) {
  const Choice choice = ChoiceOf(*config);
  const RuleEntry* entry = FindRule(choice.name);
  const auto complain = [&](const std::string& message) {
    complaints->push_back({RulePlace(*config), absl::StrCat(choice.key, ": ", message)});
  };
  if (entry == nullptr) {
    return complain(absl::StrCat("expected the name of a rule, got ", choice.name,
                                 Suggestion(choice.name, RuleNames([](const RuleInfo&) { return true; }))));
  }
  if (config->cascade.is_token() && !entry->info->draft_only) {
    const std::vector<std::string> usable = RuleNames([](const RuleInfo& info) { return info.draft_only; });
    return complain(absl::StrCat(choice.name,
                                 " looks at more than the draft's law, and a token cascade decides ",
                                 "before the target is asked; use ", absl::StrJoin(usable, " or "),
                                 ", or speculate: rule: {name: ", choice.name, "} and no cascade"));
  }
  const size_t n_complaints = complaints->size();
  CheckParameters(*entry->info, choice, complaints);
  if (complaints->size() > n_complaints) return;
  auto& parameters = config->cascade.is_token() ? config->cascade.parameters : config->rule.parameters;
  for (int i = 0; i < entry->info->n_params(); ++i) {
    const ParamInfo& info = entry->info->params[i];
    // What is printed is the decimal that the rule's author wrote, not its nearest float.
    parameters.emplace(info.name, RuleParameter{ShortestDecimal(info.value), {}, ""});
  }
  const absl::StatusOr<std::unique_ptr<Policy>> policy = MakePolicy(*config);
  if (!policy.ok()) complaints->push_back({RulePlace(*config), std::string(policy.status().message())});
}

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(const Config& config) {
  const Choice choice = ChoiceOf(config);
  PolicyOptions options;
  options.rule = choice.name;
  for (const auto& [name, parameter] : choice.parameters) options.params[name] = parameter.value;
  if (!config.cascade.is_token()) {
    options.verification = config.rule.verification == "block" ? Verification::kBlock : Verification::kToken;
    options.bonus = config.rule.bonus == "pi" ? Bonus::kPi : Bonus::kP;
  }
  // Without a drafter the rule judges nothing: what it needs of one does not matter. A token cascade without a draft
  // model is complained about elsewhere.
  return Policy::Create(options, config.draft_kind != DraftKind::kNgram || config.cascade.is_token());
}

absl::Status CheckLossless(const Config& config) {
  if (!config.require_lossless) return absl::OkStatus();
  if (config.cascade.mode != "none") {
    return absl::InvalidArgumentError(absl::StrCat(
        config.origins.at("cascade.mode").Text(), ": cascade.mode: ", config.cascade.mode,
        " is lossy, and require_lossless asks for the target's law; remove cascade and use an exact rule"));
  }
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
