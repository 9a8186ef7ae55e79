#include "draft/model_drafter.h"

#include "kernels/sample/sample.h"

namespace tandem {

ModelDrafter::ModelDrafter(std::shared_ptr<const Model> model, const RunnerOptions& options, int32_t n_vocab,
                           bool bonus_law)
    : runner_(std::move(model), options), n_vocab_(n_vocab), bonus_law_(bonus_law) {}

Proposal ModelDrafter::propose(Program& round, const Batch& batch) {
  arena_.Rewind();
  Proposal proposal = NewProposal(arena_, batch);
  proposal.has_law = true;
  proposal.has_bonus_law = bonus_law_;
  proposal.law = NewLaws(arena_, static_cast<int64_t>(batch.n_slots) * proposal.block,
                         runner_.model().shape().n_vocab, n_vocab_);
  const int32_t n_steps = batch.gamma + (bonus_law_ ? 1 : 0);
  for (int32_t index = 0; index < n_steps; ++index) {
    const RowPlan rows = runner_.Extend(
        round, batch,
        {.kind = PlanKind::kDraft, .index = index, .bonus_law = bonus_law_, .proposal = proposal},
        proposal.law);
    if (index == batch.gamma) break;
    round.At(Lane::kDraft, Phase::kRule);
    round.Add(SampleArgs{.index = index,
                         .states = batch.states,
                         .rows = rows,
                         .proposal = proposal,
                         .uniforms = batch.uniforms});
    round.At(Lane::kDraft, Phase::kDraft);
  }
  return proposal;
}

void ModelDrafter::Prefill(Program& program, const Batch& batch, int32_t chunk) {
  runner_.Extend(program, batch, {.kind = PlanKind::kExtend, .chunk = chunk}, {});
}

}  // namespace tandem
