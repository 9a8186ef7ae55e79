// What decides the bits of a product of bf16 weights and rounded inputs on a CUDA device, for the two kernels that compute
// one (linear_cuda.cu, kernels/stream):
//
//   - in_dim is cut into chunks of 32 values; chunks 2 s and 2 s + 1 of every 16 belong to strand s. A strand's sum starts
//     at 0 and takes its chunks in rising order, each as two steps of the tensor cores' m16n8k16.
//   - An output is the sum of the 8 strands in order, then the bias, then what it is added to.
//   - A norm's sum of squares: thread j of 256 adds up groups of 8 values j, j + 256, ...; a butterfly over each warp; the
//     8 warps in order.
//
// So an output's bits follow from its row of the input and its weights alone: not from the number of rows, nor from where
// in a tile they stand.
#ifndef TANDEM_KERNELS_LINEAR_STRANDS_CUH_
#define TANDEM_KERNELS_LINEAR_STRANDS_CUH_

#include "kernels/cuda.cuh"
#include "kernels/linear/linear.h"

namespace tandem::strands {

constexpr int kStrands = 8;  // and warps of a block
constexpr int kThreads = kStrands * 32;
constexpr int kChunk = 32;
constexpr int kTileCols = 2 * kStrands * kChunk;
constexpr int kTileRows = 16;

// Weights lie so that 16 bytes can be loaded at a time, inputs too.
inline bool CanFollow(const LinearArgs& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const auto whole = [](const View& view) {
    return view.dtype != DType::kF32 || reinterpret_cast<uintptr_t>(view.data) % 4 == 0;
  };
  if (!args.round_bf16 || args.in_dim % kChunk != 0 || args.in_stride % 4 != 0 || !aligned(args.in)) return false;
  for (int s = 0; s < args.n_segments; ++s) {
    const View& weight = args.segment[s].weight;
    if (weight.dtype != DType::kBf16 || !aligned(weight.data)) return false;
    if (!whole(args.segment[s].bias)) return false;
  }
  return whole(args.norm);
}

__device__ __forceinline__ float4 LoadVector(const View& view, int64_t i) {
  return {LoadFloat(view.data, view.dtype, i), LoadFloat(view.data, view.dtype, i + 1),
          LoadFloat(view.data, view.dtype, i + 2), LoadFloat(view.data, view.dtype, i + 3)};
}

__device__ __forceinline__ float AddSquares(float sum, float4 v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}
__device__ __forceinline__ float Butterfly(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}
// From the warps' sums of squares of one row.
__device__ __forceinline__ float RowScale(const float* warp_sums, int in_dim, float eps) {
  float sum = warp_sums[0];
#pragma unroll
  for (int w = 1; w < kStrands; ++w) sum += warp_sums[w];
  return 1.f / sqrtf(sum / static_cast<float>(in_dim) + eps);
}
__device__ __forceinline__ float4 Scaled(float4 v, float scale, float4 gain) {
  return {v.x * scale * gain.x, v.y * scale * gain.y, v.z * scale * gain.z, v.w * scale * gain.w};
}
// To the nearest, ties to even; a NaN becomes 0x7fff.
__device__ __forceinline__ uint32_t RoundPair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ uint4 Round8(float4 a, float4 b) {
  return {RoundPair(a.x, a.y), RoundPair(a.z, a.w), RoundPair(b.x, b.y), RoundPair(b.z, b.w)};
}

// Adds a chunk to a strand of 16 outputs by 8 rows of the input. Lane (g, t) = (lane / 4, lane % 4) brings values
// 8 t .. 8 t + 7 of the chunk: of outputs g (`low`) and g + 8 (`high`), and of row g of the input; it gets the sums of
// outputs g and g + 8 for rows 2 t and 2 t + 1.
__device__ __forceinline__ void AddChunk(float (&sum)[4], const uint4& low, const uint4& high,
                                         const uint4& in) {
  MultiplyTiles(sum, low.x, high.x, low.y, high.y, in.x, in.y);
  MultiplyTiles(sum, low.z, high.z, low.w, high.w, in.z, in.w);
}

}  // namespace tandem::strands

#endif  // TANDEM_KERNELS_LINEAR_STRANDS_CUH_
