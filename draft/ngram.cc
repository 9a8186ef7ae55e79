#include "draft/ngram.h"

#include <algorithm>

namespace tandem {
namespace {

// Where the most recent earlier occurrence of the last n of tokens[0, length) ends, or -1.
int32_t FindMatch(const int32_t* tokens, int32_t length, int32_t n) {
  const int32_t* suffix = tokens + length - n;
  for (int32_t end = length - 1; end >= n; --end) {
    if (std::equal(suffix, suffix + n, tokens + end - n)) return end;
  }
  return -1;
}

}  // namespace

void Lookup(const LookupArgs& args) {
  for (int32_t slot = 0; slot < args.n_slots; ++slot) {
    const SeqState& state = args.states[slot];
    const int32_t wanted = WantedProposals(state);
    args.proposal.wanted[slot] = wanted;
    args.proposal.fault[slot] = Fault::kNone;
    int32_t& n_proposed = args.proposal.n_proposed[slot];
    n_proposed = 0;
    if (wanted == 0) continue;
    const int32_t* tokens = args.tokens.of(slot);
    for (int32_t n = std::min(args.max, state.length - 1); n >= args.min; --n) {
      const int32_t match = FindMatch(tokens, state.length, n);
      if (match < 0) continue;
      int32_t* out = args.proposal.tokens + static_cast<int64_t>(slot) * args.proposal.block;
      n_proposed = std::min(wanted, state.length - match);
      std::copy_n(tokens + match, n_proposed, out);
      break;
    }
  }
}

Proposal NgramDrafter::propose(Program& round, const Batch& batch) {
  arena_.Rewind();
  const Proposal proposal = NewProposal(arena_, batch);
  round.Add(LookupArgs{.min = min_,
                       .max = max_,
                       .n_slots = batch.n_slots,
                       .states = batch.states,
                       .tokens = batch.tokens,
                       .proposal = proposal});
  return proposal;
}

}  // namespace tandem
