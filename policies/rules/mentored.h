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

  // KL(p || pi) falls from that of pi near q, at upper = infinity, to 0 at upper = 1. Bisects on log(upper)
  // for the budget, from within it: what is returned never exceeds it and uses 99 % of it.
  template <typename Sum>
  TANDEM_HD Derived solve(const Row&, const Sum& sum) const {
    const double divergence =
        sum([](float q, float p) { return p > 0 ? static_cast<double>(p) * std::log(p / q) : 0.0; });
    if (divergence <= budget) return {{}, true};
    ClampedLaw within = {1, 1};
    if (budget == 0) return {within, false};
    double low = 0, high = 16;  // of log(upper)
    ClampedLaw law = ClampedLaw::Solve(static_cast<float>(std::exp(high)), within.lower, sum);
    if (law.Divergence(sum) <= budget) return {law, false};
    for (int step = 0; step < 24; ++step) {
      const double middle = (low + high) / 2;
      law = ClampedLaw::Solve(static_cast<float>(std::exp(middle)), within.lower, sum);
      const double used = law.Divergence(sum);
      (used <= budget ? low : high) = middle;
      if (used <= budget) within = law;
      if (used <= budget && used >= 0.99 * budget) break;
    }
    return {within, false};
  }
  TANDEM_HD bool surely_keeps(const Row& r) const { return r.p.x >= r.q.x; }
  TANDEM_HD float law(float q, float p, const Row&, const Derived& d) const {
    return d.all ? q : d.law.pi(q, p);
  }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_MENTORED_H_
