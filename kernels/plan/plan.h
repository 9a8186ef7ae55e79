// plan: writes the rows of one forward from SeqState, so that no later step needs to know a sequence.
// advance: what the forward computed is in the cache now.
//
// A row is (slot, position, token) and is always new to the cache: planning starts at rows[side], the first position
// that the cache does not hold. (A device that wants a fixed number of rows may compute and not write older ones; the
// CPU does not need to.)
#ifndef TANDEM_KERNELS_PLAN_PLAN_H_
#define TANDEM_KERNELS_PLAN_PLAN_H_

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

enum class PlanKind : int32_t {
  // Prompt tokens that the cache lacks, up to but not including the last one, cut at the next multiple of `chunk` and at
  // the plan's capacity, slot after slot. No logits.
  kExtend,
  // Committed tokens that the cache lacks, from the prompt's last one on and up to but not including the last of all, cut
  // at the plan's capacity, slot after slot: what a sequence had written when it was preempted. No logits. The prompt's
  // other tokens are in the cache. A draft that lacks two tokens between rounds gets the first of them here.
  kRecover,
  // Draft step `index` = 0: the committed tokens the cache lacks, at most two, the last one included. Logits of the
  // last go to row (slot, 0).
  // Draft step `index` > 0: proposed token index - 1 of the sequences that still draft. Logits go to row (slot, index).
  kDraft,
  // The target's rows: committed tokens the cache lacks (the last one at least), then the proposed ones. Logits of the
  // last committed and of every proposed row i go to rows (slot, 0), (slot, i + 1). In a token cascade only of sequences
  // whose draft has deferred; the cache may lack any number of rows then, and what the plan's capacity leaves over waits
  // for the next round: no logits until the last committed token is among the rows.
  kVerify,
};

// Draft step `index` takes the sequences with wanted > index; with `bonus_law` also those whose proposal ended at
// wanted == index: their last proposed token is fed for the law after it, and nothing is drawn. Step 0 sets wanted and
// n_proposed.
struct PlanArgs {
  static constexpr Op kOp = Op::kPlan;
  PlanKind kind;
  Side side;        // whose cache
  int32_t index;    // kDraft
  bool bonus_law;   // kDraft
  int32_t chunk;    // kExtend
  int32_t n_vocab;  // the model's embedding rows; a committed token beyond them (the other model's padding)
                    // is fed as token 0, which only a draft can meet and only costs it a rejection
  int32_t n_slots;
  const SeqState* states;  // [n_slots]
  TokenTable tokens;
  Proposal proposal;  // kDraft with index > 0, kVerify
  RowPlan rows;       // out
};

// Proposed tokens that the next round may have: gamma, but never past the length limit (the target adds one more, except
// in a token cascade).
TANDEM_HD inline int32_t WantedProposals(const SeqState& state) {
  if (!state.live || state.writer == Writer::kTarget) return 0;
  const int32_t room = state.length_limit - state.length - (state.writer == Writer::kPair ? 1 : 0);
  const int32_t wanted = state.gamma < room ? state.gamma : room;
  return wanted > 0 ? wanted : 0;
}

// The rows of one slot: positions first .. first + n_rows - 1; the logits of the last n_logits of them are wanted, in rows
// `out` and on of the logits buffer.
struct SlotRows {
  int32_t first = 0;
  int32_t n_rows = 0;
  int32_t n_logits = 0;
  int32_t out = 0;
};

// Draft step 0 of a slot: what sets the round's proposal to empty.
TANDEM_HD inline void BeginProposal(const PlanArgs& args, int32_t slot) {
  args.proposal.wanted[slot] = WantedProposals(args.states[slot]);
  args.proposal.n_proposed[slot] = 0;
  args.proposal.fault[slot] = Fault::kNone;
}

// `room`: rows that the plan still has room for. Draft step 0 comes after BeginProposal.
TANDEM_HD inline SlotRows RowsOf(const PlanArgs& args, int32_t slot, int32_t room) {
  const SeqState& state = args.states[slot];
  if (!state.live) return {};
  const int32_t begin = state.rows[args.side];
  const int32_t block = args.proposal.block;
  if (args.kind == PlanKind::kExtend || args.kind == PlanKind::kRecover) {
    int32_t end = state.length - 1;
    if (args.kind == PlanKind::kExtend) {
      end = (begin / args.chunk + 1) * args.chunk;
      if (end > state.prompt_length - 1) end = state.prompt_length - 1;
    }
    if (end > begin + room) end = begin + room;
    return {begin, end > begin ? end - begin : 0, 0, 0};
  }
  if (args.kind == PlanKind::kVerify && state.writer == Writer::kDraft) return {};
  if (args.kind == PlanKind::kVerify && state.writer == Writer::kTarget) {
    // The target of a token cascade has sat out since it was asked last: as many rows as there is room for.
    const int32_t end = state.length < begin + room ? state.length : begin + room;
    if (end <= begin) return {};
    return {begin, end - begin, end == state.length ? 1 : 0, slot * block};
  }
  if (args.kind == PlanKind::kVerify) {
    const int32_t n_proposed = args.proposal.n_proposed[slot];
    return {begin, state.length + n_proposed - begin, n_proposed + 1, slot * block};
  }
  const int32_t wanted = args.proposal.wanted[slot];
  if (!(wanted > args.index || (args.bonus_law && wanted == args.index))) return {};
  if (args.index == 0) return {begin, state.length - begin, 1, slot * block};
  return {state.length + args.index - 1, 1, 1, slot * block + args.index};
}

// The token at `position`: committed, or proposed behind what is.
TANDEM_HD inline int32_t PlannedToken(const PlanArgs& args, int32_t slot, int32_t position) {
  const int32_t length = args.states[slot].length;
  const int32_t token = position < length
                            ? args.tokens.of(slot)[position]
                            : args.proposal.tokens[slot * args.proposal.block + (position - length)];
  return token < args.n_vocab ? token : 0;
}

// rows[side] = position + 1 of each planned row. The only step but settle and admit that writes rows[].
struct AdvanceArgs {
  static constexpr Op kOp = Op::kAdvance;
  Side side;
  SeqState* states;
  RowPlan rows;
};

// Serial steps: worker 0 runs them.
void Plan(const PlanArgs& args);
void Advance(const AdvanceArgs& args);
void PlanCuda(const PlanArgs& args, CudaStream stream);
void AdvanceCuda(const AdvanceArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_KERNELS_PLAN_PLAN_H_
