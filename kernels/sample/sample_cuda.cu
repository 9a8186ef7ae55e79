#include "kernels/cuda.cuh"
#include "kernels/sample/sample.cuh"
#include "kernels/sample/sample.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A block takes a row: its first warp decides, all of them compute the weights that it draws from.
__global__ void __launch_bounds__(kThreads) SampleKernel(const __grid_constant__ SampleArgs args) {
  __shared__ GroupWeights weights;
  __shared__ alignas(16) unsigned char chosen_shared[sizeof(BlockChoice)];
  auto& chosen = *reinterpret_cast<BlockChoice*>(chosen_shared);
  WaitForPrevious();
  LetNextStart();
  const Proposal& proposal = args.proposal;
  const int32_t i = static_cast<int32_t>(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  // All loads before what waits for one of them: none moves over a barrier.
  const int32_t n_logits = *args.rows.n_logits;
  const int32_t row = args.rows.logits_row[i];
  const int64_t out = args.rows.logits_out[i];
  __syncthreads();
  if (i >= n_logits) return;
  const Law law = proposal.law.row(out);
  const int32_t slot = args.rows.slot[row];
  BlockMasses masses = {};
  if (warp == 0) masses = FetchLawMasses(law.blocks, law.n_vocab);
  __syncthreads();
  const SeqState& state = args.states[slot];
  const UniformKey key = {state.seed, state.sequence, state.length, args.index, args.purpose};
  const float confidence_min = state.confidence_min;
  const int32_t wanted = proposal.wanted[slot];
  __syncthreads();
  if (wanted <= args.index) return;
  const bool draws = law.finite() && !law.greedy();
  double u = 0;
  if (draws) {
    if (warp == 0) {
      u = args.uniforms.Draw(key);
      const BlockChoice choice = ChooseBlock(masses, u);
      if (threadIdx.x == 0) chosen = choice;
    }
    __syncthreads();
    if (chosen.block >= 0) PutLawBlock<kWarps>(weights, law, chosen.block, warp);
    __syncthreads();
  }
  if (warp != 0) return;
  TokenChoice choice;
  if (draws && chosen.block >= 0) choice = ChooseInGroups(chosen, u, weights);
  if (WarpLane() != 0) return;
  if (draws) args.uniforms.Cell(key, choice.low, choice.high);
  const int32_t token = law.finite() && law.greedy() ? law.record.argmax : choice.token;
  const int64_t cell = static_cast<int64_t>(slot) * proposal.block + args.index;
  proposal.parent[cell] = args.index - 1;
  proposal.n_proposed[slot] = args.index + 1;
  proposal.tokens[cell] = token < 0 ? 0 : token;
  bool stops = token < 0;
  if (!stops && confidence_min > 0) {
    // At T = 0 every drawn token has q = 1: confidence is q1 there.
    const float confidence =
        law.greedy() ? LawProb1(law, token) : weights.of[token % kLawBlock / 32][token % 32];
    stops = confidence < confidence_min;
  }
  if (stops) proposal.wanted[slot] = args.index + 1;
}

}  // namespace

void SampleCuda(const SampleArgs& args, CudaStream stream) {
  const LaunchShape shape = {
      .grid = static_cast<unsigned>(args.rows.capacity), .block = kThreads, .overlap = true};
  Launch(SampleKernel, shape, stream, args);
}

}  // namespace tandem
