#include "runtime/rules_check.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "runtime/core/buffer.h"
#include "runtime/core/cuda.h"
#include "runtime/model/arch/hash_chain.h"

namespace tandem {
namespace {

constexpr float kSpread = 2;  // logits in [-2, 2): laws that differ, none of them nearly one-hot

void Normalize(std::vector<double>& law) {
  const double sum = std::accumulate(law.begin(), law.end(), 0.0);
  for (double& p : law) p /= sum;
}

// The sampling law of a row of logits, from the definition: temperature, then top-k, top-p and min-p.
std::vector<double> SamplingLaw(const std::vector<float>& logits, const Sampling& sampling) {
  std::vector<double> law(logits.size(), 0);
  if (sampling.greedy()) {
    law[std::max_element(logits.begin(), logits.end()) - logits.begin()] = 1;
    return law;
  }
  for (size_t v = 0; v < law.size(); ++v) law[v] = std::exp(logits[v] / double{sampling.temperature});
  Normalize(law);
  std::vector<double> sorted = law;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  size_t n_kept = sampling.top_k > 0 ? std::min<size_t>(sampling.top_k, sorted.size()) : sorted.size();
  const double top_k_mass = std::accumulate(sorted.begin(), sorted.begin() + n_kept, 0.0);
  double mass = sorted[0];
  size_t n_top_p = 1;
  while (n_top_p < n_kept && mass < sampling.top_p * top_k_mass) mass += sorted[n_top_p++];
  const double least = std::max(sorted[n_top_p - 1], sampling.min_p * sorted[0]);
  for (double& p : law) p = p >= least ? p : 0;
  Normalize(law);
  return law;
}

// The two models and what the rule makes of them, as functions of the prefix alone.
class Claim {
 public:
  Claim(const LawCheck& check, const Policy& policy, const HashChainModel& target,
        const HashChainModel& draft, std::vector<int32_t> prompt)
      : check_(check), policy_(policy), target_(target), draft_(draft), prefix_(std::move(prompt)) {
    n_prompt_ = prefix_.size();
    law_.resize(static_cast<size_t>(std::llround(std::pow(check.n_vocab, check.n_tokens))), 0);
  }

  std::vector<double> Law() {
    const bool exact = policy_.guarantee(check_.sampling.greedy()) == Guarantee::kExact;
    if (exact || check_.policy.bonus == Bonus::kPi || check_.token_cascade) {
      Product(exact, 1);
    } else if (check_.policy.verification == Verification::kToken) {
      Tokens(0, 1);
    } else {
      Rounds(1);
    }
    return law_;
  }

  std::vector<double> TargetLaw() {
    Product(true, 1);
    return law_;
  }

 private:
  PositionLaws Laws(int32_t position) const {
    const std::vector<float> q = draft_.Logits(prefix_);
    const std::vector<float> p = target_.Logits(prefix_);
    const Sampling plain{.temperature = 1};
    return {.q = SamplingLaw(q, check_.sampling),
            .p = SamplingLaw(p, check_.sampling),
            .q1 = SamplingLaw(q, plain),
            .p1 = SamplingLaw(p, plain),
            .greedy = check_.sampling.greedy(),
            .position = position,
            .n_proposed = check_.gamma};
  }

  bool Full() const { return prefix_.size() == n_prompt_ + check_.n_tokens; }
  void Count(double weight) {
    size_t index = 0;
    for (size_t i = n_prompt_; i < prefix_.size(); ++i) index = index * check_.n_vocab + prefix_[i];
    law_[index] += weight;
  }
  template <typename F>
  void With(int32_t token, F f) {
    prefix_.push_back(token);
    f();
    prefix_.pop_back();
  }

  // Every token from p, or every token from pi.
  void Product(bool target, double weight) {
    if (weight == 0) return;
    if (Full()) return Count(weight);
    const PositionLaws laws = Laws(0);
    const std::vector<double> law = target ? laws.p : policy_.ImpliedLaw(laws);
    for (int32_t v = 0; v < check_.n_vocab; ++v) With(v, [&] { Product(target, weight * law[v]); });
  }

  bool EndsBlock(int32_t n_kept, const PositionLaws& laws, int32_t v) const {
    const double confidence = laws.greedy ? laws.q1[v] : laws.q[v];
    return n_kept == check_.gamma || confidence < policy_.draft_stop().value_or(0);
  }

  // Token-wise: `n_kept` tokens of the round that goes on are kept. A token that stays continues it, one that replaces
  // another ends it, and after the last proposed one comes a token from p.
  void Tokens(int32_t n_kept, double weight) {
    if (weight == 0) return;
    if (Full()) return Count(weight);
    const PositionLaws laws = Laws(n_kept);
    const ImpliedSplit split = policy_.Split(laws);
    for (int32_t v = 0; v < check_.n_vocab; ++v) {
      With(v, [&] {
        Tokens(0, weight * split.replaced[v]);
        if (EndsBlock(n_kept + 1, laws, v)) {
          Bonus(weight * split.stays[v]);
        } else {
          Tokens(n_kept + 1, weight * split.stays[v]);
        }
      });
    }
  }
  void Bonus(double weight) {
    if (weight == 0) return;
    if (Full()) return Count(weight);
    const std::vector<double> p = Laws(0).p;
    for (int32_t v = 0; v < check_.n_vocab; ++v) With(v, [&] { Tokens(0, weight * p[v]); });
  }

  // Block verification (arXiv 2403.10444, Algorithm 2, with pi in place of p), round after round.
  struct Position {
    int32_t token;
    std::vector<double> q, pi;  // the laws at this position
    double joint;               // P_i, this token included
  };
  void Rounds(double weight) {
    if (weight == 0) return;
    if (Full()) return Count(weight);
    std::vector<Position> block;
    const size_t base = prefix_.size();
    Propose(base, 1, weight, block);
  }
  void Propose(size_t base, double joint, double weight, std::vector<Position>& block) {
    if (weight == 0) return;
    const PositionLaws laws = Laws(static_cast<int32_t>(block.size()));
    const std::vector<double> pi = policy_.ImpliedLaw(laws);
    for (int32_t v = 0; v < check_.n_vocab; ++v) {
      if (laws.q[v] == 0) continue;
      block.push_back({v, laws.q, pi, std::min(1.0, joint * pi[v] / laws.q[v])});
      prefix_.push_back(v);
      const double here = weight * laws.q[v];
      if (EndsBlock(static_cast<int32_t>(block.size()), laws, v)) {
        Judge(base, here, block);
      } else {
        Propose(base, block.back().joint, here, block);
      }
      prefix_.pop_back();
      block.pop_back();
    }
  }
  void Judge(size_t base, double weight, const std::vector<Position>& block) {
    const std::vector<int32_t> proposed(prefix_.begin() + base, prefix_.end());
    const auto n = static_cast<int>(block.size());
    double none_after = 1;  // no coin of a later position shows heads
    for (int i = n; i >= 0; --i) {
      const double joint = i == 0 ? 1 : block[i - 1].joint;
      std::vector<double> next = i == n ? Laws(0).p : std::vector<double>(check_.n_vocab);
      double mass = 0;
      for (int32_t v = 0; i < n && v < check_.n_vocab; ++v) {
        mass += next[v] = std::max(0.0, joint * block[i].pi[v] - block[i].q[v]);
      }
      const double total = mass + 1 - joint;
      const double heads = i == 0 ? 1 : i == n ? joint : total > 0 ? mass / total : 1;
      if (i < n && mass > 0) {
        for (double& p : next) p /= mass;
      }
      prefix_.resize(base);
      Emit({proposed.begin(), proposed.begin() + i}, next, weight * none_after * heads);
      none_after *= 1 - heads;
    }
    prefix_.resize(base);
    prefix_.insert(prefix_.end(), proposed.begin(), proposed.end());
  }
  void Emit(std::vector<int32_t> kept, const std::vector<double>& next, double weight) {
    const size_t base = prefix_.size();
    for (int32_t v = 0; v < check_.n_vocab; ++v) {
      for (int32_t token : kept) {
        if (!Full()) prefix_.push_back(token);
      }
      if (!Full()) prefix_.push_back(v);
      Rounds(weight * next[v]);
      prefix_.resize(base);
    }
  }

  const LawCheck& check_;
  const Policy& policy_;
  const HashChainModel& target_;
  const HashChainModel& draft_;
  std::vector<int32_t> prefix_;
  size_t n_prompt_;
  std::vector<double> law_;
};

// Ends a run as soon as the tokens that count are there.
class Until : public EngineListener {
 public:
  Until(int32_t n_tokens, int32_t n_vocab) : n_tokens_(n_tokens), n_vocab_(n_vocab) {}
  void OnTokens(const Request&, std::span<const int32_t> tokens, std::span<const Origin>,
                std::string_view) override {
    for (int32_t token : tokens) {
      if (n_seen_ == n_tokens_) return;
      outcome_ = outcome_ * n_vocab_ + token;
      ++n_seen_;
    }
  }
  bool Cancelled() override { return n_seen_ == n_tokens_; }
  int64_t outcome() const { return outcome_; }

 private:
  int32_t n_tokens_;
  int32_t n_vocab_;
  int32_t n_seen_ = 0;
  int64_t outcome_ = 0;
};

}  // namespace

absl::StatusOr<LawCheckResult> CheckLaw(const LawCheck& check) {
  constexpr int32_t kContext = 64;
  TANDEM_RETURN_IF_ERROR(cuda::Check(check.device));
  const auto target =
      std::make_shared<HashChainModel>(check.n_vocab, 2 * check.salt, kSpread, kContext, check.device);
  const auto draft =
      std::make_shared<HashChainModel>(check.n_vocab, 2 * check.salt + 1, kSpread, kContext, check.device);
  std::unique_ptr<Policy> policy;
  if (check.rule != nullptr) {
    TANDEM_ASSIGN_OR_RETURN(policy, Policy::Create(*check.rule, check.policy, true));
  } else {
    TANDEM_ASSIGN_OR_RETURN(policy, Policy::Create(check.policy, true));
  }
  const Request request{.prompt = {0, 1},
                        .sampling = check.sampling,
                        .max_new_tokens = check.n_tokens + check.gamma + 1};  // so that no block is cut short
  Claim claim(check, *policy, *target, *draft, request.prompt);
  const std::vector<double> claimed = claim.Law();
  Claim plain(check, *policy, *target, *draft, request.prompt);
  const std::vector<double> target_law = plain.TargetLaw();

  OutcomeSweep sweep(static_cast<int64_t>(claimed.size()));
  sweep.rekey = check.rekey;
  // One round at a time: a round that is queued ahead would draw numbers that decide nothing.
  EngineOptions options{.gamma = check.gamma,
                        .max_context = kContext,
                        .page_size = 3,
                        .prefill_chunk = 4,
                        .rounds_ahead = 0,
                        .token_cascade = check.token_cascade};
  Arena shared(check.device, Access::kShared);
  UniformTable* table = check.device.is_cuda() || check.through_table ? shared.New<UniformTable>(1) : nullptr;
  options.uniforms = table != nullptr ? Uniforms{.table = table} : Uniforms{.probe = &sweep};
  TANDEM_ASSIGN_OR_RETURN(
      std::unique_ptr<Engine> engine,
      Engine::Create(options, {.target = {.model = target}, .draft = ModelSpec{.model = draft}},
                     std::move(policy)));
  absl::Status failure;
  const std::vector<double> law = sweep.Run([&]() -> int64_t {
    Until until(check.n_tokens, check.n_vocab);
    std::vector<RequestResult> results;
    if (table != nullptr) sweep.Fill(table);
    failure = engine->Submit(request);
    if (failure.ok()) failure = engine->Run(&until, &results);
    if (failure.ok() && table != nullptr) failure = sweep.TakeCells(*table);
    return failure.ok() ? until.outcome() : -1;
  });
  TANDEM_RETURN_IF_ERROR(failure);

  LawCheckResult result{.n_runs = sweep.n_runs()};
  for (size_t i = 0; i < law.size(); ++i) {
    const double difference = std::abs(law[i] - claimed[i]);
    if (!(difference <= result.largest_difference)) result.largest_difference = difference;
    result.tv_to_target += std::max(0.0, law[i] - target_law[i]);
    result.total += law[i];
  }
  return result;
}

namespace {

// Sampled; then greedy, which has one outcome, so that more tokens of more models can be looked at.
absl::Status CheckBoth(LawCheck check, int32_t n_greedy_tokens,
                       const std::function<void(const RuleCheckLine&)>& line) {
  constexpr uint64_t kGreedyModels = 4;
  TANDEM_ASSIGN_OR_RETURN(const LawCheckResult sampled, CheckLaw(check));
  line({check, sampled});
  check.sampling = {};
  check.n_tokens = n_greedy_tokens;
  LawCheckResult greedy;
  double tv_to_target = 0;
  for (check.salt = 1; check.salt <= kGreedyModels; ++check.salt) {
    TANDEM_ASSIGN_OR_RETURN(const LawCheckResult one, CheckLaw(check));
    const int64_t n_runs = greedy.n_runs + one.n_runs;
    // Not <=, so that a NaN counts as the worst.
    if (!(one.largest_difference <= greedy.largest_difference)) greedy = one;
    greedy.n_runs = n_runs;
    tv_to_target = std::max(tv_to_target, one.tv_to_target);
  }
  greedy.tv_to_target = tv_to_target;
  line({check, greedy});
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRule(const std::string& rule, const std::map<std::string, double>& params, Device device,
                       const std::function<void(const RuleCheckLine&)>& line) {
  // Sizes that sweep in well under a second; longer blocks on a smaller vocabulary.
  struct Size {
    int32_t gamma, n_vocab, n_tokens, n_greedy_tokens;
  };
  constexpr Size kSizes[] = {{1, 3, 3, 6}, {2, 3, 3, 6}, {3, 2, 4, 8}, {4, 2, 3, 8}};
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Policy> policy,
                          Policy::Create({.rule = rule, .params = params}, true));
  const bool is_law = policy->kind() == Kind::kLaw || policy->kind() == Kind::kTokenWise;
  for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
    if (verification == Verification::kBlock && !is_law) continue;
    for (const Bonus bonus : {Bonus::kP, Bonus::kPi}) {
      for (const Size& size : kSizes) {
        TANDEM_RETURN_IF_ERROR(CheckBoth({.policy = {rule, params, verification, bonus},
                                          .gamma = size.gamma,
                                          .n_vocab = size.n_vocab,
                                          .n_tokens = size.n_tokens,
                                          .device = device},
                                         size.n_greedy_tokens, line));
      }
    }
  }
  if (!policy->info().draft_only) return absl::OkStatus();
  return CheckBoth({.policy = {.rule = rule, .params = params}, .token_cascade = true, .device = device}, 6,
                   line);
}

}  // namespace tandem
