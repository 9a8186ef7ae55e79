#ifndef TANDEM_POLICIES_RULES_LENIENCE_H_
#define TANDEM_POLICIES_RULES_LENIENCE_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Lenience {
  static constexpr RuleInfo kInfo{
      .name = "lenience",
      .params = {{"lenience", 0.01f, 1, 0.5f, "lower: keep more; 1: lossless", {0.3f, 0.8f}}},
      .about = "speculative sampling with a test that is 1 / lenience times easier",
      .tests = "q, p; at T = 0 p1",
      .fallback = "max(0, p - q)",
      .at_zero = "keep x iff p1(x) >= lenience max p1",
      .source = "arXiv 2211.17192, A.5"};
  float lenience;

  TANDEM_HD float accept(const Row& r) const {
    if (r.greedy) return r.p1.x >= lenience * r.p1.max;
    return r.p.x >= lenience * r.q.x ? 1 : r.p.x / (lenience * r.q.x);
  }
  TANDEM_HD float fallback(const Token& t, const Row&) const { return t.p > t.q ? t.p - t.q : 0; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_LENIENCE_H_
