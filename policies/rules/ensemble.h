#ifndef TANDEM_POLICIES_RULES_ENSEMBLE_H_
#define TANDEM_POLICIES_RULES_ENSEMBLE_H_

#include "policies/rule.h"

namespace tandem::rules {

struct Ensemble {
  static constexpr RuleInfo kInfo{
      .name = "ensemble",
      .params =
          {{"weight", 0, 1, 0.5f, "of the target's law; 1: lossless, 0: the draft alone", {0.3f, 0.8f}}},
      .about = "the laws' mixture",
      .tests = "q, p; at T = 0 q1, p1",
      .at_zero = "keep x iff the mixture of q1 and p1 gives it more than argmax p, or x = argmax p",
      .source = "Hugging Face, assistant_ensemble_weight"};
  float weight;

  // The mixture of two one-hot laws would be a coin; at T = 0 all weight goes to one of them.
  TANDEM_HD float law(float q, float p, const Row& r) const {
    const float draft = weight * r.p1_at_top_of_q + (1 - weight) * r.q1.max;
    const float target = weight * r.p1.max + (1 - weight) * r.q1_at_top_of_p;
    const float w = !r.greedy ? weight : draft > target ? 0.f : 1.f;
    return w * p + (1 - w) * q;
  }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_ENSEMBLE_H_
