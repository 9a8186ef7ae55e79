// What a configuration says about its rule, checked against what the rules state (policies/rule.h).
#ifndef TANDEM_RUNTIME_RULE_CONFIG_H_
#define TANDEM_RUNTIME_RULE_CONFIG_H_

#include <memory>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "runtime/config.h"

namespace tandem {

// The rule is that of `rule`, or in a token cascade that of `cascade`.
//
// Complains about an unknown rule, unknown parameters and parameters out of range, and gives the parameters
// that were not written their defaults; then about what cannot be combined with the drafter or the
// verification.
void CheckRuleConfig(Config* config, std::vector<Complaint>* complaints);

// The policy of a configuration that CheckRuleConfig found right.
absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(const Config& config);

// kInvalidArgument if require_lossless is set and the rule's output law is not the target's at the
// temperature.
absl::Status CheckLossless(const Config& config);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_RULE_CONFIG_H_
