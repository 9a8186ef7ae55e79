// total_variation: TV(q, p) = sum over v of max(0, q(v) - p(v)) at every proposed position of every live slot, and at
// the bonus position where q is known there, block by block of the vocabulary. Rules that look at it have it before the
// judge begins, computed by all workers; the judge adds a row's blocks in order.
//
// On a CUDA device also the sums of max(0, p(v) - q(v)), from which a rule that is `either` (policies/rule.h) draws a
// replacement, whether it looks at TV or not.
//
// At T = 0 nothing is computed: the judge compares argmaxes.
#ifndef TANDEM_KERNELS_TOTAL_VARIATION_TOTAL_VARIATION_H_
#define TANDEM_KERNELS_TOTAL_VARIATION_TOTAL_VARIATION_H_

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

struct TotalVariationArgs {
  static constexpr Op kOp = Op::kTotalVariation;
  int32_t n_slots;
  const SeqState* states;  // [n_slots]
  Proposal proposal;       // has_law
  Scores scores;
  double* out;                 // [n_slots * scores.block, NumLawBlocks(larger n_vocab)]
  double* residual = nullptr;  // the same of max(0, p - q); null: not wanted
};

void TotalVariationCpu(const TotalVariationArgs& args, Worker worker);
void TotalVariationCuda(const TotalVariationArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_KERNELS_TOTAL_VARIATION_TOTAL_VARIATION_H_
