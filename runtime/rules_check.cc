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

constexpr int32_t kRunsAtOnce = 32;
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

// The first tokens of the runs of a batch, by their seeds. Ends the batch as soon as all are there.
class FirstTokens : public EngineListener {
 public:
  FirstTokens(int32_t n_tokens, int32_t n_vocab, std::span<int64_t> outcomes)
      : n_tokens_(n_tokens), n_vocab_(n_vocab), outcomes_(outcomes), n_seen_(outcomes.size(), 0) {
    std::fill(outcomes.begin(), outcomes.end(), 0);
  }
  void OnTokens(const Request& request, std::span<const int32_t> tokens, std::span<const Origin>,
                std::string_view) override {
    int32_t& n_seen = n_seen_[request.seed];
    int64_t& outcome = outcomes_[request.seed];
    for (int32_t token : tokens) {
      if (n_seen == n_tokens_) return;
      outcome = outcome * n_vocab_ + token;
      if (++n_seen == n_tokens_) ++n_complete_;
    }
  }
  bool Cancelled() override { return n_complete_ == n_seen_.size(); }

 private:
  int32_t n_tokens_;
  int32_t n_vocab_;
  std::span<int64_t> outcomes_;  // [runs of the batch]
  std::vector<int32_t> n_seen_;
  size_t n_complete_ = 0;
};

// An engine on a pair of models under a rule, and the laws that it is asked for.
class LawChecker {
 public:
  static absl::StatusOr<std::unique_ptr<LawChecker>> Create(const LawCheck& check);

  // REQUIRES: sampling, prompt and n_tokens alone differ from Create's.
  absl::StatusOr<LawCheckResult> Run(const LawCheck& check);

 private:
  static constexpr int32_t kContext = 64;

  explicit LawChecker(const LawCheck& check)
      : target_(NewModel(check, 2 * check.salt)),
        draft_(NewModel(check, 2 * check.salt + 1)),
        sweep_(check.n_at_once),
        shared_(check.device, Access::kShared) {
    sweep_.rekey = check.rekey;
    if (check.device.is_cuda() || check.through_table) tables_ = shared_.New<UniformTable>(check.n_at_once);
  }
  static std::shared_ptr<HashChainModel> NewModel(const LawCheck& check, uint64_t salt) {
    return std::make_shared<HashChainModel>(check.n_vocab, salt, kSpread, kContext, check.device);
  }
  // A batch of runs of the sweep.
  absl::Status RunBatch(const LawCheck& check, std::span<int64_t> outcomes);

  std::shared_ptr<HashChainModel> target_, draft_;
  OutcomeSweep sweep_;
  Arena shared_;
  UniformTable* tables_ = nullptr;  // [n_at_once]; null: the steps ask the sweep itself
  std::unique_ptr<Engine> engine_;
};

absl::StatusOr<std::unique_ptr<LawChecker>> LawChecker::Create(const LawCheck& check) {
  TANDEM_RETURN_IF_ERROR(cuda::Check(check.device));
  std::unique_ptr<Policy> policy;
  if (check.rule != nullptr) {
    TANDEM_ASSIGN_OR_RETURN(policy, Policy::Create(*check.rule, check.policy, true));
  } else {
    TANDEM_ASSIGN_OR_RETURN(policy, Policy::Create(check.policy, true));
  }
  std::unique_ptr<LawChecker> checker(new LawChecker(check));
  // One round at a time: a round that is queued ahead would draw numbers that decide nothing.
  EngineOptions options{.n_slots = check.n_at_once,
                        .gamma = check.gamma,
                        .max_context = kContext,
                        .page_size = 3,
                        .prefill_chunk = 4,
                        .rounds_ahead = 0,
                        .token_cascade = check.token_cascade};
  options.uniforms = checker->tables_ != nullptr
                         ? Uniforms{.tables = checker->tables_, .n_tables = check.n_at_once}
                         : Uniforms{.probe = &checker->sweep_};
  TANDEM_ASSIGN_OR_RETURN(checker->engine_, Engine::Create(options,
                                                           {.target = {.model = checker->target_},
                                                            .draft = ModelSpec{.model = checker->draft_}},
                                                           std::move(policy)));
  return checker;
}

absl::Status LawChecker::RunBatch(const LawCheck& check, std::span<int64_t> outcomes) {
  FirstTokens first(check.n_tokens, check.n_vocab, outcomes);
  std::vector<RequestResult> results;
  if (tables_ != nullptr) sweep_.Fill(tables_);
  for (size_t run = 0; run < outcomes.size(); ++run) {
    // So many tokens that no block that counts is cut short.
    TANDEM_RETURN_IF_ERROR(engine_->Submit({.prompt = check.prompt,
                                            .sampling = check.sampling,
                                            .seed = run,
                                            .max_new_tokens = check.n_tokens + check.gamma + 1}));
  }
  TANDEM_RETURN_IF_ERROR(engine_->Run(&first, &results));
  return tables_ != nullptr ? sweep_.TakeCells(tables_) : absl::OkStatus();
}

absl::StatusOr<LawCheckResult> LawChecker::Run(const LawCheck& check) {
  Claim claim(check, engine_->policy(), *target_, *draft_, check.prompt);
  const std::vector<double> claimed = claim.Law();
  Claim plain(check, engine_->policy(), *target_, *draft_, check.prompt);
  const std::vector<double> target_law = plain.TargetLaw();

  // A run that has its tokens goes on while others of its batch have not.
  sweep_.base_end = static_cast<int32_t>(check.prompt.size()) + check.n_tokens;
  LawCheckResult result;
  TANDEM_ASSIGN_OR_RETURN(result.law,
                          sweep_.Run(static_cast<int64_t>(claimed.size()),
                                     [&](std::span<int64_t> outcomes) { return RunBatch(check, outcomes); }));
  result.n_runs = sweep_.n_runs();
  for (size_t i = 0; i < claimed.size(); ++i) {
    const double difference = std::abs(result.law[i] - claimed[i]);
    if (!(difference <= result.largest_difference)) result.largest_difference = difference;
    result.tv_to_target += std::max(0.0, result.law[i] - target_law[i]);
    result.total += result.law[i];
  }
  return result;
}

// Sampled; then greedy, which has one outcome, so that more tokens behind more prompts can be looked at: no row of prefill,
// a part of a chunk, more than a chunk. Behind one of them every rule and setting that departs from the target behind any
// prompt of up to 7 tokens does.
absl::Status CheckBoth(LawCheck check, int32_t n_greedy_tokens,
                       const std::function<void(const RuleCheckLine&)>& line) {
  const std::vector<int32_t> kGreedyPrompts[] = {{0, 1}, {0}, {0, 0, 0}, {1, 0, 0, 1, 0, 0, 1}};
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<LawChecker> checker, LawChecker::Create(check));
  TANDEM_ASSIGN_OR_RETURN(const LawCheckResult sampled, checker->Run(check));
  line({check, sampled});
  check.sampling = {};
  check.n_tokens = n_greedy_tokens;
  LawCheckResult greedy;
  double tv_to_target = 0;
  for (const std::vector<int32_t>& prompt : kGreedyPrompts) {
    check.prompt = prompt;
    TANDEM_ASSIGN_OR_RETURN(const LawCheckResult one, checker->Run(check));
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

absl::StatusOr<LawCheckResult> CheckLaw(const LawCheck& check) {
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<LawChecker> checker, LawChecker::Create(check));
  return checker->Run(check);
}

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
                                          .n_at_once = kRunsAtOnce,
                                          .device = device},
                                         size.n_greedy_tokens, line));
      }
    }
  }
  if (!policy->info().draft_only) return absl::OkStatus();
  return CheckBoth({.policy = {.rule = rule, .params = params},
                    .token_cascade = true,
                    .n_at_once = kRunsAtOnce,
                    .device = device},
                   6, line);
}

}  // namespace tandem
