#include "runtime/cascade/token_cascade.h"

#include "kernels/law/law.h"
#include "kernels/sample/sample.h"

namespace tandem {
namespace {

// What a test may look at before there is a token: the draft's figures. The rest of the row is NaN.
Row DraftRow(const Law& q, uint32_t needs) {
  const LawRecord& record = q.record;
  Row row;
  row.greedy = q.greedy();
  row.q.argmax = row.q1.argmax = record.argmax;
  LawProbs(q, record.argmax, record.argmax + 1, &row.q.max);
  LawProbs1(q, record.argmax, record.argmax + 1, &row.q1.max);
  row.q.lse = q.greedy() ? 0 : record.max * record.inv_t + record.lse;
  row.q1.lse = record.max + record.lse1;
  if ((needs & Needs::kEntropyQ) != 0) row.q.entropy = LawEntropy(q);
  if ((needs & Needs::kEntropyQ1) != 0) row.q1.entropy = LawEntropy1(q);
  return row;
}

}  // namespace

void DeferCpu(const DeferArgs& args, Worker worker) {
  const RuleEntry& rule = *args.test.rule;
  const Share share = ShareOf(*args.rows.n_logits, worker);
  for (int64_t i = share.begin; i < share.end; ++i) {
    const int32_t slot = args.rows.slot[args.rows.logits_row[i]];
    const Law q = args.proposal.law.row(args.rows.logits_out[i]);
    if (!q.finite()) {
      args.proposal.fault[slot] = Fault::kDraftLaw;
      args.proposal.wanted[slot] = 0;
    } else if (rule.defers(args.test.params, DraftRow(q, rule.info->needs), Solved())) {
      args.states[slot].writer = Writer::kTarget;
      args.proposal.wanted[slot] = 0;
    }
  }
}

TokenCascadeDrafter::TokenCascadeDrafter(std::shared_ptr<const Model> model, const RunnerOptions& options,
                                         int32_t n_vocab, const DeferralTest& test)
    : runner_(std::move(model), options), n_vocab_(n_vocab), test_(test) {}

Proposal TokenCascadeDrafter::propose(Program& round, const Batch& batch) {
  TANDEM_CHECK(batch.gamma == 1) << "a token cascade writes one token a round";
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
