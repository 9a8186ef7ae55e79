#ifndef TANDEM_POLICIES_RULES_SAMPLE_MATCH_H_
#define TANDEM_POLICIES_RULES_SAMPLE_MATCH_H_

#include "policies/rule.h"

namespace tandem::rules {

struct SampleMatch {
  static constexpr RuleInfo kInfo{.name = "sample_match",
                                  .guarantee = Guarantee::kExact,
                                  .about = "draw from the target; x stays if it is the token drawn",
                                  .tests = "p",
                                  .fallback = "p without x",
                                  .at_zero = "keep x iff x = argmax p",
                                  .source = "DFlash, llama.cpp"};

  // The target's draw is x with probability p(x); otherwise it is another token, by p.
  TANDEM_HD float accept(const Row& r) const { return r.p.x; }
  TANDEM_HD float fallback(const Token& t, const Row& r) const { return t.id == r.x ? 0 : t.p; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_SAMPLE_MATCH_H_
