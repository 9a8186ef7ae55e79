#ifndef TANDEM_POLICIES_RULES_LOSSY_SD_H_
#define TANDEM_POLICIES_RULES_LOSSY_SD_H_

#include "policies/rule.h"

namespace tandem::rules {

struct LossySd {
  static constexpr RuleInfo kInfo{
      .name = "lossy_sd",
      .params = {{"alpha", 0, 0.99f, 0.2f, "0: lossless; higher: keep more", {0.3f, 0.6f}}},
      .about = "the draft's law between p / beta and p / (1 - alpha); beta makes it a law",
      .tests = "q, p",
      .at_zero = "keep x iff x = argmax p",
      .source = "arXiv 2405.19261, lemma 2; Tran-Thien 2023"};
  float alpha;

  using Derived = ClampedLaw;
  template <typename Sum>
  TANDEM_HD Derived solve(const Row&, const Sum& sum) const {
    return ClampedLaw::Solve(1 / (1 - alpha), 1, sum);
  }
  // lower p is never over upper p: where x is rated too high, pi is upper p.
  TANDEM_HD float chance(const Row& r) const {
    const float pi = r.p.x / (1 - alpha);
    return pi >= r.q.x ? 1 : pi / r.q.x;
  }
  TANDEM_HD float law(float q, float p, const Row&, const Derived& d) const { return d.pi(q, p); }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_LOSSY_SD_H_
