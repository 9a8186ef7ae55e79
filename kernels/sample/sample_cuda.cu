#include "kernels/sample/sample.cuh"
#include "kernels/sample/sample.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

// A warp takes a row.
__global__ void __launch_bounds__(32) SampleKernel(const SampleArgs args) {
  const Proposal& proposal = args.proposal;
  const int32_t i = static_cast<int32_t>(blockIdx.x);
  if (i >= *args.rows.n_logits) return;
  const int32_t slot = args.rows.slot[args.rows.logits_row[i]];
  if (proposal.wanted[slot] <= args.index) return;
  const SeqState& state = args.states[slot];
  const Law law = proposal.law.row(args.rows.logits_out[i]);
  int32_t token = -1;
  if (law.greedy()) {
    token = law.finite() ? law.record.argmax : -1;
  } else if (law.finite()) {
    const UniformKey key = {state.seed, state.sequence, state.length, args.index, args.purpose};
    double low = 0, high = 1;
    token = WarpDrawFromLaw(law, args.uniforms.Draw(key), &low, &high);
    if (WarpLane() == 0) args.uniforms.Cell(key, low, high);
  }
  __syncwarp();  // `wanted` was read by all
  if (WarpLane() != 0) return;
  const int64_t cell = static_cast<int64_t>(slot) * proposal.block + args.index;
  proposal.parent[cell] = args.index - 1;
  proposal.n_proposed[slot] = args.index + 1;
  proposal.tokens[cell] = token < 0 ? 0 : token;
  // At T = 0 every drawn token has q = 1: confidence is q1 there.
  const float confidence = token < 0 ? 0 : law.greedy() ? LawProb1(law, token) : LawProb(law, token);
  if (token < 0 || confidence < state.confidence_min) proposal.wanted[slot] = args.index + 1;
}

}  // namespace

void SampleCuda(const SampleArgs& args, CudaStream stream) {
  Launch(SampleKernel, {.grid = static_cast<unsigned>(args.rows.capacity), .block = 32}, stream, args);
}

}  // namespace tandem
