#ifndef TANDEM_POLICIES_RULES_TOP_K_H_
#define TANDEM_POLICIES_RULES_TOP_K_H_

#include "policies/rule.h"

namespace tandem::rules {

struct TopK {
  static constexpr RuleInfo kInfo{.name = "top_k",
                                  .needs = Needs::kTokenP1,
                                  .params = {{"k", 1, 1000, 5, "tokens, ties included", {1, 2}, true}},
                                  .about = "the draft may emit the target's k likeliest tokens",
                                  .tests = "p1",
                                  .at_zero = "keep x iff x is among the k likeliest of p1, or x = argmax p",
                                  .source = "Google blog on speculative cascades, 11 Sep 2025"};
  float k;

  struct Derived {
    float smallest;  // p1 of the k-th
  };
  template <typename Sum>
  TANDEM_HD Derived solve(const Row&, const Sum& sum) const {
    return {sum.KthLargestP1(static_cast<int32_t>(k))};
  }
  TANDEM_HD bool keeps(const Token& t, const Row&, const Derived& d) const { return t.p1 >= d.smallest; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_TOP_K_H_
