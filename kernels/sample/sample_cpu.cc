#include <algorithm>

#include "kernels/sample/sample.h"

namespace tandem {

int32_t DrawFromLaw(const Law& law, double u, double* low, double* high) {
  if (!law.finite()) return -1;
  if (law.greedy()) {
    if (low != nullptr) *low = 0;
    if (high != nullptr) *high = 1;
    return law.record.argmax;
  }
  const int32_t n_blocks = NumLawBlocks(law.n_vocab);
  TANDEM_CHECK(n_blocks <= kMaxDrawBlocks) << "a vocabulary of " << law.n_vocab;
  double ends[kMaxDrawBlocks];
  double total = 0;
  for (int32_t b = 0; b < n_blocks; ++b) {
    total += law.blocks[b].mass;
    ends[b] = total;
  }
  const int32_t block = internal::ChooseBlock(ends, n_blocks, u);
  const int32_t begin = block * kLawBlock;
  const int32_t end = std::min(law.n_vocab, begin + kLawBlock);
  float weights[kLawBlock];
  LawProbs(law, begin, end, weights);
  return begin + internal::ChooseInBlock(weights, end - begin, u, block == 0 ? 0 : ends[block - 1] / total,
                                         ends[block] / total, low, high);
}

void SampleCpu(const SampleArgs& args, Worker worker) {
  const Proposal& proposal = args.proposal;
  const Share share = ShareOf(*args.rows.n_logits, worker);
  for (int64_t i = share.begin; i < share.end; ++i) {
    const int32_t slot = args.rows.slot[args.rows.logits_row[i]];
    if (proposal.wanted[slot] <= args.index) continue;
    const int64_t cell = static_cast<int64_t>(slot) * proposal.block + args.index;
    const SeqState& state = args.states[slot];
    const Law law = proposal.law.row(args.rows.logits_out[i]);
    int32_t token = -1;
    if (law.greedy()) {
      token = DrawFromLaw(law, 0, nullptr, nullptr);
    } else if (law.finite()) {
      const UniformKey key = {state.seed, state.sequence, state.length, args.index, args.purpose};
      double low = 0, high = 1;
      token = DrawFromLaw(law, args.uniforms.Draw(key), &low, &high);
      args.uniforms.Cell(key, low, high);
    }
    proposal.parent[cell] = args.index - 1;
    proposal.n_proposed[slot] = args.index + 1;
    proposal.tokens[cell] = token < 0 ? 0 : token;
    // At T = 0 every drawn token has q = 1: confidence is q1 there.
    float confidence = 0;
    if (token >= 0)
      law.greedy() ? LawProbs1(law, token, token + 1, &confidence)
                   : LawProbs(law, token, token + 1, &confidence);
    if (token < 0 || confidence < state.confidence_min) proposal.wanted[slot] = args.index + 1;
  }
}

}  // namespace tandem
