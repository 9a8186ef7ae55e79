// TextScorer: a model's laws along texts that are there already ("teacher forcing"): no sampling, no rule.
//
// Owns a cache and a workspace of its own beside the engine's. One thread calls it. On the CPU only: the host reads
// the logits where they are.
#ifndef TANDEM_RUNTIME_SWEEP_TEXT_SCORER_H_
#define TANDEM_RUNTIME_SWEEP_TEXT_SCORER_H_

#include <memory>
#include <span>
#include <vector>

#include "policies/policy.h"
#include "runtime/core/buffer.h"
#include "runtime/engine.h"
#include "runtime/executor.h"
#include "runtime/model/runner.h"

namespace tandem {

class TextScorer {
 public:
  // `max_context`: of a prompt and its output; `max_tokens`: of an output.
  TextScorer(const ModelSpec& model, int32_t max_context, int32_t max_tokens, int32_t n_threads);

  // Row i of the logits is what tokens[i] is drawn from: after the prompt and the tokens before it. Valid until the
  // next call. REQUIRES: a prompt and tokens, at least one of each, that fit.
  LawBuffer Score(std::span<const int32_t> prompt, std::span<const int32_t> tokens);

 private:
  static constexpr int32_t kChunk = 128;

  Arena arena_;
  Batch batch_;
  SeqState staged_;
  std::vector<int32_t> prompt_;  // [max_context]
  Proposal proposal_;
  ModelRunner runner_;
  Program admit_;
  Program prefill_;
  Program score_;
  LawBuffer laws_;
  std::unique_ptr<Executor> executor_;  // last: it stops before what it uses is gone
};

// The law of a row of logits under `sampling`; it points into the row and has no blocks, so nothing can be drawn from
// it.
Law LawOf(const float* logits, int32_t n_vocab, const Sampling& sampling);

// The same law as a list, [n_vocab], of p and of p1.
std::vector<double> Probabilities(const Law& law, int32_t n_vocab);
std::vector<double> Probabilities1(const Law& law, int32_t n_vocab);

// log p1(token): of the law at temperature 1 with nothing cut off.
double LogProbability(const float* logits, int32_t n_vocab, int32_t token);

// The rule's law pi at a position with these logits of the draft and the target, and its distance to the target's law
// at `reference`, the sum over v of max(0, pi(v) - p(v)). `sampling` is what the rule runs under; it may cut off more
// than `reference`. Of a test rule, draft tokens that together have less than kIgnoredMass are left out: its law
// takes a pass over the vocabulary for each of them. REQUIRES: policy.kind() != kBlock.
inline constexpr double kIgnoredMass = 1e-3;
double DistanceToTarget(const Policy& policy, const LawBuffer& draft, const LawBuffer& target, int64_t row,
                        const Sampling& sampling, const Sampling& reference);
// The same of the draft's own law.
double DraftDistanceToTarget(const LawBuffer& draft, const LawBuffer& target, int64_t row,
                             const Sampling& sampling);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_TEXT_SCORER_H_
