#include "kernels/silu_gate/silu_gate.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) SiluGateKernel(const SiluGateArgs args) {
  const int64_t n = static_cast<int64_t>(*args.n_rows) * args.dim;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const float gate = args.gate[i];
    args.gate[i] = gate / (1.f + expf(-gate)) * args.up[i];
  }
}

}  // namespace

// The number of rows is known on the device alone: the launch is for a few, and goes on from there.
void SiluGateCuda(const SiluGateArgs& args, CudaStream stream) {
  constexpr int64_t kRows = 16;
  Launch(SiluGateKernel, {.grid = BlocksFor(kRows * args.dim, kThreads), .block = kThreads}, stream, args);
}

}  // namespace tandem
