#ifndef TANDEM_POLICIES_RULES_ENTROPY_H_
#define TANDEM_POLICIES_RULES_ENTROPY_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Entropy {
  static constexpr RuleInfo kInfo{
      .name = "entropy",
      .needs = Needs::kDraftLaw | Needs::kEntropyQ1,
      .draft_only = true,
      .params =
          {{"alpha", 0, 12, 1, "nats; 0: defer always, the log of the vocabulary: never", {0.5f, 0.8f}}},
      .about = "the draft's law where its entropy is at most alpha",
      .tests = "q1",
      .at_zero = "keep x iff the entropy of q1 is at most alpha, or x = argmax p",
      .source = "Chow's rule with log-loss in place of 0-1 loss"};
  float alpha;

  TANDEM_HD bool defers(const Row& r) const { return r.q1.entropy > alpha; }
  TANDEM_HD float law(float q, float p, const Row& r) const { return defers(r) ? p : q; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_ENTROPY_H_
