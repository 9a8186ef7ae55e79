#include "draft/host_drafter.h"

#include <algorithm>

#include "kernels/plan/plan.h"

namespace tandem {

void HostDraft(const HostDraftArgs& args) {
  for (int32_t slot = 0; slot < args.n_slots; ++slot) {
    const SeqState& state = args.states[slot];
    const int32_t wanted = WantedProposals(state);
    args.proposal.wanted[slot] = wanted;
    args.proposal.n_proposed[slot] = 0;
    args.proposal.fault[slot] = Fault::kNone;
    if (wanted == 0) continue;
    args.proposed->clear();
    (*args.function)({args.tokens.of(slot), static_cast<size_t>(state.length)}, wanted, args.proposed);
    const bool in_vocabulary = std::all_of(args.proposed->begin(), args.proposed->end(),
                                           [&](int32_t token) { return token >= 0 && token < args.n_vocab; });
    if (!in_vocabulary || args.proposed->size() > static_cast<size_t>(wanted)) {
      args.proposal.fault[slot] = Fault::kProposal;
      continue;
    }
    std::copy(args.proposed->begin(), args.proposed->end(),
              args.proposal.tokens + static_cast<int64_t>(slot) * args.proposal.block);
    args.proposal.n_proposed[slot] = static_cast<int32_t>(args.proposed->size());
  }
}

Proposal HostDrafter::propose(Program& round, const Batch& batch) {
  arena_.Rewind();
  const Proposal proposal = NewProposal(arena_, batch);
  round.Add(HostDraftArgs{.function = &function_,
                          .proposed = &proposed_,
                          .n_slots = batch.n_slots,
                          .n_vocab = n_vocab_,
                          .states = batch.states,
                          .tokens = batch.tokens,
                          .proposal = proposal});
  return proposal;
}

}  // namespace tandem
