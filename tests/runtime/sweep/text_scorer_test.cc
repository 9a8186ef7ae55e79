// Laws along given texts against the model's own definition, and distances of rules' laws against formulas that are
// written apart from the rules (tests/policies/formulas.h).
#include "runtime/sweep/text_scorer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/policies/formulas.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

// Softmax in double of logits / T; one-hot at T = 0.
Probs LawAt(const std::vector<float>& logits, double temperature) {
  if (temperature == 0) {
    return OneHot(logits.size(), std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  Probs p;
  for (const float logit : logits) p.push_back(std::exp(logit / temperature));
  return Norm(p);
}

// Its tokens under min_p relative to the likeliest taken out.
Probs Truncated(Probs p, double min_p) {
  const double least = min_p * Max(p);
  for (double& x : p) x = x >= least ? x : 0;
  return Norm(p);
}

TEST(TextScorer, RowsAreTheLawsAfterEachPrefix) {
  const auto model = HashTarget();
  TextScorer scorer({model, ActivationDType::kF32, ""}, 400, 40, 2);
  // Prompts of one token, of less and of more than a chunk; a second text after a longer one.
  for (const auto& [n_prompt, n_tokens] :
       std::vector<std::pair<int, int>>{{1, 1}, {300, 40}, {7, 5}, {129, 2}}) {
    const std::vector<int32_t> prompt = SomePrompt(n_prompt, 3);
    const std::vector<int32_t> tokens = SomePrompt(n_tokens, 4);
    const LawBuffer laws = scorer.Score(prompt, tokens);
    std::vector<int32_t> prefix = prompt;
    for (int i = 0; i < n_tokens; ++i) {
      const std::vector<float> expected = model->Logits(prefix);
      const float* row = laws.logits + static_cast<int64_t>(i) * laws.stride;
      EXPECT_EQ(std::vector<float>(row, row + kVocab), expected) << n_prompt << " + " << i;
      // A sum of 13 terms in double.
      EXPECT_NEAR(LogProbability(row, kVocab, tokens[i]), std::log(LawAt(expected, 1)[tokens[i]]), 1e-12);
      prefix.push_back(tokens[i]);
    }
  }
}

struct Rule {
  const char* name;
  Params params;
};

TEST(TextScorer, DistancesAreThoseOfTheFormulas) {
  const Rule rules[] = {{"lossless", {}},
                        {"chow", {{"alpha", 0.6}}},
                        {"diff", {{"alpha", 0.1}}},
                        {"opt", {{"alpha", 0.2}}},
                        {"token_v1", {{"alpha", 0.2}}},
                        {"token_v2", {{"alpha", 0.2}}},
                        {"token_v3", {{"alpha", 0.6}}},
                        {"lossy_sd", {{"alpha", 0.5}}},
                        {"lenience", {{"lenience", 0.4}}},
                        {"bild", {{"fallback", 0.2}, {"rollback", 2}}},
                        {"typical", {{"eps", 0.2}, {"delta", 0.5}}}};
  const auto target = HashTarget();
  const auto draft = HashDraft();
  TextScorer target_scorer({target, ActivationDType::kF32, ""}, 100, 20, 1);
  TextScorer draft_scorer({draft, ActivationDType::kF32, ""}, 100, 20, 1);
  const std::vector<int32_t> prompt = SomePrompt(6, 3);
  const std::vector<int32_t> tokens = SomePrompt(20, 5);
  const LawBuffer p = target_scorer.Score(prompt, tokens);
  const LawBuffer q = draft_scorer.Score(prompt, tokens);
  const auto formulas = Formulas();
  for (const double temperature : {0.0, 0.7, 1.0}) {
    for (const double min_p : {0.0, 0.3}) {
      const Sampling sampling{static_cast<float>(temperature), 0, 1, static_cast<float>(min_p)};
      const Sampling reference{static_cast<float>(temperature)};
      for (const Rule& rule : rules) {
        const auto policy = MakePolicy({.rule = rule.name, .params = rule.params});
        double total = 0;
        std::vector<int32_t> prefix = prompt;
        for (size_t i = 0; i < tokens.size(); prefix.push_back(tokens[i++])) {
          const std::vector<float> q_logits = draft->Logits(prefix), p_logits = target->Logits(prefix);
          PositionLaws laws{.q = LawAt(q_logits, temperature),
                            .p = LawAt(p_logits, temperature),
                            .q1 = LawAt(q_logits, 1),
                            .p1 = LawAt(p_logits, 1),
                            .greedy = temperature == 0};
          const Probs whole = laws.p;
          laws.q = Truncated(laws.q, min_p);
          laws.p = Truncated(laws.p, min_p);
          const double expected = Tv(formulas.at(rule.name)(laws, rule.params), whole);
          const double got = DistanceToTarget(*policy, q, p, static_cast<int64_t>(i), sampling, reference);
          // Rules compute in float; of a test rule, tokens of less than kIgnoredMass were left out and the rest scaled.
          const double tolerance = policy->kind() == Kind::kTest ? 2 * kIgnoredMass : 2e-6;
          EXPECT_NEAR(got, expected, tolerance) << rule.name << " T " << temperature << " min_p " << min_p;
          total += got;
          const double own = DraftDistanceToTarget(q, p, static_cast<int64_t>(i), reference);
          EXPECT_NEAR(own, Tv(LawAt(q_logits, temperature), whole), 2e-6);
        }
        const bool lossless = std::string(rule.name) == "lossless";
        if (min_p == 0 && lossless) {
          EXPECT_LT(total, 1e-5);
        } else if (min_p == 0 && temperature > 0) {
          EXPECT_GT(total, 0.1) << rule.name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem
