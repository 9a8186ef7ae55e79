#include "runtime/cascade/token_cascade.h"

#include "kernels/sample/sample.h"
#include "policies/defer.h"

namespace tandem {

TokenCascadeDrafter::TokenCascadeDrafter(std::shared_ptr<const Model> model, const RunnerOptions& options,
                                         int32_t n_vocab, const DeferralTest& test)
    : runner_(std::move(model), options), n_vocab_(n_vocab), test_(test) {}

Proposal TokenCascadeDrafter::propose(Program& round, const Batch& batch) {
  TANDEM_CHECK(batch.gamma == 1) << "a token cascade writes one token a round";
  arena_.Rewind();
  Proposal proposal = NewProposal(arena_, batch);
  proposal.has_law = true;
  proposal.law = NewLaws(arena_, static_cast<int64_t>(batch.n_slots) * proposal.block,
                         runner_.model().shape().n_vocab, n_vocab_);
  const RowPlan rows =
      runner_.Extend(round, batch, {.kind = PlanKind::kDraft, .proposal = proposal}, proposal.law);
  round.At(Lane::kDraft, Phase::kRule);
  round.Add(DeferArgs{.test = test_, .states = batch.states, .rows = rows, .proposal = proposal});
  round.Add(SampleArgs{.index = 0,
                       .states = batch.states,
                       .rows = rows,
                       .proposal = proposal,
                       .uniforms = batch.uniforms,
                       .purpose = Purpose::kReplace});
  return proposal;
}

void TokenCascadeDrafter::Prefill(Program& program, const Batch& batch, int32_t chunk) {
  runner_.Extend(program, batch, {.kind = PlanKind::kExtend, .chunk = chunk}, {});
}

}  // namespace tandem
