// The device code of the order of sums that strands.h defines.
#ifndef TANDEM_KERNELS_LINEAR_STRANDS_CUH_
#define TANDEM_KERNELS_LINEAR_STRANDS_CUH_

#include "kernels/cuda.cuh"
#include "kernels/linear/strands.h"

namespace tandem::strands {

// The sum of squares of the group that this lane's value belongs to. `mask`: its 16 lanes, or all.
__device__ __forceinline__ float GroupSum(uint32_t mask, float value) {
  return LaneSum<kSquares>(value, mask);
}
// A row's factor from its sum of squares.
__device__ __forceinline__ float ScaleOf(float sum, int in_dim, float eps) {
  return 1.f / sqrtf(sum / static_cast<float>(in_dim) + eps);
}
// For a whole warp, from a row's sums of squares by group; `load(i)` brings the i-th.
template <typename Load>
__device__ __forceinline__ float RowScale(int in_dim, float eps, Load load) {
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < in_dim / kSquares; i += 32) sum += load(i);
  return ScaleOf(LaneSum(sum), in_dim, eps);
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
