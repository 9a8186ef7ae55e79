// sample: draft step `index` draws the proposed token of each planned sequence with wanted > index from its
// law, sets n_proposed = index + 1, and ends the drafting (wanted = index + 1) if the token's q (at T = 0,
// where q is one-hot: its q1) is under confidence_min.
//
// Inverse CDF with one uniform over blocks of kLawBlock tokens in fixed order; T = 0 takes the argmax and no
// uniform. A law that is not finite proposes token 0 and ends the drafting: the judge finds the law and
// faults the sequence.
#ifndef TANDEM_KERNELS_SAMPLE_SAMPLE_H_
#define TANDEM_KERNELS_SAMPLE_SAMPLE_H_

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

struct SampleArgs {
  static constexpr Op kOp = Op::kSample;
  int32_t index;
  const SeqState* states;
  RowPlan rows;       // the draft step's plan
  Proposal proposal;  // tokens[slot, index], parent and n_proposed out; law row (slot, index) in
  Uniforms uniforms;  // key: (seed, sequence, length, index, purpose)
  Purpose purpose = Purpose::kDraft;
};

void SampleCpu(const SampleArgs& args, Worker worker);
void SampleCuda(const SampleArgs& args, CudaStream stream);

inline constexpr int kMaxDrawBlocks = 1024;

// A token drawn from weights over the vocabulary, given block by block, with one uniform u in [0, 1): the
// first v whose running sum exceeds u * total. Never a token of weight 0; -1 if the total is 0 or not finite.
//   fill(begin, end, out): weights >= 0 of tokens [begin, end), end - begin <= kLawBlock; called for every
//   block in order, then once more for the block that holds the token
// `low` and `high`, if given, receive the interval [low, high) of u that gives the same token; the intervals
// of all tokens cut [0, 1) without gap or overlap. Vocabularies of up to 2^20 tokens.
template <typename Fill>
int32_t DrawFromWeights(int32_t n_vocab, double u, Fill fill, double* low, double* high);

// The same from a law, whose blocks say which of them to look at: greedy laws give their argmax whatever u is.
int32_t DrawFromLaw(const Law& law, double u, double* low, double* high);

}  // namespace tandem

#include "kernels/sample/sample-inl.h"

#endif  // TANDEM_KERNELS_SAMPLE_SAMPLE_H_
