#ifndef TANDEM_POLICIES_RULES_OPT_H_
#define TANDEM_POLICIES_RULES_OPT_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Opt {
  static constexpr RuleInfo kInfo{
      .name = "opt",
      .needs = Needs::kTv | Needs::kDraftLaw,
      .either = true,
      .params = {{"alpha", -10, 10, 0, "higher: defer less", {-0.3f, 0.2f, 0.6f}}},
      .about =
          "the draft's law unless the target is surer by more than alpha times "
          "what deferring costs, TV(q, p)",
      .tests = "q1, p1; TV of q, p",
      .at_zero = "keep x iff max q1 >= max p1 - alpha, or x = argmax p",
      .source = "arXiv 2405.19261, eq. (10)"};
  float alpha;

  TANDEM_HD bool defers(const Row& r) const { return r.q1.max < r.p1.max - alpha * r.tv; }
  TANDEM_HD float law(float q, float p, const Row& r) const { return defers(r) ? p : q; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_OPT_H_
