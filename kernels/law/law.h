// law: the record (core/law.h) of every planned row of logits, from the row and its sequence's sampling
// parameters; and the passes over a law's vocabulary that samplers and judges share.
//
//   top-k   cutoff = the k-th largest logit
//   top-p   cutoff = the largest logit t with mass{v : logit(v) >= t} >= top_p; masses after top-k, renormalised
//   min-p   cutoff = max + log(min_p) / inv_t, i.e. p(v) >= min_p * max p
//
// The highest of the three counts; tokens at the cutoff stay.
//
// A NaN or +infinite logit makes lse and lse1 NaN, which the judge reports; a logit of -infinity
// is a token of probability 0. No row can hang or read outside its buffer.
#ifndef TANDEM_KERNELS_LAW_LAW_H_
#define TANDEM_KERNELS_LAW_LAW_H_

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

// The blocks of every planned row: max, argmax and mass1, and `mass` (of the block's own max still) where nothing is cut
// off. A step of its own, because it is what can be shared out, block by block; on a CUDA device LawCuda does it.
struct LawBlocksArgs {
  static constexpr Op kOp = Op::kLawBlocks;
  const SeqState* states;
  RowPlan rows;    // as LawArgs
  LawBuffer laws;  // logits in, blocks out
};

// The record of every planned row from its blocks, and their masses.
struct LawArgs {
  static constexpr Op kOp = Op::kLaw;
  const SeqState* states;
  RowPlan rows;    // logits_out names the rows of `laws`; slot[logits_row] their sequence
  LawBuffer laws;  // logits and blocks in; records and the blocks' masses out
  float* scratch;  // [n_workers, laws.stride]; the CPU's
};

void LawReference(const LawArgs& args);  // from the logits alone; sorts, sums in double
void LawBlocksCpu(const LawBlocksArgs& args, Worker worker);
void LawCpu(const LawArgs& args, Worker worker);
void LawBlocksCuda(const LawBlocksArgs& args, CudaStream stream);
void LawCuda(const LawArgs& args, CudaStream stream);

// out[v - begin] = p(v), or p1(v), for begin <= v < end; 0 outside the law's vocabulary, one-hot for p at T =
// 0. What is under 2^-125 is 0. REQUIRES: law.finite(). SIMD with run-time dispatch; p(v) has the same bits
// in every call, wherever it begins.
void LawProbs(const Law& law, int32_t begin, int32_t end, float* out);
void LawProbs1(const Law& law, int32_t begin, int32_t end, float* out);

// Entropy in nats of p, of p1. REQUIRES: law.finite().
float LawEntropy(const Law& law);
float LawEntropy1(const Law& law);

// Sum over begin <= v < end of max(0, q(v) - p(v)). REQUIRES: both finite and neither greedy.
double LawTotalVariation(const Law& q, const Law& p, int32_t begin, int32_t end);

// Sum in double of n weights.
double SumWeights(const float* weights, int32_t n);

// The k-th largest of n values (k >= 1; the smallest if k > n). NaN-free. scratch: [n].
float KthLargest(const float* values, int32_t n, int32_t k, float* scratch);

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_LAW_H_
