#ifndef TANDEM_POLICIES_RULES_CHOW_H_
#define TANDEM_POLICIES_RULES_CHOW_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Chow {
  static constexpr RuleInfo kInfo{
      .name = "chow",
      .needs = Needs::kDraftLaw,
      .draft_only = true,
      .either = true,
      .params = {{"alpha", 0, 1, 0.5f, "0: defer always, 1: never", {0.2f, 0.35f, 0.45f}}},
      .about = "the draft's law where its likeliest token has at least 1 - alpha",
      .tests = "q1",
      .at_zero = "keep x iff max q1 >= 1 - alpha, or x = argmax p",
      .source = "arXiv 2405.19261, eq. (2)"};
  float alpha;

  TANDEM_HD bool defers(const Row& r) const { return r.q1.max < 1 - alpha; }
  TANDEM_HD float law(float q, float p, const Row& r) const { return defers(r) ? p : q; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_CHOW_H_
