#include "kernels/cuda.cuh"
#include "kernels/sample/sample.cuh"
#include "kernels/sample/sample.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;

// Every warp of the block some of the groups. `block` may be none.
__device__ void FillGroups(const Law& law, int32_t block, GroupWeights& weights) {
  constexpr int kGroups = 32 / (kThreads / 32);
  const int group = static_cast<int>(threadIdx.x) / 32 * kGroups;
  float x[kGroups];
#pragma unroll
  for (int j = 0; j < kGroups; ++j) x[j] = LogitOf(law, block * kLawBlock + (group + j) * 32 + WarpLane());
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    const int32_t v = block * kLawBlock + (group + j) * 32 + WarpLane();
    weights.of[group + j][WarpLane()] = ProbOf(law, v, x[j]);
  }
}

// A block takes a row: its first warp decides, all of them compute the weights that it draws from.
__global__ void __launch_bounds__(kThreads) SampleKernel(const __grid_constant__ SampleArgs args) {
  __shared__ GroupWeights weights;
  __shared__ alignas(16) unsigned char chosen_shared[sizeof(BlockChoice)];
  auto& chosen = *reinterpret_cast<BlockChoice*>(chosen_shared);
  WaitForPrevious();
  LetNextStart();
  const Proposal& proposal = args.proposal;
  const int32_t i = static_cast<int32_t>(blockIdx.x);
  // Loads before what waits for one of them.
  const int32_t n_logits = *args.rows.n_logits;
  const int32_t row = args.rows.logits_row[i];
  const int64_t out = args.rows.logits_out[i];
  if (i >= n_logits) return;
  const Law law = proposal.law.row(out);
  const int32_t slot = args.rows.slot[row];
  const SeqState& state = args.states[slot];
  const UniformKey key = {state.seed, state.sequence, state.length, args.index, args.purpose};
  const float confidence_min = state.confidence_min;
  if (proposal.wanted[slot] <= args.index) return;
  const bool draws = law.finite() && !law.greedy();
  double u = 0, low = 0, high = 1;
  if (draws) {
    if (threadIdx.x < 32) {
      u = args.uniforms.Draw(key);
      const BlockChoice choice = ChooseLawBlock(law, u);
      if (threadIdx.x == 0) chosen = choice;
    }
    __syncthreads();
    FillGroups(law, chosen.block, weights);
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  int32_t token = law.finite() && law.greedy() ? law.record.argmax : -1;
  if (draws && chosen.block >= 0) token = ChooseInGroups(chosen, u, weights, &low, &high);
  if (WarpLane() != 0) return;
  if (draws) args.uniforms.Cell(key, low, high);
  const int64_t cell = static_cast<int64_t>(slot) * proposal.block + args.index;
  proposal.parent[cell] = args.index - 1;
  proposal.n_proposed[slot] = args.index + 1;
  proposal.tokens[cell] = token < 0 ? 0 : token;
  // At T = 0 every drawn token has q = 1: confidence is q1 there.
  const float confidence = token < 0 ? 0 : law.greedy() ? LawProb1(law, token) : LawProb(law, token);
  if (token < 0 || confidence < confidence_min) proposal.wanted[slot] = args.index + 1;
}

}  // namespace

void SampleCuda(const SampleArgs& args, CudaStream stream) {
  const LaunchShape shape = {
      .grid = static_cast<unsigned>(args.rows.capacity), .block = kThreads, .overlap = true};
  Launch(SampleKernel, shape, stream, args);
}

}  // namespace tandem
