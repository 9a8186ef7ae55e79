#include "kernels/plan/plan.h"

#include "runtime/core/check.h"

namespace tandem {

void Plan(const PlanArgs& args) {
  const RowPlan& plan = args.rows;
  int32_t n_rows = 0, n_logits = 0;
  for (int32_t slot = 0; slot < args.n_slots; ++slot) {
    if (args.kind == PlanKind::kDraft && args.index == 0) BeginProposal(args, slot);
    const SlotRows rows = RowsOf(args, slot, plan.capacity - n_rows);
    // Prefill has fed all but the last token; a draft may lack the one before it, too, and the target of a token cascade
    // any number.
    const SeqState& state = args.states[slot];
    const bool in_round = args.kind == PlanKind::kDraft || args.kind == PlanKind::kVerify;
    TANDEM_CHECK(args.kind != PlanKind::kRecover || rows.n_rows == 0 || rows.first >= state.prompt_length - 1)
        << "slot " << slot << ": " << rows.first << " rows of a prompt of " << state.prompt_length;
    const bool committed = in_round && args.index == 0 && rows.n_rows > 0 &&
                           (args.kind == PlanKind::kDraft || state.writer == Writer::kPair);
    const int32_t n_lacking = state.length - rows.first;
    TANDEM_CHECK(!committed || (n_lacking >= 1 && n_lacking <= (args.kind == PlanKind::kDraft ? 2 : 1)))
        << "slot " << slot << ": cache " << args.side << " lacks " << n_lacking << " tokens";
    TANDEM_CHECK(n_rows + rows.n_rows <= plan.capacity)
        << "a forward of more than " << plan.capacity << " rows";
    for (int32_t i = 0; i < rows.n_rows; ++i) {
      plan.slot[n_rows + i] = slot;
      plan.position[n_rows + i] = rows.first + i;
      plan.token[n_rows + i] = PlannedToken(args, slot, rows.first + i);
    }
    n_rows += rows.n_rows;
    for (int32_t i = 0; i < rows.n_logits; ++i) {
      plan.logits_row[n_logits + i] = n_rows - rows.n_logits + i;
      plan.logits_out[n_logits + i] = rows.out + i;
    }
    n_logits += rows.n_logits;
  }
  *plan.n_rows = n_rows;
  *plan.n_logits = n_logits;
}

void Advance(const AdvanceArgs& args) {
  for (int32_t r = 0; r < *args.rows.n_rows; ++r) {
    args.states[args.rows.slot[r]].rows[args.side] = args.rows.position[r] + 1;
  }
}

}  // namespace tandem
