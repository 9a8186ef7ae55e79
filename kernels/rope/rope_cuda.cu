#include "kernels/cuda.cuh"
#include "kernels/rope/rope.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// In double, for an angle may be a position of 100,000 times a frequency of 1: there are few of them.
__global__ void __launch_bounds__(kThreads) RopeAnglesKernel(const __grid_constant__ RopeAnglesArgs args) {
  WaitForPrevious();
  LetNextStart();
  const int half = args.head_dim / 2;
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  const int32_t r = static_cast<int32_t>(blockIdx.y);
  if (r >= *args.rows.n_rows || i >= half) return;
  const float angle = static_cast<float>(args.rows.position[r]) * args.inv_freq[i];
  double sine, cosine;
  sincos(static_cast<double>(angle), &sine, &cosine);
  float* row = args.cos_sin + static_cast<int64_t>(r) * args.head_dim;
  row[i] = static_cast<float>(cosine);
  row[half + i] = static_cast<float>(sine);
}

__device__ void Rotate(const View& norm, float eps, const float* cos_sin, int d, float* head) {
  const int half = d / 2, lane = threadIdx.x % 32;
  float scale = 1;
  if (norm) {
    float sum = 0;
    for (int i = lane; i < d; i += 32) sum = fmaf(head[i], head[i], sum);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    scale = 1.f / sqrtf(sum / static_cast<float>(d) + eps);
  }
  for (int i = lane; i < half; i += 32) {
    float low = head[i], high = head[half + i];
    if (norm) {
      low = low * scale * LoadFloat(norm.data, norm.dtype, i);
      high = high * scale * LoadFloat(norm.data, norm.dtype, half + i);
    }
    const float cos = cos_sin[i], sin = cos_sin[half + i];
    head[i] = low * cos - high * sin;
    head[half + i] = high * cos + low * sin;
  }
  __syncwarp();
}

__device__ void Append(const KvLayer& kv, void* cache, int64_t offset, const float* head) {
  for (int i = threadIdx.x % 32; i < kv.head_dim; i += 32) {
    if (kv.dtype == DType::kF32) {
      static_cast<float*>(cache)[offset + i] = head[i];
    } else {
      static_cast<uint16_t*>(cache)[offset + i] = FloatToBf16(head[i]);
    }
  }
}

// A warp takes one head of one row: the query heads, then the heads of the cache, k and v together.
__global__ void __launch_bounds__(kThreads) RopeAppendKernel(const __grid_constant__ RopeAppendArgs args) {
  WaitForPrevious();
  LetNextStart();
  const int d = args.kv.head_dim;
  const int n_kv_heads = args.kv.n_kv_heads;
  const int h = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  const int64_t r = blockIdx.y;
  if (r >= *args.rows.n_rows || h >= args.n_heads + n_kv_heads) return;
  const float* cos_sin = args.cos_sin + r * d;
  if (h < args.n_heads)
    return Rotate(args.q_norm, args.norm_eps, cos_sin, d, args.q + (r * args.n_heads + h) * d);
  const int kv_head = h - args.n_heads;
  const int64_t head = (r * n_kv_heads + kv_head) * d;
  const int64_t offset = args.kv.offset(args.rows.slot[r], kv_head, args.rows.position[r]);
  Append(args.kv, args.kv.v, offset, args.v + head);
  Rotate(args.k_norm, args.norm_eps, cos_sin, d, args.k + head);
  Append(args.kv, args.kv.k, offset, args.k + head);
}

}  // namespace

void RopeAnglesCuda(const RopeAnglesArgs& args, CudaStream stream) {
  const LaunchShape shape = {
      .grid = dim3(BlocksFor(args.head_dim / 2, kThreads), static_cast<unsigned>(args.rows.capacity)),
      .block = kThreads,
      .overlap = true};
  Launch(RopeAnglesKernel, shape, stream, args);
}

void RopeAppendCuda(const RopeAppendArgs& args, CudaStream stream) {
  const LaunchShape shape = {.grid = dim3(BlocksFor(args.n_heads + args.kv.n_kv_heads, kWarps),
                                          static_cast<unsigned>(args.rows.capacity)),
                             .block = kThreads,
                             .overlap = true};
  Launch(RopeAppendKernel, shape, stream, args);
}

}  // namespace tandem
