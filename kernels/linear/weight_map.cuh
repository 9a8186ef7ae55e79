// How weights get from where the checkpoint has them into shared memory (sm_90 and later): copies of boxes of a tensor map, by one
// thread, counted in bytes by a barrier. A box is so many rows by so many pieces of kMapCols columns, and lies in shared memory
// as [piece][row][128 bytes], the 16 bytes of a row's number c at c xor (row % 8), so that rows lie in different banks. It begins at a
// multiple of 1,024 bytes. What lies outside the matrix comes as zeros.
#ifndef TANDEM_KERNELS_LINEAR_WEIGHT_MAP_CUH_
#define TANDEM_KERNELS_LINEAR_WEIGHT_MAP_CUH_

#include <cuda.h>

#include <iterator>

#include "kernels/cuda.cuh"
#include "kernels/linear/strands.h"

namespace tandem {

constexpr int kBoxAlignment = 1024;

// Of a weight [n_outputs, in_dim] in bf16; in_dim: a multiple of kMapCols. False: the driver has none.
inline bool MakeWeightMap(const void* weight, int n_outputs, int in_dim, int box_rows, int box_pieces,
                          CUtensorMap* map) {
  using strands::kMapCols;
  using Encode = decltype(&cuTensorMapEncodeTiled);
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  constexpr int kSince = 12000;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, kSince, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return false;
  }
  const cuuint64_t row_bytes = static_cast<cuuint64_t>(in_dim) * 2;
  const cuuint64_t size[] = {kMapCols, static_cast<cuuint64_t>(n_outputs),
                             static_cast<cuuint64_t>(in_dim / kMapCols)};
  const cuuint64_t pitch[] = {row_bytes, kMapCols * 2};
  const cuuint32_t box[] = {kMapCols, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(box_pieces)};
  const cuuint32_t step[] = {1, 1, 1};
  return reinterpret_cast<Encode>(encode)(
             map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, std::size(size), const_cast<void*>(weight), size, pitch,
             box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#ifdef TANDEM_SM90

// Weights are read once: first out of the cache.
__device__ __forceinline__ uint64_t ReadOnce() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void CopyBox(uint32_t to, const void* map, int row, int piece, uint32_t barrier,
                                        uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, "
      "{%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(map), "r"(0), "r"(row), "r"(piece), "r"(barrier), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void FetchMap(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Lane 4 g + t of a warp multiplies the g-th and the g + 8-th of 16 outputs; which row of a box the g-th is, so that neighbours
// read different banks,
__device__ __forceinline__ int BoxRow(int lane) { return lane / 4 % 2 * 4 + lane / 8; }
// and where its 16 bytes of a piece's first chunk are; those of the second are at this ^ 64.
__device__ __forceinline__ int BoxByte(int lane) {
  return (BoxRow(lane) * 8 + (lane % 4 ^ BoxRow(lane))) * 16;
}

#endif  // TANDEM_SM90

}  // namespace tandem

#endif  // TANDEM_KERNELS_LINEAR_WEIGHT_MAP_CUH_
