// What the tests of policies share: enumeration of every outcome of a step with its exact probability, and
// one slot's round over given logits.
#ifndef TANDEM_TESTS_POLICIES_SWEEP_H_
#define TANDEM_TESTS_POLICIES_SWEEP_H_

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/law/law.h"
#include "kernels/total_variation/total_variation.h"
#include "policies/policy.h"
#include "policies/registry.h"

namespace tandem {

// Runs `step` once for every cell of the product of the uniforms it asks for: the first time each answers 0,
// and every breakpoint that is reported is then visited. No key may be asked for twice in a run.
class Enumerator : public UniformProbe {
 public:
  // visit(measure): called after each run. The measures add up to 1.
  void Run(const std::function<void()>& step, const std::function<void(double)>& visit) {
    path_.clear();
    double total = 0;
    do {
      depth_ = 0;
      step();
      ASSERT_EQ(depth_, path_.size()) << "a run must ask for the same keys as the run that it branches off";
      double measure = 1;
      for (const Node& node : path_) measure *= node.high - node.low;
      total += measure;
      visit(measure);
    } while (Next());
    ASSERT_NEAR(total, 1, 1e-9);
  }

  double Draw(const UniformKey& key) override {
    for (size_t i = 0; i < depth_; ++i) EXPECT_FALSE(path_[i].key == key) << "a uniform is used twice";
    if (depth_ == path_.size()) path_.push_back({key, 0, 0, 1, false});
    EXPECT_EQ(path_[depth_].key, key);
    return path_[depth_++].u;
  }
  void Cell(const UniformKey& key, double low, double high) override {
    Node& node = path_[depth_ - 1];
    EXPECT_EQ(node.key, key);
    EXPECT_LE(low, node.u);
    EXPECT_GT(high, node.u);
    EXPECT_TRUE(low == node.u) << "cells must join";
    node.low = low;
    node.high = high;
    node.told = true;
    if (key.purpose == Purpose::kKeep && low > 0) least_tails_ = std::min(least_tails_, high - low);
  }
  // The least probability that a coin which was tossed had of showing tails.
  double least_tails() const { return least_tails_; }

 private:
  struct Node {
    UniformKey key;
    double u, low, high;
    bool told;
  };
  bool Next() {
    while (!path_.empty() && !(path_.back().high < 1)) path_.pop_back();
    if (path_.empty()) return false;
    path_.back().u = path_.back().high;
    return true;
  }

  std::vector<Node> path_;
  size_t depth_ = 0;
  double least_tails_ = 1;
};

using Logits = std::vector<float>;

inline Logits RandomLogits(std::mt19937& rng, int32_t n, float spread) {
  std::normal_distribution<float> normal(0, spread);
  Logits logits(n);
  for (float& x : logits) x = normal(rng);
  return logits;
}

// Logits whose softmax is `probs`.
inline Logits LogitsOf(const std::vector<double>& probs) {
  Logits logits;
  for (double p : probs) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// One slot of a batch with laws over a small vocabulary, judged by a policy.
class OneSlot {
 public:
  OneSlot(Policy& policy, int32_t n_vocab, int32_t gamma, const Sampling& sampling, bool has_law)
      : n_vocab_(n_vocab),
        block_(gamma + 1),
        q_(block_ * n_vocab),
        p_(block_ * n_vocab),
        q_records_(block_),
        p_records_(block_),
        q_blocks_(block_ * NumLawBlocks(n_vocab)),
        p_blocks_(block_ * NumLawBlocks(n_vocab)),
        tokens(block_) {
    state.live = true;
    state.seed = 3;
    state.sequence = 4;
    state.length = 10;
    state.sampling = sampling;
    batch_.n_slots = 1;
    batch_.gamma = gamma;
    batch_.states = &state;
    batch_.uniforms.probe = &enumerator;
    proposal_.block = block_;
    proposal_.n_proposed = &n_proposed;
    proposal_.tokens = tokens.data();
    proposal_.has_law = has_law;
    proposal_.has_bonus_law = has_law;
    if (has_law) proposal_.law = q_laws();
    scores_.block = block_;
    scores_.law = p_laws();
    n_proposed = gamma;
    verdicts = policy.judge(program_, batch_, proposal_, scores_);
  }

  // Sets the laws of position i.
  void Set(int32_t i, const Logits& q, const Logits& p) {
    SetOne(q, q_laws(), i);
    SetOne(p, p_laws(), i);
  }
  LawBuffer q_laws() { return {q_.data(), q_records_.data(), q_blocks_.data(), n_vocab_, n_vocab_}; }
  LawBuffer p_laws() { return {p_.data(), p_records_.data(), p_blocks_.data(), n_vocab_, n_vocab_}; }
  Law q(int32_t i) { return q_laws().row(i); }
  Law p(int32_t i) { return p_laws().row(i); }

  void Judge() {
    for (const Step& step : program_.steps()) {
      if (step.op == Op::kTotalVariation) {
        TotalVariationCpu(program_.args_as<TotalVariationArgs>(step), {});
      } else {
        JudgeCpu(program_.args_as<JudgeArgs>(step), {});
      }
    }
  }

  // The laws of position i in double, computed from the logits; the cutoffs are the records'. Without a draft
  // law, q is one-hot at x.
  PositionLaws Laws(int32_t i, int32_t x = -1) {
    PositionLaws laws;
    laws.q = InDouble(q(i), false);
    laws.p = InDouble(p(i), false);
    laws.q1 = InDouble(q(i), true);
    laws.p1 = InDouble(p(i), true);
    laws.greedy = state.sampling.greedy();
    laws.has_draft_law = proposal_.has_law;
    laws.position = i;
    laws.n_proposed = n_proposed;
    laws.is_bonus = i == n_proposed;
    if (!proposal_.has_law) {
      laws.q.assign(n_vocab_, 0);
      laws.q[x] = 1;
      laws.q1 = laws.q;
    }
    return laws;
  }

  Enumerator enumerator;
  SeqState state;
  int32_t n_proposed = 0;
  Verdicts verdicts;

 private:
  void SetOne(const Logits& logits, const LawBuffer& laws, int32_t i) {
    std::copy(logits.begin(), logits.end(), laws.logits + i * n_vocab_);
    RowPlan plan;
    int32_t n = 1, slot = 0, row = 0;
    plan.n_logits = &n;
    plan.slot = &slot;
    plan.logits_row = &row;
    plan.logits_out = &i;
    std::vector<float> scratch(n_vocab_);
    LawBlocksCpu({&state, plan, laws}, {});
    LawCpu({&state, plan, laws, scratch.data()}, {});
  }
  static std::vector<double> InDouble(const Law& law, bool at_one) {
    const LawRecord& record = law.record;
    std::vector<double> probs(law.n_vocab, 0);
    if (law.greedy() && !at_one) {
      probs[record.argmax] = 1;
      return probs;
    }
    double total = 0;
    for (int32_t v = 0; v < law.n_vocab; ++v) {
      const double exponent = (static_cast<double>(law.logits[v]) - record.max) * (at_one ? 1 : record.inv_t);
      if (at_one || law.logits[v] >= record.cutoff) total += probs[v] = std::exp(exponent);
    }
    for (double& p : probs) p /= total;
    return probs;
  }

  int32_t n_vocab_, block_;
  std::vector<float> q_, p_;
  std::vector<LawRecord> q_records_, p_records_;
  std::vector<LawBlock> q_blocks_, p_blocks_;
  Batch batch_;
  Proposal proposal_;
  Scores scores_;
  Program program_;

 public:
  std::vector<int32_t> tokens;  // [block]
};

// The rules of policies/rules, without those of TANDEM_RULES_DIR.
inline std::vector<RuleEntry> BuiltInRules() {
  std::vector<RuleEntry> rules;
  for (const RuleEntry& rule : Rules()) {
    const std::string header = std::string(TANDEM_SOURCE_DIR "/policies/rules/") + rule.info->name + ".h";
    if (std::filesystem::exists(header)) rules.push_back(rule);
  }
  return rules;
}

// Every way in which a built-in rule can be run: its check settings x verification x bonus.
struct Combination {
  PolicyOptions options;
  bool draft_has_law;
  std::string name;
};
inline std::vector<Combination> AllCombinations() {
  std::vector<Combination> combinations;
  for (const RuleEntry& rule : BuiltInRules()) {
    for (const auto& params : CheckSettings(*rule.info)) {
      for (Verification verification : {Verification::kToken, Verification::kBlock}) {
        for (Bonus bonus : {Bonus::kP, Bonus::kPi}) {
          for (bool draft_has_law : {true, false}) {
            const PolicyOptions options = {rule.info->name, params, verification, bonus};
            if (!Policy::Create(options, draft_has_law).ok()) continue;
            std::string name = std::string(rule.info->name) + " " + Name(verification) + " bonus " +
                               Name(bonus) + (draft_has_law ? "" : " point mass");
            for (const auto& [key, value] : params) name += " " + key + "=" + std::to_string(value);
            combinations.push_back({options, draft_has_law, name});
          }
        }
      }
    }
  }
  return combinations;
}

inline std::unique_ptr<Policy> MustCreate(const Combination& combination) {
  return *Policy::Create(combination.options, combination.draft_has_law);
}

}  // namespace tandem

#endif  // TANDEM_TESTS_POLICIES_SWEEP_H_
