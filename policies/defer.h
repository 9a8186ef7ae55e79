// defer: the test of a token-level cascade (runtime/cascade/token_cascade.h). A draft_only rule, asked before there is a
// token and before the target has computed anything: where it defers, the target is to write the next token.
//
// For every planned sequence, from its row of the draft's law:
//
//   not finite   Fault::kDraftLaw, and nothing is to be drawn (wanted = 0)
//   deferred     writer = kTarget, and nothing is to be drawn
//   else         nothing changes: the draft draws the token
//
// What a rule sees is the row of judge.h with the draft's figures alone; the rest of it is NaN.
#ifndef TANDEM_POLICIES_DEFER_H_
#define TANDEM_POLICIES_DEFER_H_

#include "policies/bind.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

// A draft_only rule with its parameters.
struct DeferralTest {
  const RuleEntry* rule = nullptr;  // outlives the program
  float params[kMaxParams] = {};
};

struct DeferArgs {
  static constexpr Op kOp = Op::kDefer;
  DeferralTest test;
  SeqState* states;
  RowPlan rows;       // the draft's
  Proposal proposal;  // law in; wanted and fault out
};

// Parallel.
void DeferCpu(const DeferArgs& args, Worker worker);
// The rule's kernel, of a draft_only one. Instantiated as JudgeCuda is.
template <typename R>
void DeferCuda(const DeferArgs& args, CudaStream stream);

// The draft's figures at one position, but for what costs a pass over the vocabulary. prob(law, v), prob1(law, v): as
// OpenRow's (slot_judge.h). REQUIRES: q.finite().
template <typename Prob, typename Prob1>
TANDEM_DEVICE Row DraftRow(const Law& q, Prob prob, Prob1 prob1) {
  const LawRecord& record = q.record;
  Row row;
  row.greedy = q.greedy();
  row.q.argmax = row.q1.argmax = record.argmax;
  row.q.max = prob(q, record.argmax);
  row.q1.max = prob1(q, record.argmax);
  row.q.lse = q.greedy() ? 0 : record.max * record.inv_t + record.lse;
  row.q1.lse = record.max + record.lse1;
  return row;
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_DEFER_H_
