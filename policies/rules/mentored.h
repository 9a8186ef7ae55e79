#ifndef TANDEM_POLICIES_RULES_MENTORED_H_
#define TANDEM_POLICIES_RULES_MENTORED_H_

#include <cmath>

#include "policies/rule.h"

namespace tandem::rules {

struct Mentored {
  static constexpr RuleInfo kInfo{
      .name = "mentored",
      .params = {{"budget", 0, 10, 0.1f, "nats of KL(p || pi) at each position; 0: lossless", {0.05f, 0.3f}}},
      .about = "the law closest to the draft's whose divergence from the target's is within a budget",
      .tests = "q, p",
      .at_zero = "keep x iff x = argmax p",
      .source = "Tran-Thien 2023, mentored decoding"};
  float budget;

  struct Derived {
    ClampedLaw law;
    bool all;  // KL(p || q) is within the budget: pi = q
  };

  // As log(upper) rises from 0, KL(p || pi) rises from 0, at first with its square: Newton's steps on the
  // square root of KL, kept inside the bracket by bisection. What is returned never exceeds the budget, and
  // is so close to it that another order of summation gives the same law up to rounding.
  template <typename Sum>
  TANDEM_HD Derived solve(const Row&, const Sum& sum) const {
    const double divergence = sum([](float q, float p) { return p > 0 ? p * LogRatio(p, q) : 0.f; });
    if (divergence <= budget) return {{}, true};
    ClampedLaw within = {1, 1};
    if (budget == 0) return {within, false};
    constexpr double kSlack = 1e-6, kResolution = 2e-7;
    const double goal = std::sqrt((1 - kSlack / 2) * budget);
    double low = 0, high = 16, at = 0.5;  // log(upper)
    for (int step = 0; high - low > 1.5 * kResolution; ++step) {
      const ClampedLaw law = ClampedLaw::Solve(static_cast<float>(std::exp(at)), within.lower, sum);
      const ClampedLaw::Divergence used = law.From(sum);
      if (used.value <= budget) {
        low = at;
        within = law;
        if (used.value >= (1 - kSlack) * budget) break;
      } else {
        high = at;
      }
      const double root = std::sqrt(used.value);
      at += (goal - root) * 2 * root / used.slope;
      // About 5 steps are usual; the bound is for rows that are mostly rounding.
      if (step >= 20 || !(at > low && at < high)) at = (low + high) / 2;
      if (at < low + kResolution) at = low + kResolution;
      if (at > high - kResolution) at = high - kResolution;
    }
    return {within, false};
  }
  TANDEM_HD float chance(const Row& r) const { return r.p.x >= r.q.x ? 1 : NAN; }
  TANDEM_HD float law(float q, float p, const Row&, const Derived& d) const {
    const float clamped = d.law.pi(q, p);
    return d.all ? q : clamped;
  }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_MENTORED_H_
