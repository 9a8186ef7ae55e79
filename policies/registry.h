// The rules that are built in: every header of policies/rules and of TANDEM_RULES_DIR, by name.
#ifndef TANDEM_POLICIES_REGISTRY_H_
#define TANDEM_POLICIES_REGISTRY_H_

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policies/bind.h"

namespace tandem {

std::span<const RuleEntry> Rules();                // sorted by name
const RuleEntry* FindRule(std::string_view name);  // null: there is none

// The settings at which a rule is to be checked exactly: its defaults, and every combination of its check
// values.
std::vector<std::map<std::string, double>> CheckSettings(const RuleInfo& info);

}  // namespace tandem

#endif  // TANDEM_POLICIES_REGISTRY_H_
