#include "kernels/cuda.cuh"
#include "kernels/silu_gate/silu_gate.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float SiluGate(float gate, float up) { return gate / (1.f + expf(-gate)) * up; }

__global__ void __launch_bounds__(kThreads) SiluGateKernel(const SiluGateArgs args) {
  WaitForPrevious();
  LetNextStart();
  const int64_t n = static_cast<int64_t>(*args.n_rows) * args.dim;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride)
    args.gate[i] = SiluGate(args.gate[i], args.up[i]);
}

// Four values at a time, two such in flight.
__global__ void __launch_bounds__(kThreads) RoundedSiluGateKernel(const SiluGateArgs args, uint2* rounded) {
  WaitForPrevious();
  LetNextStart();
  const int64_t n = static_cast<int64_t>(__ldcg(args.n_rows)) * args.dim / 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const auto* gate = reinterpret_cast<const float4*>(args.gate);
  const auto* up = reinterpret_cast<const float4*>(args.up);
  const auto store = [&](int64_t i, const float4& g, const float4& u) {
    rounded[i] = {RoundPair(SiluGate(g.x, u.x), SiluGate(g.y, u.y)),
                  RoundPair(SiluGate(g.z, u.z), SiluGate(g.w, u.w))};
  };
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + stride < n; i += 2 * stride) {
    const float4 g0 = __ldcg(gate + i), u0 = __ldcg(up + i);
    const float4 g1 = __ldcg(gate + i + stride), u1 = __ldcg(up + i + stride);
    store(i, g0, u0);
    store(i + stride, g1, u1);
  }
  if (i < n) store(i, __ldcg(gate + i), __ldcg(up + i));
}

}  // namespace

// The number of rows is known on the device alone: the launch is for a few, and goes on from there; rounded, for many.
void SiluGateCuda(const SiluGateArgs& args, CudaStream stream, uint16_t* rounded) {
  constexpr int64_t kRows = 16;
  if (rounded == nullptr) {
    const LaunchShape shape = {
        .grid = BlocksFor(kRows * args.dim, kThreads), .block = kThreads, .overlap = true};
    Launch(SiluGateKernel, shape, stream, args);
    return;
  }
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  TANDEM_CHECK(args.dim % 4 == 0 && aligned(args.gate) && aligned(args.up) && aligned(rounded));
  const LaunchShape shape = {
      .grid = static_cast<unsigned>(8 * MultiprocessorCount()), .block = kThreads, .overlap = true};
  Launch(RoundedSiluGateKernel, shape, stream, args, reinterpret_cast<uint2*>(rounded));
}

}  // namespace tandem
