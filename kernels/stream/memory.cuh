// What all parts of the stream kernel share: a block's shared memory, waiting, loads of what may not be there yet, and which
// block has which groups of outputs.
#ifndef TANDEM_KERNELS_STREAM_MEMORY_CUH_
#define TANDEM_KERNELS_STREAM_MEMORY_CUH_

#include "kernels/attention/packed_attention.cuh"
#include "kernels/cuda.cuh"
#include "kernels/linear/strands.cuh"
#include "kernels/linear/weight_map.cuh"
#include "kernels/stream/stream_step.h"

namespace tandem::stream {

constexpr int kWorkers = strands::kStrands;
constexpr int kWorkerThreads = kWorkers * 32;
constexpr int kThreads = kWorkerThreads + 4 * 32;  // registers can be given by 4 warps at a time
constexpr int kWorkerRegisters = 240, kCopierRegisters = 24;
constexpr int kTileRows = strands::kTileRows;
constexpr int kTileCols = strands::kTileCols;
// A tile is two boxes (weight_map.cuh) of 8 rows.
constexpr int kHalfBytes = 8 * kTileCols * 2;
constexpr int kTileBytes = 2 * kHalfBytes;
constexpr int kTileAlignment = kBoxAlignment;
constexpr int kPieceCols = kWorkerThreads * 8;  // of an input: a thread has 8 columns of every so many
constexpr int kSumPitch = 20;                   // floats: of 16 outputs of a row

// What a warp does of a task of attention, the same in every layer: places are in values, but for keys_at.
struct alignas(16) Share {
  int64_t keys_at;  // of its first keys in a cache, in bytes
  int64_t new_at;   // where the key and the value that it appends go
  int32_t query_at[2], query_cos_sin[2];
  int32_t new_from, new_cos_sin;  // of the key and the value that it appends
  int32_t fresh_row;              // likewise, counted from first_new; -1: it appends none
  int32_t item;                   // of the layer's tasks and their ranks
  int32_t n_queries;              // 0: there is no such task
  int32_t row;                    // the task's first
  int32_t slot, first_position, n_keys;
  int32_t first_new;  // keys from this position on are this forward's
  int32_t kv_head, rank;
};
static_assert(sizeof(Share) % 16 == 0);

// Shared memory begins with what does not depend on the program; then `work_bytes` for inputs, then the ring.
struct Fixed {
  Params params;
  StreamStep step[2];                            // this one and the next
  Tiles tiles[2];                                // the copier's, likewise
  uint64_t full[kMaxStages], empty[kMaxStages];  // barriers: a tile is there; is used
  uint4 zeros[4];                                // a chunk of an input row that is not there
  float scale[kMaxRows];                         // of a product's rows
  int32_t out_row[kMaxRows];                     // where a product's rows go
  float sums[2][kWorkers][kMaxRows][kSumPitch];
  float residual[kMaxResidual][kMaxRows]
                [kTileRows];  // of the outputs of this block in products that add to the input
  int32_t n_done;             // steps
  int32_t turn;               // which half of the buffers
  int32_t n_rows, n_logits;
  int32_t slot[kMaxRows], position[kMaxRows];
  int32_t n_tasks;                                // of attention, for a kv head
  Share share[kWorkers];                          // a worker's
  uint8_t query_row[packed_attention::kQueries];  // of a task's query: its row, counted from the task's first
};
constexpr int kFixedBytes = (static_cast<int>(sizeof(Fixed)) + 127) / 128 * 128;

#ifdef TANDEM_SM90

constexpr uint32_t kAbsent = 0xffffffffu;

__device__ __forceinline__ char* Memory() {
  extern __shared__ __align__(1024) char stream_memory[];
  return stream_memory;
}
__device__ __forceinline__ Fixed& Common() { return *reinterpret_cast<Fixed*>(Memory()); }
__device__ __forceinline__ char* Work() { return Memory() + kFixedBytes; }
__device__ __forceinline__ char* Ring() { return Work() + Common().params.work_bytes; }

using packed_attention::Thread;

// The clock at a point of a step: its beginning, when its input is there, when its sums are there, its end.
__device__ __forceinline__ void Mark(int what) {
  const Params& params = Common().params;
  if (params.times == nullptr || threadIdx.x != 0) return;
  params.times[(static_cast<int64_t>(blockIdx.x) * params.n_steps + Common().n_done) * kMarks + what] =
      clock64();
}

__device__ __forceinline__ void Meet() { asm volatile("bar.sync 1, %0;" ::"n"(kWorkerThreads) : "memory"); }

__device__ __forceinline__ uint4 LoadRelaxed16(const void* p) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ float LoadRelaxed(const float* p) {
  float v;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint4 LoadShared16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ bool IsThere(float v) { return __float_as_uint(v) != kAbsent; }
__device__ __forceinline__ float4 Float4(const uint4& bits) {
  return {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)};
}
__device__ __forceinline__ bool AllThere(const float4& v) {
  return IsThere(v.x) && IsThere(v.y) && IsThere(v.z) && IsThere(v.w);
}
// Of bf16 values, which are written in pairs.
__device__ __forceinline__ bool AllThere16(const uint4& v) {
  return max(max(v.x, v.y), max(v.z, v.w)) != kAbsent;
}
__device__ __forceinline__ float2 LoadRelaxed8(const void* p) {
  float2 v;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t Present(float v) {
  return __float_as_uint(v) == kAbsent ? 0x7fffffffu : __float_as_uint(v);
}
// As bf16, with the next lane's value behind it: for two lanes, of which the first is an even one and stores.
__device__ __forceinline__ void StorePair(uint16_t* p, float v) {
  const float next = __shfl_xor_sync(3u << (Thread() & 30), v, 1);
  if (Thread() % 2 == 0)
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(RoundPair(v, next)) : "memory");
}
__device__ __forceinline__ void StoreRelaxed(float* p, float v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(Present(v)) : "memory");
}

// Groups go round the blocks. Every thread counts for itself.
struct Round {
  int before = 0;  // groups of the products so far, modulo the number of blocks

  // The first group of the next product that is this block's; others follow at a distance of as many as there are blocks.
  // Those of a residual begin at block 0 always, so that an output has one block.
  __device__ __forceinline__ int Next(const Tiles& tiles) {
    const int n_groups = tiles.n_groups, n_blocks = static_cast<int>(gridDim.x);
    if (tiles.residual) return static_cast<int>(blockIdx.x);
    int first = static_cast<int>(blockIdx.x) - before;
    if (first < 0) first += n_blocks;
    before = (before + n_groups) % n_blocks;
    return first;
  }
};

// Where the part of an input that begins with tile `begin` ends. Of three slabs and more the last two are one, so that a block's
// first group ends well before its last: the next product begins with the columns of first groups.
__device__ __forceinline__ int PartEnd(Order order, int begin, int part_tiles, int n_tiles) {
  const bool joins = order == Order::kSlabs && begin > 0 && n_tiles - begin <= 2 * part_tiles;
  return joins ? n_tiles : min(begin + part_tiles, n_tiles);
}

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_MEMORY_CUH_
