// The arithmetic of settle.h, one source for the CPU and CUDA.
#ifndef TANDEM_RUNTIME_SETTLE_INL_H_
#define TANDEM_RUNTIME_SETTLE_INL_H_

#include "runtime/settle.h"

namespace tandem::internal {

TANDEM_HD inline bool IsStop(const SeqState& state, int32_t token) {
  for (int32_t i = 0; i < state.n_stop_ids; ++i) {
    if (state.stop_ids[i] == token) return true;
  }
  return false;
}

TANDEM_HD inline Fault FindFault(const SettleArgs& args, int32_t slot, int32_t n_proposed) {
  if (args.proposal.fault != nullptr && args.proposal.fault[slot] != Fault::kNone)
    return args.proposal.fault[slot];
  if (n_proposed < 0 || n_proposed >= args.verdicts.block) return Fault::kProposal;
  if (args.verdicts.fault[slot] != Fault::kNone) return args.verdicts.fault[slot];
  const int32_t n_keep = args.verdicts.n_keep[slot];
  const int32_t next = args.verdicts.next[slot];
  if (n_keep < 0 || n_keep > n_proposed) return Fault::kVerdict;
  if (TargetAdds(args.states[slot]) && (next < 0 || next >= args.n_vocab)) return Fault::kVerdict;
  return Fault::kNone;
}

TANDEM_HD inline void CutRows(SeqState& state, int32_t length) {
  for (int32_t& rows : state.rows) rows = rows < length ? rows : length;
}

// The +2/-1 heuristic: longer blocks after a fully kept one, shorter after any other.
TANDEM_HD inline void AdaptGamma(SeqState& state, int32_t n_proposed, int32_t n_keep) {
  if (state.schedule != GammaSchedule::kHeuristic || n_proposed == 0) return;
  const int32_t least = state.gamma_max < 1 ? state.gamma_max : 1;
  int32_t gamma = n_keep == n_proposed ? state.gamma + 2 : state.gamma - 1;
  if (gamma < least) gamma = least;
  state.gamma = gamma < state.gamma_max ? gamma : state.gamma_max;
}

TANDEM_HD inline void Fail(SeqState& state, Fault fault, SlotRecord& record) {
  state.live = false;
  state.finish = record.finish = FinishReason::kFault;
  record.fault = fault;
  CutRows(state, state.length - 1);
}

// log p1 of the token at row (slot, i).
TANDEM_HD inline float LogProb(const SettleArgs& args, int64_t row, int32_t token) {
  if (args.scores.logits == nullptr || token >= args.scores.n_vocab) return NAN;
  const Law law = args.scores.row(row);
  return law.logits[token] - law.record.max - law.record.lse1;
}

// Appends the kept tokens and the added one, up to the sequence's end.
TANDEM_HD inline void Commit(const SettleArgs& args, int32_t slot, int32_t n_proposed, SlotRecord& record) {
  SeqState& state = args.states[slot];
  const int32_t n_keep = args.verdicts.n_keep[slot];
  const int32_t n_all = n_keep + (record.target_added ? 1 : 0);
  int32_t* tokens = args.tokens.of(slot);
  const int64_t first = static_cast<int64_t>(slot) * args.verdicts.block;
  for (int32_t i = 0; i < n_all && state.finish == FinishReason::kNone; ++i) {
    const int32_t token = i < n_keep ? args.proposal.tokens[first + i] : args.verdicts.next[slot];
    record.tokens[i] = tokens[state.length++] = token;
    record.origin[i] = i < n_keep            ? Origin::kDraft
                       : n_proposed == 0     ? Origin::kTarget
                       : n_keep < n_proposed ? Origin::kReplaced
                                             : Origin::kBonus;
    record.log_prob[i] = record.target_added ? LogProb(args, first + i, token) : NAN;
    ++record.n_emit;
    if (IsStop(state, token)) {
      state.finish = FinishReason::kStop;
    } else if (state.length == state.length_limit) {
      state.finish = FinishReason::kLength;
    }
  }
  CutRows(state, record.base + (n_keep < record.n_emit ? n_keep : record.n_emit));
  AdaptGamma(state, n_proposed, n_keep);
  if (record.target_added && state.writer == Writer::kTarget) state.writer = Writer::kDraft;
  state.live = state.finish == FinishReason::kNone;
  record.finish = state.finish;
}

TANDEM_HD inline void SettleSlot(const SettleArgs& args, int32_t slot) {
  SeqState& state = args.states[slot];
  SlotRecord& record = args.records[slot];
  record = SlotRecord{.admission = state.admission, .ran = state.live, .base = state.length};
  if (!state.live) return;
  const int32_t n_proposed = args.proposal.n_proposed != nullptr ? args.proposal.n_proposed[slot] : 0;
  const Fault fault = FindFault(args, slot, n_proposed);
  if (fault != Fault::kNone) return Fail(state, fault, record);
  record.n_proposed = n_proposed;
  record.n_keep = args.verdicts.n_keep[slot];
  record.target_added = TargetAdds(state);
  if (state.writer == Writer::kPair) {
    record.n_judged = args.verdicts.n_judged[slot];
    const uint8_t* deferred = args.verdicts.deferred + static_cast<int64_t>(slot) * args.verdicts.block;
    for (int32_t i = 0; i < record.n_judged; ++i) record.deferred |= deferred[i] != 0 ? 1u << i : 0u;
  } else {  // the draft's own test looked at the token that this round adds, if it adds one
    record.n_judged = record.target_added ? 1 : record.n_keep;
    record.deferred = record.target_added ? 1 : 0;
  }
  Commit(args, slot, n_proposed, record);
  ++state.round;
}

// REQUIRES: prompt_length <= length <= the sequence's.
TANDEM_HD inline void CutSlot(SeqState& state, int32_t length) {
  state.length = length;
  CutRows(state, length - 1);
  state.live = false;
  state.finish = FinishReason::kStop;
}

}  // namespace tandem::internal

#endif  // TANDEM_RUNTIME_SETTLE_INL_H_
