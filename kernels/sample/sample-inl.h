// Definitions of sample.h's templates.
#ifndef TANDEM_KERNELS_SAMPLE_SAMPLE_INL_H_
#define TANDEM_KERNELS_SAMPLE_SAMPLE_INL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/law/law.h"
#include "runtime/core/check.h"

namespace tandem {

template <typename Fill>
int32_t DrawFromWeights(int32_t n_vocab, double u, Fill fill, double* low, double* high) {
  constexpr int kMaxBlocks = 1024;
  const int32_t n_blocks = (n_vocab + kLawBlock - 1) / kLawBlock;
  TANDEM_CHECK(n_blocks <= kMaxBlocks) << "a vocabulary of " << n_vocab;
  float weights[kLawBlock];
  double ends[kMaxBlocks];  // running sum at each block's end
  double total = 0;
  for (int32_t b = 0; b < n_blocks; ++b) {
    const int32_t begin = b * kLawBlock;
    const int32_t end = std::min(n_vocab, begin + kLawBlock);
    fill(begin, end, weights);
    total += SumWeights(weights, end - begin);
    ends[b] = total;
  }
  if (!(total > 0) || !std::isfinite(total)) return -1;

  // Every comparison is u < (running sum) / total, the very number that is reported as a breakpoint: a caller
  // who asks again with u at a reported `high` gets the next token, whatever the rounding.
  int32_t block = 0;
  while (block + 1 < n_blocks && !(u < ends[block] / total)) ++block;
  const double block_high = ends[block] / total;
  const double block_low = block == 0 ? 0 : ends[block - 1] / total;
  const int32_t begin = block * kLawBlock;
  const int32_t end = std::min(n_vocab, begin + kLawBlock);
  fill(begin, end, weights);
  int32_t last =
      -1;  // the block's last token of positive weight takes what the two orders of summation leave over
  for (int32_t v = end - 1; v >= begin && last < 0; --v) {
    if (weights[v - begin] > 0) last = v;
  }
  double running = block == 0 ? 0 : ends[block - 1];
  double before = block_low;
  for (int32_t v = begin; v <= last; ++v) {
    running += weights[v - begin];
    const double after = v == last ? block_high : std::min(running / total, block_high);
    if (weights[v - begin] > 0 && (u < after || v == last)) {
      if (low != nullptr) *low = before;
      if (high != nullptr) *high = after;
      return v;
    }
    before = after;
  }
  return -1;
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_SAMPLE_SAMPLE_INL_H_
