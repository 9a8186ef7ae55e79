#include "runtime/settle.h"

#include <algorithm>
#include <chrono>

#include "runtime/core/check.h"
#include "runtime/settle-inl.h"

namespace tandem {
namespace {

// A sequence that ended at a kept token may have the rows of all its tokens; one that goes on lacks the last, except in
// the cache of a draft that has deferred and waits for the target.
void CheckRows(const SeqState& state, int32_t slot) {
  for (int side = 0; side < kNumSides; ++side) {
    const bool waits = side == kDraft && state.writer == Writer::kTarget;
    TANDEM_DCHECK(state.rows[side] >= 0 && state.rows[side] < state.length + (state.live && !waits ? 0 : 1))
        << "slot " << slot << ": " << state.rows[side] << " rows of " << state.length;
  }
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
    internal::SettleSlot(args, slot);
    const SlotRecord& record = args.records[slot];
    if (!record.ran || record.fault != Fault::kNone) continue;
    CheckRows(args.states[slot], slot);
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
  internal::CutSlot(state, *args.length);
}

void Grow(const GrowArgs& args) {
  const PageGrowth& growth = args.ring[*args.n_grown % args.ring_size];
  for (int32_t i = 0; i < growth.n_entries; ++i) *growth.entries[i].at = growth.entries[i].page;
  ++*args.n_grown;
}

void Preempt(const PreemptArgs& args) {
  SeqState& state = args.states[args.slot];
  *args.staged = state;
  state.live = false;
}

}  // namespace tandem
