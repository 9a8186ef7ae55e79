#include "target/verifier.h"

namespace tandem {

Verifier::Verifier(std::shared_ptr<const Model> model, const RunnerOptions& options)
    : runner_(std::move(model), options) {}

Scores Verifier::score(Program& round, const Batch& batch, const Proposal& proposal) {
  const int32_t n_vocab = runner_.model().shape().n_vocab;
  arena_.Place(batch.device);
  arena_.Rewind();
  const Scores scores{
      .block = proposal.block,
      .law = NewLaws(arena_, static_cast<int64_t>(batch.n_slots) * proposal.block, n_vocab, n_vocab)};
  runner_.Extend(round, batch, {.kind = PlanKind::kVerify, .proposal = proposal}, scores.law);
  return scores;
}

void Verifier::Prefill(Program& program, const Batch& batch, int32_t chunk) {
  runner_.Extend(program, batch, {.kind = PlanKind::kExtend, .chunk = chunk}, {});
}

}  // namespace tandem
