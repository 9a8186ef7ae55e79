#include "policies/judge.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/policies/sweep.h"

namespace tandem {
namespace {

constexpr double kLawTolerance = 1e-6;

using Tokens3 = std::vector<int32_t>;
using JointLaw = std::map<Tokens3, double>;

// A toy pair over `n_vocab` tokens: every prefix has its own two rows of logits.
class Pair {
 public:
  Pair(uint32_t seed, int32_t n_vocab, float spread, bool equal)
      : seed_(seed), n_(n_vocab), spread_(spread), equal_(equal) {}
  Logits q(const Tokens3& prefix) const { return Make(prefix, equal_ ? 1 : 0); }
  Logits p(const Tokens3& prefix) const { return Make(prefix, 1); }

 private:
  Logits Make(const Tokens3& prefix, uint32_t which) const {
    uint32_t hash = seed_ * 2 + which;
    for (int32_t token : prefix) hash = hash * 7919 + static_cast<uint32_t>(token) + 1;
    std::mt19937 rng(hash);
    return RandomLogits(rng, n_, spread_);
  }
  uint32_t seed_;
  int32_t n_;
  float spread_;
  bool equal_;
};

// The law of the first tokens after one round, continued by the claimed law up to `length`, against the
// claimed law.
class RoundLaw {
 public:
  RoundLaw(const Combination& combination, const Pair& pair, int32_t n_vocab, int32_t gamma,
           const Sampling& sampling)
      : policy_(MustCreate(combination)),
        pair_(pair),
        n_vocab_(n_vocab),
        gamma_(gamma),
        round_(*policy_, n_vocab, gamma, sampling, true),
        // A lossy rule's bonus token is p's by default, so the position after the block is not pi's.
        length_(combination.options.bonus == Bonus::kPi || policy_->info().guarantee == Guarantee::kExact
                    ? gamma + 1
                    : gamma) {}

  double LargestDifference() {
    Draft({}, 1);
    Continue({}, 1, &claimed_);
    double worst = 0, total = 0;
    for (const auto& [tokens, probability] : claimed_) {
      worst = std::max(worst, std::abs(probability - got_[tokens]));
    }
    for (const auto& [tokens, probability] : got_) {
      total += probability;
      if (claimed_.count(tokens) == 0) worst = std::max(worst, probability);
    }
    return std::max(worst, std::abs(total - 1));
  }

 private:
  void Open(const Tokens3& prefix, int32_t i) { round_.Set(i, pair_.q(prefix), pair_.p(prefix)); }

  // Proposes every block with its probability, then judges it in every way.
  void Draft(const Tokens3& prefix, double weight) {
    if (weight == 0) return;
    const auto i = static_cast<int32_t>(prefix.size());
    Open(prefix, i);
    if (i == gamma_) return Judge(prefix, weight);
    const std::vector<double> q = round_.Laws(i).q;
    for (int32_t x = 0; x < n_vocab_; ++x) {
      Open(prefix, i);
      Tokens3 next = prefix;
      next.push_back(x);
      Draft(next, weight * q[x]);
    }
  }
  void Judge(const Tokens3& proposed, double weight) {
    std::copy(proposed.begin(), proposed.end(), round_.tokens.begin());
    for (int32_t i = 0; i < gamma_; ++i) Open(Tokens3(proposed.begin(), proposed.begin() + i), i);
    round_.enumerator.Run([&] { round_.Judge(); },
                          [&](double measure) {
                            ASSERT_EQ(round_.verdicts.fault[0], Fault::kNone);
                            const int32_t n_keep = round_.verdicts.n_keep[0];
                            ASSERT_GE(n_keep, 0);
                            ASSERT_LE(n_keep, gamma_);
                            Tokens3 emitted(proposed.begin(), proposed.begin() + n_keep);
                            emitted.push_back(round_.verdicts.next[0]);
                            outcomes_.push_back({emitted, weight * measure});
                          });
    // Continuing changes the rows, so it comes after the round.
    for (const auto& [tokens, measure] : outcomes_) Continue(tokens, measure, &got_);
    outcomes_.clear();
  }
  void Continue(const Tokens3& tokens, double weight, JointLaw* law) {
    if (weight == 0) return;
    if (static_cast<int32_t>(tokens.size()) >= length_) {
      (*law)[Tokens3(tokens.begin(), tokens.begin() + length_)] += weight;
      return;
    }
    Open(tokens, 0);
    const std::vector<double> pi = policy_->ImpliedLaw(round_.Laws(0));
    for (int32_t v = 0; v < n_vocab_; ++v) {
      Tokens3 next = tokens;
      next.push_back(v);
      Continue(next, weight * pi[v], law);
    }
  }

  std::unique_ptr<Policy> policy_;
  const Pair& pair_;
  int32_t n_vocab_, gamma_;
  OneSlot round_;
  int32_t length_;
  JointLaw got_, claimed_;
  std::vector<std::pair<Tokens3, double>> outcomes_;
};

TEST(Judge, SamplesTheClaimedLaw) {
  for (const Combination& combination : AllCombinations()) {
    if (!combination.draft_has_law) continue;
    for (int32_t gamma : {1, 2, 3}) {
      for (const Sampling& sampling : {Sampling{1}, Sampling{0.6f, 2}, Sampling{0}}) {
        for (uint32_t seed : {1, 2}) {
          const Pair pair(seed, 3, 1.5f, false);
          SCOPED_TRACE(combination.name + " gamma " + std::to_string(gamma) + " T " +
                       std::to_string(sampling.temperature));
          RoundLaw law(combination, pair, 3, gamma, sampling);
          EXPECT_LT(law.LargestDifference(), kLawTolerance)
              << combination.name << " gamma " << gamma << " T " << sampling.temperature << " seed " << seed;
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

// The example of arXiv 2403.10444, section 2: q = (2/3, 1/3), p = (1/3, 2/3) at both of two positions.
TEST(Judge, BlockVerificationKeepsMore) {
  for (const auto& [verification, want] :
       {std::pair(Verification::kToken, 10.0 / 9), std::pair(Verification::kBlock, 11.0 / 9)}) {
    const auto policy = *Policy::Create({"lossless", {}, verification}, true);
    OneSlot slot(*policy, 2, 2, {1}, true);
    const Logits q = LogitsOf({2. / 3, 1. / 3}), p = LogitsOf({1. / 3, 2. / 3});
    for (int32_t i = 0; i <= 2; ++i) slot.Set(i, q, p);
    double kept = 0;
    for (int32_t x : {0, 1, 2, 3}) {
      slot.tokens[0] = x / 2;
      slot.tokens[1] = x % 2;
      const double weight = (x / 2 == 0 ? 2. / 3 : 1. / 3) * (x % 2 == 0 ? 2. / 3 : 1. / 3);
      slot.enumerator.Run([&] { slot.Judge(); },
                          [&](double measure) { kept += weight * measure * slot.verdicts.n_keep[0]; });
    }
    EXPECT_NEAR(kept, want, kLawTolerance) << Name(verification);
  }
}

// Of block verification: while P_i is 1 the coin before it shows heads, whatever the residual's mass, of small numbers and
// large ones, is rounded to.
TEST(Judge, ACoinThatIsCertainIsNotTossed) {
  constexpr int32_t kVocab = 30;
  const auto policy = *Policy::Create({.rule = "lossless", .verification = Verification::kBlock}, true);
  std::mt19937 rng(9);
  double least_tails = 1;
  for (int round = 0; round < 300; ++round) {
    OneSlot slot(*policy, kVocab, 2, Sampling{1}, true);
    for (int32_t i = 0; i <= 2; ++i) {
      const Logits q = RandomLogits(rng, kVocab, 8), p = RandomLogits(rng, kVocab, 8);
      slot.Set(i, q, p);
      // The target's likeliest first, so that P_1 is 1, mostly; then any, so that P_2 may be less.
      const auto top = static_cast<int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
      slot.tokens[i] = i == 0 ? top : static_cast<int32_t>(rng() % kVocab);
    }
    slot.enumerator.Run([&] { slot.Judge(); }, [](double) {});
    least_tails = std::min(least_tails, slot.enumerator.least_tails());
  }
  EXPECT_GT(least_tails, 1e-9);  // P_i is made of fp32 numbers
  EXPECT_LT(least_tails, 0.1);
}

}  // namespace
}  // namespace tandem
