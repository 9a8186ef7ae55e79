#include "kernels/cuda.cuh"
#include "kernels/law/law.cuh"
#include "kernels/law/warp.cuh"
#include "kernels/total_variation/total_variation.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpsOfBlock = 2;
constexpr int kBlocks = kThreads / 32 / kWarpsOfBlock;  // of the vocabulary

// Two warps take a block of a row.
__global__ void __launch_bounds__(kThreads)
    TotalVariationKernel(const __grid_constant__ TotalVariationArgs args, int32_t n_vocab) {
  __shared__ double sums[kBlocks][kWarpsOfBlock], residuals[kBlocks][kWarpsOfBlock];
  WaitForPrevious();
  LetNextStart();
  const int32_t n_blocks = NumLawBlocks(n_vocab);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int mine = warp / kWarpsOfBlock, part = warp % kWarpsOfBlock;
  const int32_t b = static_cast<int32_t>(blockIdx.x) * kBlocks + mine;
  const int32_t slot = static_cast<int32_t>(blockIdx.z), i = static_cast<int32_t>(blockIdx.y);
  const int64_t row = static_cast<int64_t>(slot) * args.scores.block + i;
  const SeqState& state = args.states[slot];
  // All loads before what waits for one of them: none moves over the barrier.
  const bool live = state.live, greedy = state.sampling.greedy();
  const int32_t n_laws = args.proposal.n_proposed[slot] + (args.proposal.has_bonus_law ? 1 : 0);
  const Law q = args.proposal.law.row(row);
  const Law p = args.scores.law.row(row);
  __syncthreads();
  if (!live || greedy || i >= n_laws) return;
  if (!q.finite() || !p.finite()) return;  // the judge faults the sequence
  // As on a CPU: four in fp32, then in double.
  constexpr int kTokens = kLawBlock / kWarpsOfBlock / 32;
  const int32_t first = b * kLawBlock + part * (kLawBlock / kWarpsOfBlock) + WarpLane();
  float x_q[kTokens], x_p[kTokens];
#pragma unroll
  for (int j = 0; j < kTokens; ++j) {
    x_q[j] = LogitOf(q, first + 32 * j);
    x_p[j] = LogitOf(p, first + 32 * j);
  }
  double own = 0, own_residual = 0;
#pragma unroll
  for (int j = 0; j < kTokens; j += 4) {
    float four[4], residual[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float difference = SampledProbOf(q, x_q[j + i]) - SampledProbOf(p, x_p[j + i]);
      four[i] = fmaxf(difference, 0);
      residual[i] = fmaxf(-difference, 0);
    }
    own += (four[0] + four[1]) + (four[2] + four[3]);
    own_residual += (residual[0] + residual[1]) + (residual[2] + residual[3]);
  }
  own = WarpSum(own);
  own_residual = WarpSum(own_residual);
  if (WarpLane() == 0) {
    sums[mine][part] = own;
    residuals[mine][part] = own_residual;
  }
  __syncthreads();
  if (part != 0 || WarpLane() != 0 || b >= n_blocks) return;
  args.out[row * n_blocks + b] = sums[mine][0] + sums[mine][1];
  if (args.residual != nullptr) args.residual[row * n_blocks + b] = residuals[mine][0] + residuals[mine][1];
}

}  // namespace

void TotalVariationCuda(const TotalVariationArgs& args, CudaStream stream) {
  const int32_t n_q = args.proposal.law.n_vocab, n_p = args.scores.law.n_vocab;
  const int32_t n_vocab = n_q > n_p ? n_q : n_p;
  const LaunchShape shape = {
      .grid = dim3(BlocksFor(NumLawBlocks(n_vocab), kBlocks), static_cast<unsigned>(args.scores.block),
                   static_cast<unsigned>(args.n_slots)),
      .block = kThreads,
      .overlap = true};
  Launch(TotalVariationKernel, shape, stream, args, n_vocab);
}

}  // namespace tandem
