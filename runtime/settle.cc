#include "runtime/settle.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "runtime/core/check.h"

namespace tandem {
namespace {

bool IsStop(const SeqState& state, int32_t token) {
  return std::find(state.stop_ids, state.stop_ids + state.n_stop_ids, token) !=
         state.stop_ids + state.n_stop_ids;
}

Fault FindFault(const SettleArgs& args, int32_t slot, int32_t n_proposed) {
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

void CutRows(SeqState& state, int32_t length) {
  for (int32_t& rows : state.rows) rows = std::min(rows, length);
}

// The +2/-1 heuristic: longer blocks after a fully kept one, shorter after any other.
void AdaptGamma(SeqState& state, int32_t n_proposed, int32_t n_keep) {
  if (state.schedule != GammaSchedule::kHeuristic || n_proposed == 0) return;
  state.gamma = n_keep == n_proposed ? state.gamma + 2 : state.gamma - 1;
  state.gamma = std::clamp(state.gamma, std::min(1, state.gamma_max), state.gamma_max);
}

// A sequence that ended at a kept token may have the rows of all its tokens; one that goes on lacks the last, except in
// the cache of a draft that has deferred and waits for the target.
void CheckRows(const SeqState& state, int32_t slot) {
  for (int side = 0; side < kNumSides; ++side) {
    const bool waits = side == kDraft && state.writer == Writer::kTarget;
    TANDEM_DCHECK(state.rows[side] >= 0 && state.rows[side] < state.length + (state.live && !waits ? 0 : 1))
        << "slot " << slot << ": " << state.rows[side] << " rows of " << state.length;
  }
}

void Fail(SeqState& state, Fault fault, SlotRecord& record) {
  state.live = false;
  state.finish = record.finish = FinishReason::kFault;
  record.fault = fault;
  CutRows(state, state.length - 1);
}

// log p1 of the token at row (slot, i).
float LogProb(const SettleArgs& args, int64_t row, int32_t token) {
  if (args.scores.logits == nullptr || token >= args.scores.n_vocab) return NAN;
  const Law law = args.scores.row(row);
  return law.logits[token] - law.record.max - law.record.lse1;
}

// Appends the kept tokens and the added one, up to the sequence's end.
void Commit(const SettleArgs& args, int32_t slot, int32_t n_proposed, SlotRecord& record) {
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
  CutRows(state, record.base + std::min(n_keep, record.n_emit));
  AdaptGamma(state, n_proposed, n_keep);
  if (record.target_added && state.writer == Writer::kTarget) state.writer = Writer::kDraft;
  state.live = state.finish == FinishReason::kNone;
  record.finish = state.finish;
}

}  // namespace

void Admit(const AdmitArgs& args) {
  std::copy_n(args.prompt, args.staged->length, args.tokens.of(args.slot));
  for (const PageTableRow& pages : args.pages) {
    if (pages.staged != nullptr) std::copy_n(pages.staged, pages.n_pages, pages.row);
  }
  args.states[args.slot] = *args.staged;
}

void Settle(const SettleArgs& args) {
  for (int32_t slot = 0; slot < args.n_slots; ++slot) {
    SeqState& state = args.states[slot];
    SlotRecord& record = args.records[slot];
    record = {.admission = state.admission, .ran = state.live, .base = state.length};
    if (!state.live) continue;
    const int32_t n_proposed = args.proposal.n_proposed != nullptr ? args.proposal.n_proposed[slot] : 0;
    const Fault fault = FindFault(args, slot, n_proposed);
    if (fault != Fault::kNone) {
      Fail(state, fault, record);
      continue;
    }
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
    CheckRows(state, slot);
  }
}

void Publish(const PublishArgs& args) {
  RoundRecord& record = args.ring[*args.n_published % args.ring_size];
  record.time_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                       std::chrono::steady_clock::now().time_since_epoch())
                       .count();
  std::copy_n(args.records, args.n_slots, record.slots);
  ++*args.n_published;
}

void Cut(const CutArgs& args) {
  SeqState& state = args.states[args.slot];
  TANDEM_CHECK(*args.length >= state.prompt_length && *args.length <= state.length)
      << "cut at " << *args.length << " of " << state.length;
  state.length = *args.length;
  CutRows(state, state.length - 1);
  state.live = false;
  state.finish = FinishReason::kStop;
}

}  // namespace tandem
