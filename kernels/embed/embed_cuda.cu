#include "kernels/cuda.cuh"
#include "kernels/embed/embed.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) EmbedKernel(const __grid_constant__ EmbedArgs args) {
  WaitForPrevious();
  LetNextStart();
  const int64_t hidden = args.table.n_cols;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t r = static_cast<int32_t>(blockIdx.y);
  if (r >= *args.rows.n_rows || i >= hidden) return;
  args.out[r * hidden + i] = LoadFloat(args.table.data, args.table.dtype, args.rows.token[r] * hidden + i);
}

}  // namespace

void EmbedCuda(const EmbedArgs& args, CudaStream stream) {
  const LaunchShape shape = {
      .grid = dim3(BlocksFor(args.table.n_cols, kThreads), static_cast<unsigned>(args.rows.capacity)),
      .block = kThreads,
      .overlap = true};
  Launch(EmbedKernel, shape, stream, args);
}

}  // namespace tandem
