// Definitions of sample.h's templates.
#ifndef TANDEM_KERNELS_SAMPLE_SAMPLE_INL_H_
#define TANDEM_KERNELS_SAMPLE_SAMPLE_INL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/law/law.h"
#include "runtime/core/check.h"

namespace tandem {

namespace internal {

// Every comparison is u < (running sum) / total, the very number that is reported as a breakpoint: a caller who asks
// again with u at a reported `high` gets the next token, whatever the rounding.

// The block that holds u; ends: running sums at the blocks' ends.
inline int32_t ChooseBlock(const double* ends, int32_t n_blocks, double u) {
  const double total = ends[n_blocks - 1];
  int32_t block = 0;
  while (block + 1 < n_blocks && !(u < ends[block] / total)) ++block;
  return block;
}

// The token of a block that holds u in [begin, end), which its weights share out; an index in the block, -1 if no
// weight is positive.
inline int32_t ChooseInBlock(const float* weights, int32_t n, double u, double begin, double end, double* low,
                             double* high) {
  const double scale = (end - begin) / SumWeights(weights, n);
  int32_t last = n - 1;  // the last token of positive weight takes what the orders of summation leave over
  while (last >= 0 && !(weights[last] > 0)) --last;
  double running = 0;
  double before = begin;
  for (int32_t v = 0; v <= last; ++v) {
    running += weights[v];
    const double after = v == last ? end : std::min(begin + scale * running, end);
    if (weights[v] > 0 && (u < after || v == last)) {
      if (low != nullptr) *low = before;
      if (high != nullptr) *high = after;
      return v;
    }
    before = after;
  }
  return -1;
}

}  // namespace internal

template <typename Fill>
int32_t DrawFromWeights(int32_t n_vocab, double u, Fill fill, double* low, double* high) {
  const int32_t n_blocks = NumLawBlocks(n_vocab);
  TANDEM_CHECK(n_blocks <= kMaxDrawBlocks) << "a vocabulary of " << n_vocab;
  float weights[kLawBlock];
  double ends[kMaxDrawBlocks];
  double total = 0;
  for (int32_t b = 0; b < n_blocks; ++b) {
    const int32_t begin = b * kLawBlock;
    const int32_t end = std::min(n_vocab, begin + kLawBlock);
    fill(begin, end, weights);
    total += SumWeights(weights, end - begin);
    ends[b] = total;
  }
  if (!(total > 0) || !std::isfinite(total)) return -1;
  const int32_t block = internal::ChooseBlock(ends, n_blocks, u);
  const int32_t begin = block * kLawBlock;
  const int32_t end = std::min(n_vocab, begin + kLawBlock);
  fill(begin, end, weights);
  return begin + internal::ChooseInBlock(weights, end - begin, u, block == 0 ? 0 : ends[block - 1] / total,
                                         ends[block] / total, low, high);
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_SAMPLE_SAMPLE_INL_H_
