#include "kernels/law/law.cuh"
#include "kernels/law/warp.cuh"
#include "kernels/total_variation/total_variation.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A warp takes a block of a row.
__global__ void __launch_bounds__(kThreads)
    TotalVariationKernel(const TotalVariationArgs args, int32_t n_vocab) {
  const int32_t n_blocks = NumLawBlocks(n_vocab);
  const int32_t b = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / 32);
  const int64_t row = blockIdx.y;
  const int32_t block = args.scores.block;
  const SeqState& state = args.states[row / block];
  const int64_t n_laws = args.proposal.n_proposed[row / block] + (args.proposal.has_bonus_law ? 1 : 0);
  if (b >= n_blocks || !state.live || state.sampling.greedy() || row % block >= n_laws) return;
  const Law q = args.proposal.law.row(row);
  const Law p = args.scores.law.row(row);
  if (!q.finite() || !p.finite()) return;  // the judge faults the sequence
  double own = 0;
#pragma unroll 8
  for (int32_t j = 0; j < kLawBlock; j += 32) {
    const int32_t v = b * kLawBlock + j + WarpLane();
    const float difference = LawProb(q, v) - LawProb(p, v);
    own += difference > 0 ? difference : 0;
  }
  const double sum = WarpSum(own);
  if (WarpLane() == 0) args.out[row * n_blocks + b] = sum;
}

}  // namespace

void TotalVariationCuda(const TotalVariationArgs& args, CudaStream stream) {
  const int32_t n_q = args.proposal.law.n_vocab, n_p = args.scores.law.n_vocab;
  const int32_t n_vocab = n_q > n_p ? n_q : n_p;
  const LaunchShape shape = {.grid = dim3(BlocksFor(NumLawBlocks(n_vocab), kWarps),
                                          static_cast<unsigned>(args.n_slots * args.scores.block)),
                             .block = kThreads};
  Launch(TotalVariationKernel, shape, stream, args, n_vocab);
}

}  // namespace tandem
