// Every rule's law against its formula (formulas.h), and what the judge samples against both.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/policies/formulas.h"
#include "tests/policies/sweep.h"

namespace tandem {
namespace {

constexpr double kLawTolerance = 1e-6;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// mentored's law is found by a search in fp32.
void ExpectMentored(const PositionLaws& l, double budget, const Probs& pi) {
  // KL is summed in fp32 from logarithms to 2e-7, and 1e-6 of the budget may be left.
  const double slack = 1e-6 * budget + 5e-7;
  if (Kl(l.p, l.q) > budget + slack) {
    ASSERT_LE(Kl(l.p, pi), budget + slack);
  }
  const Mentored want = MentoredLaw(l.q, l.p, budget);
  // The mass over which pi changes when KL does: d pi / d KL = 1 / (beta - alpha).
  const double tolerance = kLawTolerance + (want.beta > want.alpha ? slack / (want.beta - want.alpha) : 0);
  for (size_t v = 0; v < pi.size(); ++v) ASSERT_NEAR(pi[v], want.pi[v], tolerance);
}

Params AllParams(const RuleInfo& info, Params given) {
  for (int i = 0; i < info.n_params(); ++i) given.insert({info.params[i].name, info.params[i].value});
  return given;
}

// Pairs of rows of logits of every shape that has made a sampler wrong.
struct LogitPair {
  Logits q, p;
};
LogitPair RandomPair(std::mt19937& rng, int32_t n) {
  std::uniform_real_distribution<float> uniform(0, 1);
  const float spread = 0.2f + 4 * uniform(rng);
  LogitPair pair = {RandomLogits(rng, n, spread), RandomLogits(rng, n, spread)};
  switch (rng() % 8) {
    case 0:  // equal
      pair.q = pair.p;
      break;
    case 1:  // equal up to rounding
      for (int32_t v = 0; v < n; ++v) pair.q[v] = pair.p[v] + 3;
      break;
    case 2: {  // one-hot target
      const auto at = static_cast<int32_t>(rng() % n);
      for (int32_t v = 0; v < n; ++v) pair.p[v] = v == at ? 1 : -kInfinity;
      break;
    }
    case 3: {  // one-hot draft
      const auto at = static_cast<int32_t>(rng() % n);
      for (int32_t v = 0; v < n; ++v) pair.q[v] = v == at ? 1 : -kInfinity;
      break;
    }
    case 4:  // disjoint supports
      for (int32_t v = 0; v < n && n > 1; ++v) (v % 2 == 0 ? pair.q : pair.p)[v] = -kInfinity;
      break;
    case 5:  // the draft is close to the target
      for (int32_t v = 0; v < n; ++v) pair.q[v] = pair.p[v] + 0.1f * pair.q[v];
      break;
    default:
      break;
  }
  return pair;
}

Sampling RandomSampling(std::mt19937& rng, int32_t n) {
  switch (rng() % 6) {
    case 0:
      return {0};
    case 1:
      return {0.6f};
    case 2:
      return {1.7f};
    case 3:
      return {0.8f, static_cast<int32_t>(1 + rng() % n)};
    case 4:
      return {1, 0, 0.8f};
    default:
      return {1};
  }
}

TEST(Rules, EveryRuleHasAFormulaHere) {
  auto formulas = Formulas();
  for (const RuleEntry& rule : BuiltInRules()) {
    EXPECT_TRUE(formulas.count(rule.info->name) == 1 || std::string(rule.info->name) == "mentored")
        << rule.info->name << ": write its formula in this file";
  }
  EXPECT_EQ(BuiltInRules().size(), formulas.size() + 1);
}

TEST(Rules, TheClaimedLawIsTheFormula) {
  const auto formulas = Formulas();
  std::mt19937 rng(11);
  for (const Combination& combination : AllCombinations()) {
    if (combination.options.verification == Verification::kBlock || combination.options.bonus == Bonus::kPi)
      continue;
    const auto policy = MustCreate(combination);
    const std::string rule = policy->info().name;
    const Params params = AllParams(policy->info(), combination.options.params);
    for (int trial = 0; trial < 1500; ++trial) {
      const auto n = static_cast<int32_t>(1 + rng() % 7);
      OneSlot slot(*policy, n, 1, RandomSampling(rng, n), combination.draft_has_law);
      const LogitPair pair = RandomPair(rng, n);
      slot.Set(0, pair.q, pair.p);
      const PositionLaws laws = slot.Laws(0, static_cast<int32_t>(rng() % n));
      const Probs pi = policy->ImpliedLaw(laws);
      SCOPED_TRACE(combination.name + " trial " + std::to_string(trial));
      ASSERT_NEAR(std::accumulate(pi.begin(), pi.end(), 0.0), 1, kLawTolerance);
      if (rule == "mentored") {
        ExpectMentored(laws, params.at("budget"), pi);
        continue;
      }
      const Probs want = formulas.at(rule)(laws, params);
      for (int32_t v = 0; v < n; ++v) ASSERT_NEAR(pi[v], want[v], kLawTolerance);
      if (policy->guarantee(laws.greedy) == Guarantee::kExact) {
        for (int32_t v = 0; v < n; ++v) ASSERT_NEAR(pi[v], laws.p[v], kLawTolerance);
      }
    }
  }
}

struct Outcome {
  Probs law;  // of the first token
  double rejected = 0;
};
// Sweeps one position exactly; with a draft law every x ~ q, else x alone.
Outcome SweepPosition(OneSlot& slot, int32_t n, const PositionLaws& laws) {
  Outcome outcome = {Probs(n, 0)};
  for (int32_t x = 0; x < n; ++x) {
    if (laws.q[x] == 0) continue;
    slot.tokens[0] = x;
    slot.enumerator.Run([&] { slot.Judge(); },
                        [&](double measure) {
                          ASSERT_EQ(slot.verdicts.fault[0], Fault::kNone);
                          const bool kept = slot.verdicts.n_keep[0] == 1;
                          outcome.law[kept ? x : slot.verdicts.next[0]] += laws.q[x] * measure;
                          outcome.rejected += kept ? 0 : laws.q[x] * measure;
                        });
  }
  return outcome;
}

TEST(Rules, TheJudgeSamplesTheClaimedLaw) {
  std::mt19937 rng(12);
  for (const Combination& combination : AllCombinations()) {
    if (combination.options.bonus == Bonus::kPi) continue;
    const auto policy = MustCreate(combination);
    for (int trial = 0; trial < 300; ++trial) {
      const auto n = static_cast<int32_t>(1 + rng() % 6);
      OneSlot slot(*policy, n, 1, RandomSampling(rng, n), combination.draft_has_law);
      const LogitPair pair = RandomPair(rng, n);
      slot.Set(0, pair.q, pair.p);
      slot.Set(1, pair.q, pair.p);
      const PositionLaws laws = slot.Laws(0, static_cast<int32_t>(rng() % n));
      SCOPED_TRACE(combination.name + " trial " + std::to_string(trial));
      const Outcome outcome = SweepPosition(slot, n, laws);
      const Probs pi = policy->ImpliedLaw(laws);
      for (int32_t v = 0; v < n; ++v) ASSERT_NEAR(outcome.law[v], pi[v], kLawTolerance);
      // A law is sampled with the fewest rejections there can be.
      if (policy->kind() == Kind::kLaw || policy->kind() == Kind::kTokenWise) {
        ASSERT_NEAR(outcome.rejected, Tv(pi, laws.q), kLawTolerance);
      }
    }
  }
}

// More than two blocks of kLawBlock tokens, and a q and p over different numbers of them.
TEST(Rules, LargeVocabulary) {
  std::mt19937 rng(13);
  const int32_t n = 2500;
  for (const Combination& combination : AllCombinations()) {
    if (combination.options.bonus == Bonus::kPi || combination.options.verification == Verification::kBlock)
      continue;
    const auto policy = MustCreate(combination);
    // One setting of each rule: the loops over the vocabulary are the same for all.
    if (combination.options.params != CheckSettings(policy->info()).back()) continue;
    OneSlot slot(*policy, n, 1, {0.9f}, combination.draft_has_law);
    Logits p = RandomLogits(rng, n, 3), q = RandomLogits(rng, n, 1);
    for (int32_t v = 0; v < n; ++v) q[v] += p[v];
    slot.Set(0, q, p);
    slot.Set(1, q, p);
    SCOPED_TRACE(combination.name);
    const auto x = static_cast<int32_t>(rng() % n);
    PositionLaws laws = slot.Laws(0, x);
    if (combination.draft_has_law) {
      // 2,500 tokens replaced by one of 2,500 each would take long: x alone.
      slot.tokens[0] = x;
      Probs replaced(n, 0);
      double kept = 0;
      slot.enumerator.Run([&] { slot.Judge(); },
                          [&](double measure) {
                            ASSERT_EQ(slot.verdicts.fault[0], Fault::kNone);
                            if (slot.verdicts.n_keep[0] == 1) {
                              kept += measure;
                            } else {
                              replaced[slot.verdicts.next[0]] += measure;
                            }
                          });
      if (policy->kind() != Kind::kLaw && policy->kind() != Kind::kTokenWise) continue;
      const Probs pi = policy->ImpliedLaw(laws);
      ASSERT_NEAR(kept, std::min(1.0, pi[x] / laws.q[x]), 1e-5);
      const double rejected = Tv(pi, laws.q);
      for (int32_t v = 0; v < n && kept < 1; ++v) {
        ASSERT_NEAR(replaced[v] / (1 - kept), std::max(0.0, pi[v] - laws.q[v]) / rejected, 1e-5);
      }
    } else {
      const Outcome outcome = SweepPosition(slot, n, laws);
      const Probs pi = policy->ImpliedLaw(laws);
      for (int32_t v = 0; v < n; ++v) ASSERT_NEAR(outcome.law[v], pi[v], kLawTolerance);
    }
  }
}

// Section "at T = 0" of the table: with a = argmax q proposed and b = argmax p, a stays iff a = b or the test
// holds.
TEST(Rules, GreedyForms) {
  using Test = std::function<bool(const PositionLaws&, Params, int a, int b)>;
  const Test never = [](const PositionLaws&, Params, int, int) { return false; };
  const Test as_diff = [](const PositionLaws& l, Params a, int x, int y) {
    return l.q1[x] >= l.p1[y] - a["alpha"];
  };
  std::map<std::string, Test> tests = {
      {"lossless", never},
      {"sample_match", never},
      {"greedy", never},
      {"typical", never},
      {"lossy_sd", never},
      {"mentored", never},
      {"threshold_single_acc", never},
      {"diff", as_diff},
      {"opt", as_diff},
      {"token_v1", as_diff},
      {"chow", [](const PositionLaws& l, Params a, int x, int) { return l.q1[x] >= 1 - a["alpha"]; }},
      {"token_v2",
       [](const PositionLaws& l, Params a, int x, int y) { return l.p1[x] >= l.p1[y] - a["alpha"]; }},
      {"token_v3",
       [](const PositionLaws& l, Params a, int x, int y) { return l.p1[x] >= (1 - a["alpha"]) * l.p1[y]; }},
      {"lenience",
       [](const PositionLaws& l, Params a, int x, int y) { return l.p1[x] >= a["lenience"] * l.p1[y]; }},
      {"top_k",
       [](const PositionLaws& l, Params a, int x, int) {
         return std::count_if(l.p1.begin(), l.p1.end(), [&](double p) { return p > l.p1[x]; }) < a["k"];
       }},
      {"ensemble",
       [](const PositionLaws& l, Params a, int x, int y) {
         const double w = a["weight"];
         return w * l.p1[x] + (1 - w) * l.q1[x] > w * l.p1[y] + (1 - w) * l.q1[y];
       }},
      {"entropy",
       [](const PositionLaws& l, Params a, int, int) {
         double entropy = 0;
         for (const double q : l.q1) entropy -= q > 0 ? q * std::log(q) : 0;
         return entropy <= a["alpha"];
       }},
      {"bild", [](const PositionLaws& l, Params a, int x,
                  int) { return l.q1[x] >= a["fallback"] && -std::log(l.p1[x]) <= a["rollback"]; }},
  };
  std::mt19937 rng(14);
  std::map<std::string, int> kept, replaced;
  for (const Combination& combination : AllCombinations()) {
    if (!combination.draft_has_law || combination.options.bonus == Bonus::kPi) continue;
    const auto policy = MustCreate(combination);
    const std::string rule = policy->info().name;
    ASSERT_EQ(tests.count(rule), 1u) << rule;
    const Params params = AllParams(policy->info(), combination.options.params);
    for (int trial = 0; trial < 200; ++trial) {
      OneSlot slot(*policy, 6, 1, {0}, true);
      const Logits q = RandomLogits(rng, 6, 2), p = RandomLogits(rng, 6, 2);
      slot.Set(0, q, p);
      slot.Set(1, q, p);
      const PositionLaws laws = slot.Laws(0);
      const int a = ArgMax(laws.q1), b = ArgMax(laws.p1);
      slot.tokens[0] = a;
      const bool want = a == b || tests[rule](laws, params, a, b);
      int runs = 0;
      slot.enumerator.Run([&] { slot.Judge(); },
                          [&](double measure) {
                            ++runs;
                            EXPECT_EQ(measure, 1);
                            // bild hands over where the draft is unsure, also if both models agree on the
                            // token.
                            const bool same = rule == "bild" && a == b;
                            EXPECT_TRUE(same || (slot.verdicts.n_keep[0] == 1) == want)
                                << combination.name << " trial " << trial;
                            EXPECT_EQ(slot.verdicts.next[0], b);
                          });
      EXPECT_EQ(runs, 1) << "nothing is random at T = 0";
      if (a != b) ++(want ? kept : replaced)[rule];
    }
  }
  for (const RuleEntry& rule : BuiltInRules()) EXPECT_GT(replaced[rule.info->name], 0) << rule.info->name;
  for (const char* rule :
       {"chow", "diff", "opt", "token_v1", "token_v2", "token_v3", "top_k", "ensemble", "lenience", "bild"}) {
    EXPECT_GT(kept[rule], 0) << rule;
  }
}

struct Distances {
  double to_p = 0, to_q = 0;
};
Distances MeanDistances(const char* rule, const Params& setting, int32_t n) {
  const auto policy = *Policy::Create({rule, setting}, true);
  std::mt19937 rng(15);
  const int n_trials = 200;
  Distances mean;
  for (int trial = 0; trial < n_trials; ++trial) {
    OneSlot slot(*policy, n, 1, {0.7f}, true);
    slot.Set(0, RandomLogits(rng, n, 1.5f), RandomLogits(rng, n, 1.5f));
    const PositionLaws laws = slot.Laws(0);
    const Probs pi = policy->ImpliedLaw(laws);
    mean.to_p += Tv(pi, laws.p) / n_trials;
    mean.to_q += Tv(pi, laws.q) / n_trials;
  }
  return mean;
}

// On the vocabularies of `rules check` a lossy rule must show a law that is neither p nor q, or a judge that
// mixed them up would pass: at every check setting on three tokens, at one or more on two. Defaults are for
// real vocabularies.
TEST(Rules, CheckSettingsAreNotDegenerate) {
  const double shown = 0.02;
  for (const RuleEntry& rule : BuiltInRules()) {
    if (rule.info->guarantee == Guarantee::kExact) continue;
    int n_shown_on_two = 0;
    for (const auto& setting : CheckSettings(*rule.info)) {
      if (setting.empty() && rule.info->n_params() > 0) continue;
      std::string name = rule.info->name;
      for (const auto& [key, value] : setting) name += " " + key + "=" + std::to_string(value);
      const Distances three = MeanDistances(rule.info->name, setting, 3);
      EXPECT_GT(three.to_p, shown) << name;
      EXPECT_GT(three.to_q, shown) << name;
      const Distances two = MeanDistances(rule.info->name, setting, 2);
      n_shown_on_two += two.to_p > shown && two.to_q > shown;
    }
    EXPECT_GT(n_shown_on_two, 0) << rule.info->name;
  }
}

TEST(Rules, LossyBetaIsTheRoot) {
  std::mt19937 rng(16);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto n = static_cast<int32_t>(2 + rng() % 7);
    const double alpha = 0.9 * (rng() % 1000) / 1000;
    const auto policy = *Policy::Create({"lossy_sd", {{"alpha", alpha}}}, true);
    OneSlot slot(*policy, n, 1, {1}, true);
    const LogitPair pair = RandomPair(rng, n);
    slot.Set(0, pair.q, pair.p);
    const PositionLaws laws = slot.Laws(0);
    const Probs pi = policy->ImpliedLaw(laws);
    ASSERT_NEAR(std::accumulate(pi.begin(), pi.end(), 0.0), 1, kLawTolerance);
    const double beta = Beta(laws.q, laws.p, 1 - alpha);
    ASSERT_GE(beta, 1 - 1e-9);
    // Where q is under p / beta, pi is p / beta.
    for (int32_t v = 0; v < n; ++v) {
      ASSERT_TRUE(laws.q[v] >= laws.p[v] / beta || std::abs(pi[v] - laws.p[v] / beta) < kLawTolerance);
    }
  }
}

// Of all ways to replace a token that is refused at a given alpha, beta's is the closest to p.
TEST(Rules, LossyResidualIsTheClosest) {
  std::mt19937 rng(17);
  for (int trial = 0; trial < 500; ++trial) {
    const auto policy = *Policy::Create({"lossy_sd", {{"alpha", 0.4}}}, true);
    OneSlot slot(*policy, 5, 1, {1}, true);
    slot.Set(0, RandomLogits(rng, 5, 2), RandomLogits(rng, 5, 2));
    const PositionLaws l = slot.Laws(0);
    const Probs plain = TestLaw(
        l.q, [&](size_t x) { return std::min(1.0, l.p[x] / (0.6 * l.q[x])); },
        [&](size_t) { return PositivePart(l.p, l.q); });
    ASSERT_LE(Kl(l.p, policy->ImpliedLaw(l)), Kl(l.p, plain) + kLawTolerance);
  }
}

TEST(Rules, LogRatio) {
  for (double exponent = -80; exponent < 80; exponent += 0.0371) {
    const float a = static_cast<float>(std::exp(exponent / 2)),
                b = static_cast<float>(std::exp(-exponent / 2));
    const double want = std::log(static_cast<double>(a) / b);
    // The polynomial's error, and half an ulp of the result and of the ratio.
    EXPECT_NEAR(LogRatio(a, b), want, 2e-7 + std::abs(want) * 1.2e-7);
  }
  EXPECT_EQ(LogRatio(1, 1), 0);
  EXPECT_EQ(LogRatio(1, 0), kInfinity);
}

}  // namespace
}  // namespace tandem
