#ifndef TANDEM_POLICIES_RULES_GREEDY_H_
#define TANDEM_POLICIES_RULES_GREEDY_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Greedy {
  static constexpr RuleInfo kInfo{.name = "greedy",
                                  .guarantee = Guarantee::kExactAtZero,
                                  .about = "x stays if it is the target's likeliest token",
                                  .tests = "p",
                                  .fallback = "argmax p",
                                  .at_zero = "keep x iff x = argmax p",
                                  .source = "arXiv 1811.03115"};

  TANDEM_HD float accept(const Row& r) const { return r.x == r.p.argmax; }
  TANDEM_HD float fallback(const Token& t, const Row& r) const { return t.id == r.p.argmax; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_GREEDY_H_
