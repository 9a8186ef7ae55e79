#ifndef TANDEM_POLICIES_RULES_THRESHOLD_SINGLE_ACC_H_
#define TANDEM_POLICIES_RULES_THRESHOLD_SINGLE_ACC_H_

#include "policies/rule.h"

namespace tandem::rules {

struct ThresholdSingleAcc {
  static constexpr RuleInfo kInfo{
      .name = "threshold_single_acc",
      .params = {{"single", 0, 1, 1, "p(x) from which x always stays", {0.3f, 0.6f}},
                 {"acc", 0.01f, 1, 1, "else x stays with probability p(x) / acc", {0.4f, 0.9f}}},
      .about = "sample_match with thresholds; at 1, 1 it is lossless",
      .tests = "p",
      .fallback = "p without x",
      .at_zero = "keep x iff x = argmax p",
      .source = "SGLang, speculative_accept_threshold_single and _acc"};
  float single, acc;

  TANDEM_HD float accept(const Row& r) const {
    if (r.greedy) return r.x == r.p.argmax;
    return r.p.x >= single || r.p.x >= acc ? 1 : r.p.x / acc;
  }
  TANDEM_HD float fallback(const Token& t, const Row& r) const { return t.id == r.x ? 0 : t.p; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_THRESHOLD_SINGLE_ACC_H_
