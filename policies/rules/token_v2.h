#ifndef TANDEM_POLICIES_RULES_TOKEN_V2_H_
#define TANDEM_POLICIES_RULES_TOKEN_V2_H_

#include "policies/rule.h"

namespace tandem::rules {

struct TokenV2 {
  static constexpr RuleInfo kInfo{
      .name = "token_v2",
      .needs = Needs::kTokenP1,
      .params = {{"alpha", -1, 1, 0.1f, "higher: defer less", {0.05f, 0.2f, 0.4f}}},
      .about = "the draft may emit tokens that the target rates at most alpha under its likeliest",
      .tests = "p1",
      .at_zero = "keep x iff p1(x) >= max p1 - alpha, or x = argmax p",
      .source = "arXiv 2405.19261, eq. (14)"};
  float alpha;

  TANDEM_HD bool keeps(const Token& t, const Row& r) const { return t.p1 >= r.p1.max - alpha; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_TOKEN_V2_H_
