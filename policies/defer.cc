#include "policies/defer.h"

#include "policies/cpu_prob.h"

namespace tandem {

void DeferCpu(const DeferArgs& args, Worker worker) {
  const RuleEntry& rule = *args.test.rule;
  const Share share = ShareOf(*args.rows.n_logits, worker);
  for (int64_t i = share.begin; i < share.end; ++i) {
    const int32_t slot = args.rows.slot[args.rows.logits_row[i]];
    const Law q = args.proposal.law.row(args.rows.logits_out[i]);
    if (!q.finite()) {
      args.proposal.fault[slot] = Fault::kDraftLaw;
      args.proposal.wanted[slot] = 0;
      continue;
    }
    Row row = DraftRow(q, CpuProb, CpuProb1);
    if ((rule.info->needs & Needs::kEntropyQ) != 0) row.q.entropy = LawEntropy(q);
    if ((rule.info->needs & Needs::kEntropyQ1) != 0) row.q1.entropy = LawEntropy1(q);
    if (!rule.defers(args.test.params, row, Solved())) continue;
    args.states[slot].writer = Writer::kTarget;
    args.proposal.wanted[slot] = 0;
  }
}

}  // namespace tandem
