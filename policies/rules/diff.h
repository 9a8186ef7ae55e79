#ifndef TANDEM_POLICIES_RULES_DIFF_H_
#define TANDEM_POLICIES_RULES_DIFF_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Diff {
  static constexpr RuleInfo kInfo{
      .name = "diff",
      .needs = Needs::kDraftLaw,
      .either = true,
      .params = {{"alpha", -1, 1, 0, "higher: defer less", {-0.1f, 0.1f, 0.3f}}},
      .about = "the draft's law where it is at most alpha less sure than the target",
      .tests = "q1, p1",
      .at_zero = "keep x iff max q1 >= max p1 - alpha, or x = argmax p",
      .source = "arXiv 2405.19261, eq. (5)"};
  float alpha;

  TANDEM_HD bool defers(const Row& r) const { return r.q1.max < r.p1.max - alpha; }
  TANDEM_HD float law(float q, float p, const Row& r) const { return defers(r) ? p : q; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_DIFF_H_
