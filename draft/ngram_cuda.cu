#include "draft/ngram.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 512;

// A block for every slot. At each end of an earlier run, how many tokens before it are those at the sequence's end, up to
// max: the longest wins, and of equals the latest.
__global__ void __launch_bounds__(kThreads) LookupKernel(const __grid_constant__ LookupArgs args) {
  const int32_t slot = static_cast<int32_t>(blockIdx.x);
  const SeqState& state = args.states[slot];
  const int32_t length = state.length;
  const int32_t wanted = WantedProposals(state);
  const int32_t* tokens = args.tokens.of(slot);
  const int32_t most = min(args.max, length - 1);
  unsigned long long best = 0;  // length of the run, then its end
  for (int32_t end = threadIdx.x + 1; wanted > 0 && end < length; end += kThreads) {
    int32_t n = 0;
    while (n < most && n < end && tokens[end - 1 - n] == tokens[length - 1 - n]) ++n;
    const unsigned long long run = static_cast<unsigned long long>(n) << 32 | static_cast<uint32_t>(end);
    if (n >= args.min && run > best) best = run;
  }
  __shared__ unsigned long long shared_best;
  if (threadIdx.x == 0) shared_best = 0;
  __syncthreads();
  if (best != 0) atomicMax(&shared_best, best);
  __syncthreads();
  const auto end = static_cast<int32_t>(shared_best & 0xffffffffu);
  const int32_t n_proposed = shared_best == 0 ? 0 : min(wanted, length - end);
  int32_t* out = args.proposal.tokens + static_cast<int64_t>(slot) * args.proposal.block;
  if (threadIdx.x < n_proposed) out[threadIdx.x] = tokens[end + threadIdx.x];
  if (threadIdx.x == 0) {
    args.proposal.wanted[slot] = wanted;
    args.proposal.fault[slot] = Fault::kNone;
    args.proposal.n_proposed[slot] = n_proposed;
  }
}

}  // namespace

void LookupCuda(const LookupArgs& args, CudaStream stream) {
  Launch(LookupKernel, {.grid = static_cast<unsigned>(args.n_slots), .block = kThreads}, stream, args);
}

}  // namespace tandem
