// Sampled output against the exact law, by Pearson's chi-square: what exact_law_test sweeps, here with the real
// generator and its keys, over many seeds.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

constexpr int kSamples = 20000;
const Sampling kSampling{.temperature = 0.7f, .top_p = 0.9f};

// The sampling law by definition: softmax at the temperature, the fewest likeliest tokens that reach top_p, renormalized.
std::vector<double> LawOf(const std::vector<float>& logits, double temperature, double top_p) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> law(logits.size());
  double total = 0;
  for (size_t v = 0; v < law.size(); ++v) total += law[v] = std::exp(logits[v] / temperature);
  double kept = 0;
  for (size_t v : order) {
    const bool enough = kept >= top_p * total;
    kept += enough ? 0 : law[v];
    if (enough) law[v] = 0;
  }
  for (double& p : law) p /= kept;
  return law;
}

// How improbable the counts are under the law, as a standard normal deviate (Wilson and Hilferty, PNAS 1931). Cells that
// expect fewer than five are taken together.
double Deviate(const std::vector<int>& counts, const std::vector<double>& law) {
  double chi_square = 0, rest_expected = 0, rest_seen = 0;
  int n_cells = 0;
  const auto add = [&](double seen, double expected) {
    chi_square += (seen - expected) * (seen - expected) / expected;
    ++n_cells;
  };
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = law[i] * kSamples;
    if (expected >= 5) {
      add(counts[i], expected);
    } else {
      rest_expected += expected;
      rest_seen += counts[i];
    }
  }
  if (rest_expected > 0) {
    add(rest_seen, rest_expected);
  } else if (rest_seen > 0) {
    return INFINITY;  // a token of probability 0
  }
  const double k = n_cells - 1;
  return (std::cbrt(chi_square / k) - (1 - 2 / (9 * k))) / std::sqrt(2 / (9 * k));
}

constexpr double kDeviateOfOneInTenThousand = 3.719;

// The law of the two tokens after the prompt.
std::vector<double> PairLaw(const HashChainModel& model, const std::vector<int32_t>& prompt,
                            double temperature) {
  std::vector<double> joint;
  for (const double first : LawOf(model.Logits(prompt), temperature, kSampling.top_p)) {
    std::vector<int32_t> prefix = prompt;
    prefix.push_back(static_cast<int32_t>(joint.size() / kVocab));
    for (const double second : LawOf(model.Logits(prefix), temperature, kSampling.top_p)) {
      joint.push_back(first * second);
    }
  }
  return joint;
}

TEST(ChiSquare, TheDeviateIsThatOfKnownCounts) {
  // 12 degrees of freedom: chi-square 26.217 has p = 0.01, the deviate 2.326 (tables). All of one cell: hopeless.
  std::vector<int> counts(13, kSamples / 13);
  const std::vector<double> law(13, 1. / 13);
  const double shift = std::sqrt(26.217 * kSamples / 13 / 2);
  counts[0] += static_cast<int>(shift);
  counts[1] -= static_cast<int>(shift);
  EXPECT_NEAR(Deviate(counts, law), 2.326, 0.05);
  EXPECT_GT(Deviate({kSamples, 0}, {0.5, 0.5}), 10);
}

TEST(ChiSquare, SampledRunsFollowTheTargetsLaw) {
  const auto target = HashTarget();
  const std::vector<int32_t> prompt = SomePrompt(7, 21);
  struct Case {
    const char* name;
    PairSpec pair;
    PolicyOptions policy;
    int32_t gamma;
  };
  const PairSpec model{.target = {.model = target}, .draft = ModelSpec{.model = HashDraft()}};
  const PairSpec ngram{.target = {.model = target}, .ngram = NgramSpec{.min = 1, .max = 3}};
  for (const Case& c :
       {Case{"plain", {.target = {.model = target}}, {}, 0}, Case{"token", model, {}, 3},
        Case{"block", model, {.verification = Verification::kBlock}, 3},
        Case{"sample_match", model, {.rule = "sample_match"}, 2}, Case{"ngram", ngram, {}, 3}}) {
    auto engine = MakeEngine({.n_slots = 8, .gamma = c.gamma, .max_context = 16}, c.pair,
                             MakePolicy(c.policy, c.pair.draft.has_value()));
    std::vector<Request> requests;
    for (int i = 0; i < kSamples; ++i) {
      requests.push_back(
          {.prompt = prompt, .sampling = kSampling, .seed = static_cast<uint64_t>(i), .max_new_tokens = 6});
    }
    std::vector<int> counts(kVocab * kVocab);
    for (const RequestResult& result : RunAll(*engine, requests)) {
      ++counts[result.token_ids[0] * kVocab + result.token_ids[1]];
    }
    EXPECT_LT(Deviate(counts, PairLaw(*target, prompt, kSampling.temperature)), kDeviateOfOneInTenThousand)
        << c.name;
    // The test can fail: a law a little warmer, and the draft's.
    EXPECT_GT(Deviate(counts, PairLaw(*target, prompt, 0.75)), kDeviateOfOneInTenThousand) << c.name;
    EXPECT_GT(Deviate(counts, PairLaw(*HashDraft(), prompt, kSampling.temperature)),
              kDeviateOfOneInTenThousand);
  }
}

}  // namespace
}  // namespace tandem
