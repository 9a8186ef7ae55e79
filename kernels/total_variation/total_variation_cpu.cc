#include <algorithm>

#include "kernels/law/law.h"
#include "kernels/total_variation/total_variation.h"

namespace tandem {

void TotalVariationCpu(const TotalVariationArgs& args, Worker worker) {
  const int32_t block = args.scores.block;
  const int32_t n_vocab = std::max(args.proposal.law.n_vocab, args.scores.law.n_vocab);
  const int32_t n_blocks = NumLawBlocks(n_vocab);
  const int64_t n_rows = int64_t{args.n_slots} * block;
  const Share share = ShareOf(n_blocks * n_rows, worker);  // as LawBlocksCpu
  for (int64_t item = share.begin; item < share.end; ++item) {
    const auto b = static_cast<int32_t>(item / n_rows);
    const int64_t row = item % n_rows;
    const SeqState& state = args.states[row / block];
    const int64_t n_laws = args.proposal.n_proposed[row / block] + (args.proposal.has_bonus_law ? 1 : 0);
    if (!state.live || state.sampling.greedy() || row % block >= n_laws) continue;
    const Law q = args.proposal.law.row(row);
    const Law p = args.scores.law.row(row);
    if (!q.finite() || !p.finite()) continue;  // the judge faults the sequence
    const int32_t begin = b * kLawBlock;
    args.out[row * n_blocks + b] = LawTotalVariation(q, p, begin, std::min(n_vocab, begin + kLawBlock));
  }
}

}  // namespace tandem
