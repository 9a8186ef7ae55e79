// Rules that say `either`: pi is the draft's law or the target's, whole, at every position.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "policies/registry.h"

namespace tandem {
namespace {

// What replaces a token has the weights max(0, p - q), or nothing has any; and both come up.
TEST(Either, ReplacementsHaveTheWeightsOfTheTarget) {
  constexpr int kVocab = 300;
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  int n_rules = 0;
  for (const RuleEntry& rule : Rules()) {
    if (!rule.info->either) continue;
    SCOPED_TRACE(rule.info->name);
    ++n_rules;
    int n_p = 0, n_q = 0;
    for (int round = 0; round < 300; ++round) {
      std::vector<float> q(kVocab), p(kVocab), weights(kVocab);
      for (float* law : {q.data(), p.data()}) {
        for (int v = 0; v < kVocab; ++v) law[v] = v % 7 == 0 ? 0 : uniform(rng) / 100;
      }
      Row row;
      for (LawFigures* of : {&row.q, &row.p, &row.q1, &row.p1}) *of = {uniform(rng), uniform(rng), 3, 1, 2};
      row.x = 5;
      row.tv = uniform(rng);
      row.q1_at_top_of_p = uniform(rng);
      row.p1_at_top_of_q = uniform(rng);
      float params[kMaxParams];
      for (int i = 0; i < kMaxParams; ++i) {
        const ParamInfo& param = rule.info->params[i];
        params[i] = param.check.n > 0 ? param.check.value[rng() % param.check.n] : param.value;
      }
      const Tokens tokens = {.q = q.data(), .p = p.data(), .q1 = q.data(), .p1 = p.data(), .n = kVocab};
      ASSERT_TRUE(rule.weights(params, row, Solved(), tokens, 0, kVocab, 1, weights.data()));
      bool is_p = true, is_q = true;
      for (int v = 0; v < kVocab; ++v) {
        is_p &= weights[v] == std::max(p[v] - q[v], 0.f);
        is_q &= weights[v] == 0;
      }
      EXPECT_NE(is_p, is_q);
      n_p += is_p;
      n_q += is_q;
    }
    EXPECT_GT(n_p, 10);
    EXPECT_TRUE(n_q > 10 || rule.info->guarantee == Guarantee::kExact);  // that one's is p everywhere
  }
  EXPECT_GT(n_rules, 0);
}

}  // namespace
}  // namespace tandem
