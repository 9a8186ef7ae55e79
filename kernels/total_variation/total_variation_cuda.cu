#include "kernels/cuda.cuh"
#include "kernels/law/law.cuh"
#include "kernels/law/warp.cuh"
#include "kernels/total_variation/total_variation.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// A warp takes a block of a row.
__global__ void __launch_bounds__(kThreads)
    TotalVariationKernel(const __grid_constant__ TotalVariationArgs args, int32_t n_vocab) {
  WaitForPrevious();
  LetNextStart();
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
  // As on a CPU: four in fp32, then in double.
  constexpr int kTokens = 16;  // at once
  struct Logits {
    float q, p;
  };
  const auto fetch = [&](int32_t v) { return Logits{LogitOf(q, v), LogitOf(p, v)}; };
  double own = 0, own_residual = 0;
  const int32_t begin = b * kLawBlock;
  ForTokens<kTokens>(begin + WarpLane(), 32, begin + kLawBlock, fetch, [&](int32_t first, const auto& x) {
#pragma unroll
    for (int j = 0; j < kTokens; j += 4) {
      float four[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t v = first + 32 * (j + i);
        const float difference = ProbOf(q, v, x[j + i].q) - ProbOf(p, v, x[j + i].p);
        four[i] = fmaxf(difference, 0);
        own_residual += fmaxf(-difference, 0);
      }
      own += (four[0] + four[1]) + (four[2] + four[3]);
    }
  });
  const double sum = WarpSum(own), residual = WarpSum(own_residual);
  if (WarpLane() != 0) return;
  args.out[row * n_blocks + b] = sum;
  if (args.residual != nullptr) args.residual[row * n_blocks + b] = residual;
}

}  // namespace

void TotalVariationCuda(const TotalVariationArgs& args, CudaStream stream) {
  const int32_t n_q = args.proposal.law.n_vocab, n_p = args.scores.law.n_vocab;
  const int32_t n_vocab = n_q > n_p ? n_q : n_p;
  const LaunchShape shape = {.grid = dim3(BlocksFor(NumLawBlocks(n_vocab), kWarps),
                                          static_cast<unsigned>(args.n_slots * args.scores.block)),
                             .block = kThreads,
                             .overlap = true};
  Launch(TotalVariationKernel, shape, stream, args, n_vocab);
}

}  // namespace tandem
