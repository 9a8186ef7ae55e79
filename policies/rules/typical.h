#ifndef TANDEM_POLICIES_RULES_TYPICAL_H_
#define TANDEM_POLICIES_RULES_TYPICAL_H_

#include <cmath>

#include "policies/rule.h"

namespace tandem::rules {

struct Typical {
  static constexpr RuleInfo kInfo{
      .name = "typical",
      .needs = Needs::kEntropyP,
      .params = {{"eps", 0, 1, 0.3f, "largest threshold", {0.2f, 0.5f}},
                 {"delta", 0, 10, 0.09f, "threshold as a share of exp(-entropy of p)", {0.5f, 1}}},
      .about = "x stays if the target finds it typical: p(x) > min(eps, delta exp(-H(p)))",
      .tests = "p",
      .fallback = "p",
      .at_zero = "keep x iff x = argmax p",
      .source = "arXiv 2401.10774"};
  float eps, delta;

  TANDEM_HD float accept(const Row& r) const {
    if (r.greedy) return r.x == r.p.argmax;
    const float share = delta * std::exp(-r.p.entropy);
    return r.p.x > (share < eps ? share : eps);
  }
  TANDEM_HD float fallback(const Token& t, const Row&) const { return t.p; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_TYPICAL_H_
