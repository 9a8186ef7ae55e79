#include "kernels/plan/plan.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace tandem {
namespace {

class RowWriter {
 public:
  RowWriter(const RowPlan& rows, int32_t n_vocab) : rows_(rows), n_vocab_(n_vocab) {}
  ~RowWriter() {
    *rows_.n_rows = n_rows_;
    *rows_.n_logits = n_logits_;
  }

  int32_t room() const { return rows_.capacity - n_rows_; }
  void Row(int32_t slot, int32_t position, int32_t token) {
    TANDEM_CHECK(n_rows_ < rows_.capacity) << "a forward of more than " << rows_.capacity << " rows";
    rows_.slot[n_rows_] = slot;
    rows_.position[n_rows_] = position;
    rows_.token[n_rows_] = token < n_vocab_ ? token : 0;
    ++n_rows_;
  }
  // The logits of the row written last go to row `out`.
  void WantLogits(int32_t out) {
    rows_.logits_row[n_logits_] = n_rows_ - 1;
    rows_.logits_out[n_logits_] = out;
    ++n_logits_;
  }

 private:
  const RowPlan& rows_;
  const int32_t n_vocab_;
  int32_t n_rows_ = 0;
  int32_t n_logits_ = 0;
};

void PlanExtend(const PlanArgs& args, int32_t slot, RowWriter& rows) {
  const SeqState& state = args.states[slot];
  const int32_t begin = state.rows[args.side];
  const int32_t boundary = (begin / args.chunk + 1) * args.chunk;
  const int32_t end = std::min({boundary, state.length - 1, begin + rows.room()});
  for (int32_t t = begin; t < end; ++t) rows.Row(slot, t, args.tokens.of(slot)[t]);
}

// The committed tokens that the cache lacks, the last one included; its logits go to (slot, 0).
void PlanCommitted(const PlanArgs& args, int32_t slot, int32_t most, RowWriter& rows) {
  const SeqState& state = args.states[slot];
  const int32_t begin = state.rows[args.side];
  TANDEM_CHECK(begin < state.length && state.length - begin <= most)
      << "slot " << slot << ": cache " << args.side << " holds " << begin << " of " << state.length
      << " tokens";
  for (int32_t t = begin; t < state.length; ++t) rows.Row(slot, t, args.tokens.of(slot)[t]);
  rows.WantLogits(slot * args.proposal.block);
}

void PlanDraft(const PlanArgs& args, int32_t slot, RowWriter& rows) {
  const SeqState& state = args.states[slot];
  const Proposal& proposal = args.proposal;
  if (args.index == 0) {
    proposal.wanted[slot] = WantedProposals(state);
    proposal.n_proposed[slot] = 0;
    proposal.fault[slot] = Fault::kNone;
  }
  const bool draws = proposal.wanted[slot] > args.index;
  const bool bonus = args.bonus_law && proposal.wanted[slot] == args.index;
  if (!draws && !bonus) return;
  if (args.index == 0) {
    PlanCommitted(args, slot, 2, rows);
    return;
  }
  const int64_t row = static_cast<int64_t>(slot) * proposal.block + args.index;
  rows.Row(slot, state.length + args.index - 1, proposal.tokens[row - 1]);
  rows.WantLogits(static_cast<int32_t>(row));
}

// The target of a token cascade has sat out since it was asked last: as many rows as there is room for.
void PlanCatchUp(const PlanArgs& args, int32_t slot, RowWriter& rows) {
  const SeqState& state = args.states[slot];
  const int32_t begin = state.rows[args.side];
  const int32_t end = std::min(state.length, begin + rows.room());
  for (int32_t t = begin; t < end; ++t) rows.Row(slot, t, args.tokens.of(slot)[t]);
  if (begin < end && end == state.length) rows.WantLogits(slot * args.proposal.block);
}

void PlanVerify(const PlanArgs& args, int32_t slot, RowWriter& rows) {
  const Writer writer = args.states[slot].writer;
  if (writer == Writer::kDraft) return;
  if (writer == Writer::kTarget) return PlanCatchUp(args, slot, rows);
  PlanCommitted(args, slot, 1, rows);
  const int32_t first = slot * args.proposal.block;
  const int32_t length = args.states[slot].length;
  for (int32_t i = 0; i < args.proposal.n_proposed[slot]; ++i) {
    rows.Row(slot, length + i, args.proposal.tokens[first + i]);
    rows.WantLogits(first + i + 1);
  }
}

}  // namespace

void Plan(const PlanArgs& args) {
  RowWriter rows(args.rows, args.n_vocab);
  for (int32_t slot = 0; slot < args.n_slots; ++slot) {
    if (!args.states[slot].live) {
      if (args.kind == PlanKind::kDraft && args.index == 0)
        args.proposal.n_proposed[slot] = args.proposal.wanted[slot] = 0;
      continue;
    }
    switch (args.kind) {
      case PlanKind::kExtend:
        PlanExtend(args, slot, rows);
        break;
      case PlanKind::kDraft:
        PlanDraft(args, slot, rows);
        break;
      case PlanKind::kVerify:
        PlanVerify(args, slot, rows);
        break;
    }
  }
}

void Advance(const AdvanceArgs& args) {
  for (int32_t r = 0; r < *args.rows.n_rows; ++r) {
    args.states[args.rows.slot[r]].rows[args.side] = args.rows.position[r] + 1;
  }
}

}  // namespace tandem
