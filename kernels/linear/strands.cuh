// What decides the bits of a product of bf16 weights and rounded inputs on a CUDA device, for the two kernels that compute
// one (linear_cuda.cu, kernels/stream):
//
//   - in_dim is cut into chunks of 32 values; chunks 2 s and 2 s + 1 of every 16 belong to strand s. A strand's sum starts
//     at 0 and takes its chunks in rising order, each as two steps of the tensor cores' m16n8k16.
//   - An output is the sum of the 8 strands in order, times the row's scale, then the bias, then what it is added to.
//   - A norm's sum of squares: groups of 16 values, each by a butterfly; lane j of 32 adds up groups j, j + 32, ...; a
//     butterfly over the lanes.
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
constexpr int kMaxInDim = 32768;  // what a block can keep of a row's squares

// Weights lie so that 16 bytes can be loaded at a time, inputs too.
inline bool CanFollow(const LinearArgs& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const auto whole = [](const View& view) {
    return view.dtype != DType::kF32 || reinterpret_cast<uintptr_t>(view.data) % 4 == 0;
  };
  if (!args.round_bf16 || args.in_dim % kChunk != 0 || args.in_dim > kMaxInDim || args.in_stride % 4 != 0 ||
      !aligned(args.in))
    return false;
  for (int s = 0; s < args.n_segments; ++s) {
    const View& weight = args.segment[s].weight;
    if (weight.dtype != DType::kBf16 || !aligned(weight.data)) return false;
    if (!whole(args.segment[s].bias)) return false;
  }
  return whole(args.norm);
}

constexpr int kSquares = 16;  // values of a group

// The sum of a value of 16 neighbouring lanes, which `mask` names, in all of them.
__device__ __forceinline__ float GroupSum(uint32_t mask, float value) {
#pragma unroll
  for (int distance = kSquares / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(mask, value, distance);
  return value;
}
// For a whole warp, from a row's sums of squares by group; `load(i)` brings the i-th.
template <typename Load>
__device__ __forceinline__ float RowScale(int in_dim, float eps, Load load) {
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < in_dim / kSquares; i += 32) sum += load(i);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  return 1.f / sqrtf(sum / static_cast<float>(in_dim) + eps);
}
// To the nearest, ties to even; a NaN becomes 0x7fff.
__device__ __forceinline__ uint32_t RoundPair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
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
