#ifndef TANDEM_POLICIES_RULES_LOSSLESS_H_
#define TANDEM_POLICIES_RULES_LOSSLESS_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Lossless {
  static constexpr RuleInfo kInfo{.name = "lossless",
                                  .guarantee = Guarantee::kExact,
                                  .either = true,
                                  .about = "speculative sampling: the output law is the target's",
                                  .tests = "q, p",
                                  .at_zero = "keep x iff x = argmax p",
                                  .source = "arXiv 2211.17192"};

  TANDEM_HD float law(float, float p, const Row&) const { return p; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_LOSSLESS_H_
