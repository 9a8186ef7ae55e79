#ifndef TANDEM_POLICIES_RULES_TOKEN_V1_H_
#define TANDEM_POLICIES_RULES_TOKEN_V1_H_

#include "policies/rule.h"

namespace tandem::rules {

struct TokenV1 {
  static constexpr RuleInfo kInfo{
      .name = "token_v1",
      .needs = Needs::kTokenQ1 | Needs::kDraftLaw,
      .params = {{"alpha", -1, 1, 0.1f, "higher: defer less", {-0.1f, 0.2f, 0.4f}}},
      .about = "the draft may emit tokens that it rates at most alpha under the target's likeliest",
      .tests = "q1, p1",
      .at_zero = "keep x iff q1(x) >= max p1 - alpha, or x = argmax p",
      .source = "arXiv 2405.19261, eq. (13)"};
  float alpha;

  TANDEM_HD bool keeps(const Token& t, const Row& r) const { return t.q1 >= r.p1.max - alpha; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_TOKEN_V1_H_
