// Token-level cascade: the draft writes token by token, and where it is not sure enough the target is called for that one
// token. Nothing is proposed and nothing is judged: a token's law is q where the draft's test does not defer and p where
// it does (arXiv 2405.19261: TokenCascade).
//
// It is the engine's round with another drafter. The draft computes q of the next token; `defer` asks the rule, per slot
// and on the device; where it does not defer the token is drawn from q and stands. Else the sequence's writer is the
// target: the verifier feeds it the committed tokens that its cache lacks, the prompt and hundreds of others if need be
// and over several rounds if they are more than one forward holds, while the other slots go on; then the judge draws
// from p, and settle gives the sequence back to the draft. So the target does nothing for a sequence until it is asked.
//
// Every position draws one uniform, of the same key as in plain decoding: a test that never defers gives the tokens of
// the draft alone, one that always does those of the target alone, sampled or greedy. On a CUDA device in bf16 the latter
// holds where the target alone reads its prompt as it decodes, in forwards of up to 64 rows (prefill_chunk): the target of
// a cascade always does.
//
// TokenCascadeDrafter is owned by the engine; recorded from by one thread.
#ifndef TANDEM_RUNTIME_CASCADE_TOKEN_CASCADE_H_
#define TANDEM_RUNTIME_CASCADE_TOKEN_CASCADE_H_

#include <memory>

#include "draft/drafter.h"
#include "policies/policy.h"

namespace tandem {

class TokenCascadeDrafter : public Drafter {
 public:
  // `n_vocab`: token ids the pair shares; q is 0 from there on. `test` outlives the recorded programs.
  TokenCascadeDrafter(std::shared_ptr<const Model> model, const RunnerOptions& options, int32_t n_vocab,
                      const DeferralTest& test);

  // n_proposed = 1 where the draft writes, 0 where it defers or has deferred. REQUIRES: batch.gamma = 1.
  Proposal propose(Program& round, const Batch& batch) override;
  void Prefill(Program& program, const Batch& batch, int32_t chunk) override;
  ModelRunner* runner() override { return &runner_; }

 private:
  ModelRunner runner_;
  int32_t n_vocab_;
  DeferralTest test_;
  Arena arena_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CASCADE_TOKEN_CASCADE_H_
