#ifndef TANDEM_POLICIES_RULES_TOKEN_V3_H_
#define TANDEM_POLICIES_RULES_TOKEN_V3_H_

#include "policies/rule.h"

namespace tandem::rules {

struct TokenV3 {
  static constexpr RuleInfo kInfo{
      .name = "token_v3",
      .needs = Needs::kTokenP1,
      .params = {{"alpha", 0, 1, 0.5f, "higher: defer less", {0.3f, 0.6f, 0.9f}}},
      .about = "the draft may emit tokens that have at least 1 - alpha of the target's likeliest",
      .tests = "p1",
      .at_zero = "keep x iff p1(x) >= (1 - alpha) max p1, or x = argmax p",
      .source = "arXiv 2405.19261, eq. (15)"};
  float alpha;

  TANDEM_HD bool keeps(const Token& t, const Row& r) const { return t.p1 >= (1 - alpha) * r.p1.max; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_TOKEN_V3_H_
