#include "policies/registry.h"

#include "policies/defer.h"
#include "policies/judge.h"

#include "rule_headers.inc"

namespace tandem {
namespace {

// "TokenV1" is the struct of the rule "token_v1".
constexpr bool IsNameOf(std::string_view type, std::string_view name) {
  size_t at = 0;
  for (size_t i = 0; i < type.size(); ++i) {
    const bool upper = type[i] >= 'A' && type[i] <= 'Z';
    if (upper && i > 0 && (at >= name.size() || name[at++] != '_')) return false;
    if (at >= name.size() || name[at++] != (upper ? type[i] - 'A' + 'a' : type[i])) return false;
  }
  return at == name.size();
}

#define TANDEM_RULE(Type)                                                                                  \
  static_assert(Rule<rules::Type>,                                                                         \
                "a rule has kInfo, only float members, and one of law, keeps, accept (with fallback) and " \
                "chances (with keep and fallback), with the arguments that policies/rule.h states");       \
  static_assert(IsNameOf(#Type, rules::Type::kInfo.name),                                                  \
                "a rule's name is that of its file, and in CamelCase that of its struct");
#include "rule_types.inc"
#undef TANDEM_RULE

#ifdef TANDEM_CUDA
template <typename R>
constexpr RuleEntry WithCuda() {
  RuleEntry entry = MakeRuleEntry<R>();
  entry.judge_cuda = &JudgeCuda<R>;
  if constexpr (R::kInfo.draft_only) entry.defer_cuda = &DeferCuda<R>;
  return entry;
}
#define TANDEM_RULE_ENTRY(Type) WithCuda<rules::Type>()
#else
#define TANDEM_RULE_ENTRY(Type) MakeRuleEntry<rules::Type>()
#endif

constexpr RuleEntry kRules[] = {
#define TANDEM_RULE(Type) TANDEM_RULE_ENTRY(Type),
#include "rule_types.inc"
#undef TANDEM_RULE
};

}  // namespace

std::span<const RuleEntry> Rules() { return kRules; }

const RuleEntry* FindRule(std::string_view name) {
  for (const RuleEntry& entry : kRules) {
    if (name == entry.info->name) return &entry;
  }
  return nullptr;
}

std::vector<std::map<std::string, double>> CheckSettings(const RuleInfo& info) {
  std::vector<std::map<std::string, double>> settings = {{}};
  for (int i = 0; i < info.n_params(); ++i) {
    const ParamInfo& param = info.params[i];
    std::vector<std::map<std::string, double>> grown;
    for (const auto& setting : settings) {
      for (int j = 0; j < param.check.n; ++j) {
        grown.push_back(setting);
        grown.back()[param.name] = param.check.value[j];
      }
    }
    if (param.check.n > 0) settings = std::move(grown);
  }
  if (!settings[0].empty()) settings.insert(settings.begin(), std::map<std::string, double>());
  return settings;
}

}  // namespace tandem
