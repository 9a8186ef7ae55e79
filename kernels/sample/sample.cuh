// DrawFromLaw of sample.h on a CUDA device, in three parts: a warp chooses the block, the warps of a thread block compute its
// weights, the first warp chooses the token (ChooseInGroups). REQUIRES: a law that is finite and not greedy.
#ifndef TANDEM_KERNELS_SAMPLE_SAMPLE_CUH_
#define TANDEM_KERNELS_SAMPLE_SAMPLE_CUH_

#include "kernels/law/law.cuh"
#include "kernels/law/warp.cuh"

namespace tandem {

// For ChooseBlock.
__device__ __forceinline__ BlockMasses FetchLawMasses(const LawBlock* blocks, int32_t n_vocab) {
  static_assert(sizeof(LawBlock) % sizeof(double) == 0);
  return FetchMasses(&blocks->mass, sizeof(LawBlock) / sizeof(double), NumLawBlocks(n_vocab));
}

// `warp` of kWarps.
template <int kWarps>
__device__ __forceinline__ void PutLawBlock(GroupWeights& weights, const Law& law, int32_t block, int warp) {
  PutBlock<kWarps>(
      weights, block, warp, [&](int32_t v) { return LogitOf(law, v); },
      [&](int32_t v, float x) { return ProbOf(law, v, x); });
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_SAMPLE_SAMPLE_CUH_
