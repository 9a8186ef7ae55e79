// DrawFromLaw of sample.h on a CUDA device, by a warp; other warps may do the same beside it, each with its own GroupWeights.
#ifndef TANDEM_KERNELS_SAMPLE_SAMPLE_CUH_
#define TANDEM_KERNELS_SAMPLE_SAMPLE_CUH_

#include "kernels/law/law.cuh"
#include "kernels/law/warp.cuh"
#include "kernels/sample/sample.h"

namespace tandem {

__device__ inline BlockChoice ChooseLawBlock(const Law& law, double u) {
  static_assert(sizeof(LawBlock) % sizeof(double) == 0);
  return ChooseBlock(&law.blocks->mass, sizeof(LawBlock) / sizeof(double), NumLawBlocks(law.n_vocab), u);
}

__device__ inline int32_t WarpDrawFromLaw(const Law& law, double u, GroupWeights& groups, double* low,
                                          double* high) {
  if (!law.finite()) return -1;
  if (law.greedy()) {
    *low = 0;
    *high = 1;
    return law.record.argmax;
  }
  const BlockChoice choice = ChooseLawBlock(law, u);
  if (choice.block < 0) return -1;
  return ChooseInBlock(
      law.n_vocab, choice, u, [&](int32_t v) { return LogitOf(law, v); },
      [&](int32_t v, float x) { return ProbOf(law, v, x); }, groups, low, high);
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_SAMPLE_SAMPLE_CUH_
