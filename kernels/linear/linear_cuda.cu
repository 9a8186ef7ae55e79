// Two kernels for one contract.
//
// StreamLinear (sm_90 and later; bf16 weights, inputs rounded to bf16): the weights stream through shared memory into
// tensor cores. What it exploits:
// - A cluster of 2 to 8 blocks splits the sum over in_dim, so that a block prepares and holds a slice of the input
//   alone, and every shape gives every block the same number of bytes.
// - A warp is on its own: it keeps a ring of weight tiles, 16 rows by 256 columns, that one lane fills by bulk copies.
//   The copies start before the previous kernel has ended, for weights do not depend on it.
// - Weights are the 16-row operand of the multiplication and the rows of the input its 8 columns: 1 to 8 rows of input
//   cost the same.
// - The blocks of a cluster send their partial sums to each other's shared memory; each adds up, in the order of the
//   slices, the outputs that it owns, two groups of 16 outputs behind the group that it multiplies. Arrivals are counted
//   in bytes, so nothing waits for a fence or for the block as a whole.
// The order of a sum follows from in_dim alone: which slice, which tile, which of two chains, then the slices.
//
// PlainLinear (everything else, fp32 mode too): a warp per 4 outputs, its lanes along in_dim, fp32 multiply-adds.
#include <cuda.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda.cuh"
#include "kernels/linear/linear.h"

namespace tandem {
namespace {

constexpr int kWarps = 4;
constexpr int kTileRows = 16;
constexpr int kTileCols = 256;
constexpr int kTileBytes = kTileRows * kTileCols * 2;
constexpr int kMaxCluster = 8;
constexpr int kMaxStages = 3;
constexpr int kMaxBlockRows = 64;  // rows of the input that one pass over the weights serves
constexpr int kSlots = 3;          // groups of a warp whose partial sums may be on their way
[[maybe_unused]] constexpr int kLag = kSlots - 1;
constexpr int kLargestShared = 227 * 1024;
// Two kernels fit on a multiprocessor beside each other if neither has more than this.
constexpr int kHalfShared = 113 * 1024;
[[maybe_unused]] constexpr int kSegmentLanes =
    128;  // input values that one warp sums up for a norm, 4 a lane

// How StreamLinear is cut for one step.
struct StreamShape {
  int n_units;          // tiles along in_dim
  int cluster;          // blocks of a cluster: slices of in_dim
  int units_per_slice;  // the last slices may have fewer
  int block_rows;       // rows of the input in one pass, 8, 16, 32 or 64
  int stages;           // tiles in a warp's ring
  int n_groups;         // of 16 outputs, over all segments
  int first_group[kMaxSegments + 1];

  TANDEM_HD int input_pitch() const { return units_per_slice * kTileCols * 2 + 64; }
  int shared_bytes() const {
    return kWarps * stages * kTileBytes + block_rows * (input_pitch() + 4 * kReceivedPerRow) +
           (kMaxCluster + 2) * 4 * block_rows + 8 * kWarps * (kMaxStages + 2 * kSlots) + 8;
  }
  static constexpr int kReceivedPerRow = kSlots * kWarps * kTileRows;
};

struct StreamArgs {
  CUtensorMap map[kMaxSegments];
  LinearArgs linear;
  StreamShape shape;
};

StreamShape ShapeOf(const LinearArgs& args) {
  StreamShape shape = {};
  shape.n_units = (args.in_dim + kTileCols - 1) / kTileCols;
  // The cut that keeps the blocks busiest; of equal ones the finest. From in_dim alone.
  double best = 0;
  for (int cluster = kMaxCluster; cluster >= 2; cluster /= 2) {
    const int units = (shape.n_units + cluster - 1) / cluster;
    const double busy = static_cast<double>(shape.n_units) / (cluster * units);
    if (units <= 14 && busy > best + 1e-9) {
      best = busy;
      shape.cluster = cluster;
      shape.units_per_slice = units;
    }
  }
  if (shape.cluster == 0) return shape;
  for (int s = 0; s < args.n_segments; ++s) {
    shape.first_group[s] = shape.n_groups;
    shape.n_groups += static_cast<int>((args.segment[s].weight.n_rows + kTileRows - 1) / kTileRows);
  }
  for (int s = args.n_segments; s <= kMaxSegments; ++s) shape.first_group[s] = shape.n_groups;
  shape.block_rows = 8;
  while (shape.block_rows < std::min(args.max_rows, kMaxBlockRows)) shape.block_rows *= 2;
  shape.stages = 2;
  while (shape.shared_bytes() > kLargestShared) shape.block_rows /= 2;
  const int room = shape.shared_bytes() <= kHalfShared ? kHalfShared : kLargestShared;
  while (shape.stages < kMaxStages) {
    ++shape.stages;
    if (shape.shared_bytes() > room) {
      --shape.stages;
      break;
    }
  }
  return shape;
}

bool CanStream(const LinearArgs& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!args.round_bf16 || args.in_dim % 64 != 0 || args.in_stride % 4 != 0 || !aligned(args.in)) return false;
  for (int s = 0; s < args.n_segments; ++s) {
    const View& weight = args.segment[s].weight;
    if (weight.dtype != DType::kBf16 || !aligned(weight.data)) return false;
  }
  return ShapeOf(args).cluster != 0 && ComputeCapability() >= 90;
}

// The weight as [n_rows][in_dim / 64][64]; a box is a tile, 128-byte lines swizzled over the banks.
CUtensorMap MapOf(const View& weight) {
  using Encode = std::remove_pointer_t<decltype(&cuTensorMapEncodeTiled)>;
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  TANDEM_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
  TANDEM_CHECK(found == cudaDriverEntryPointSuccess) << "the driver has no cuTensorMapEncodeTiled";
  CUtensorMap map;
  const cuuint64_t size[] = {64, static_cast<cuuint64_t>(weight.n_cols / 64),
                             static_cast<cuuint64_t>(weight.n_rows)};
  const cuuint64_t stride[] = {128, static_cast<cuuint64_t>(weight.n_cols * 2)};
  const cuuint32_t box[] = {64, kTileCols / 64, kTileRows};
  const cuuint32_t step[] = {1, 1, 1};
  const CUresult result = reinterpret_cast<Encode*>(entry)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(weight.data), size, stride, box, step,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  TANDEM_CHECK(result == CUDA_SUCCESS) << "cuTensorMapEncodeTiled: error " << static_cast<int>(result)
                                       << " for " << weight.n_rows << " x " << weight.n_cols;
  return map;
}

__device__ float LoadValue(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) {  // at any 2-byte alignment
    const auto* half = static_cast<const uint16_t*>(data) + 2 * i;
    return __uint_as_float(half[0] | static_cast<uint32_t>(half[1]) << 16);
  }
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  if (dtype == DType::kBf16) return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ uint32_t ToBf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

__device__ float WarpSum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}

#ifdef TANDEM_SM90

// A tile's worth of weights into a warp's ring. They are read once: first out of the cache.
__device__ __forceinline__ void CopyTile(uint32_t to, const CUtensorMap* map, int line, int row,
                                         uint32_t barrier) {
  asm volatile(
      "{\n"
      ".reg .b64 policy;\n"
      "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, {%2, %3, %4}], [%5], policy;\n"
      "}" ::"r"(to),
      "l"(map), "r"(0), "r"(line), "r"(row), "r"(barrier)
      : "memory");
}

// Where things lie in a block's shared memory.
struct Layout {
  uint32_t ring;    // [kWarps][stages] tiles
  char* input;      // [block_rows][input_pitch] bf16: this block's slice, prepared
  float* received;  // [2][kWarps][cluster][16 / cluster][block_rows] partial sums from each block
  float* part;     // [block_rows][2 * units_per_slice] sums of squares; where partial sums of outputs will be
  float* squares;  // [cluster][block_rows] sums of squares of the slices
  float* scale;    // [block_rows]
  int32_t* dst;    // [block_rows]
  uint32_t barriers;  // [kWarps][kMaxStages] a tile has come
  uint32_t full;      // [kWarps][kSlots] the partial sums of all blocks have come
  uint32_t empty;     // [kWarps][kSlots] all blocks have used those of this one
  uint32_t summed;    // the sums of squares of all slices have come
};

__device__ __forceinline__ Layout LayoutOf(const StreamShape& shape, char* shared) {
  Layout layout;
  layout.ring = SharedAddress(shared);
  layout.input = shared + kWarps * shape.stages * kTileBytes;
  layout.received = reinterpret_cast<float*>(layout.input + shape.block_rows * shape.input_pitch());
  layout.squares = layout.received + StreamShape::kReceivedPerRow * shape.block_rows;
  layout.scale = layout.squares + kMaxCluster * shape.block_rows;
  layout.dst = reinterpret_cast<int32_t*>(layout.scale + shape.block_rows);
  layout.barriers = SharedAddress(layout.dst + shape.block_rows);
  layout.full = layout.barriers + 8 * kWarps * kMaxStages;
  layout.empty = layout.full + 8 * kWarps * kSlots;
  layout.summed = layout.empty + 8 * kWarps * kSlots;
  layout.part = layout.received;
  return layout;
}

// A group is 16 outputs of one segment.
struct Group {
  int segment;
  int row;
};
__device__ __forceinline__ Group GroupAt(const StreamShape& shape, int group) {
  int segment = 0;
  while (segment + 1 < kMaxSegments && group >= shape.first_group[segment + 1]) ++segment;
  return {segment, (group - shape.first_group[segment]) * kTileRows};
}

// The tiles of one warp in the order in which they are used: groups first_group, + step, ...; of each the slice's units.
struct Tiles {
  int first_group, step, n_groups;  // n_groups: this warp's
  int first_unit, n_units;
};

class Ring {
 public:
  __device__ __forceinline__ Ring(const StreamArgs& args, const Tiles& tiles, const Layout& layout, int warp,
                                  bool leader)
      : args_(args),
        tiles_(tiles),
        base_(layout.ring + warp * args.shape.stages * kTileBytes),
        barriers_(layout.barriers + warp * kMaxStages * 8),
        leader_(leader) {}

  // Starts the next copy if the tiles of `n_passes` passes hold one more; not before its place is free.
  __device__ __forceinline__ void Issue(int n_passes) {
    if (pass_ == n_passes || tiles_.n_groups == 0 || tiles_.n_units == 0) return;
    if (leader_) {
      const Group group = GroupAt(args_.shape, tiles_.first_group + group_ * tiles_.step);
      ExpectBytes(barriers_ + 8 * to_, kTileBytes);
      CopyTile(base_ + to_ * kTileBytes, &args_.map[group.segment],
               (tiles_.first_unit + unit_) * (kTileCols / 64), group.row, barriers_ + 8 * to_);
    }
    if (++to_ == args_.shape.stages) to_ = 0;
    if (++unit_ == tiles_.n_units) {
      unit_ = 0;
      if (++group_ == tiles_.n_groups) group_ = 0, ++pass_;
    }
  }
  __device__ __forceinline__ bool AllIssued(int n_passes) const {
    return pass_ == n_passes || tiles_.n_groups == 0 || tiles_.n_units == 0;
  }
  // The next tile, when it is there.
  __device__ __forceinline__ uint32_t Front() {
    WaitBarrier(barriers_ + 8 * from_, parity_);
    return base_ + from_ * kTileBytes;
  }
  __device__ __forceinline__ void Pop() {
    if (++from_ == args_.shape.stages) from_ = 0, parity_ ^= 1;
  }

 private:
  const StreamArgs& args_;
  const Tiles& tiles_;
  uint32_t base_, barriers_;
  bool leader_;
  int to_ = 0, from_ = 0, pass_ = 0, group_ = 0, unit_ = 0;
  uint32_t parity_ = 0;
};

// What a warp has loaded of the input.
struct Prepared {
  static constexpr int kChunks = 8;  // of 128 values each, that a warp keeps in registers
  float4 value[kChunks];
};

__device__ __forceinline__ float4 LoadChunk(const LinearArgs& args, int64_t row, int k) {
  if (k >= args.in_dim) return {0, 0, 0, 0};
  return __ldcg(reinterpret_cast<const float4*>(args.in + row * args.in_stride + k));
}

__device__ __forceinline__ float Squares(float4 v) {
  return (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
}

// This block's slice of rows [first_row, first_row + n_rows) of the input: normed, rounded, into shared memory.
class InputSlice {
 public:
  __device__ __forceinline__ InputSlice(const StreamArgs& args, const Layout& layout, uint32_t rank)
      : args_(args),
        linear_(args.linear),
        layout_(layout),
        rank_(rank),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        per_row_(args.shape.units_per_slice * (kTileCols / kSegmentLanes)),
        slice_(rank * args.shape.units_per_slice * kTileCols),
        pitch_(args.shape.input_pitch()) {}

  // Rows that fit into registers are loaded first and counted afterwards: one trip to memory instead of two.
  __device__ __forceinline__ bool IsSmall(int n_rows) const {
    return n_rows * per_row_ <= kWarps * Prepared::kChunks;
  }
  __device__ __forceinline__ void Load(int first_row, int n_rows, Prepared& held) const {
#pragma unroll
    for (int j = 0; j < Prepared::kChunks; ++j) {
      const int chunk = warp_ + j * kWarps;
      held.value[j] = {0, 0, 0, 0};
      if (chunk < n_rows * per_row_) {
        held.value[j] = LoadChunk(linear_, Source(first_row + chunk / per_row_), slice_ + InSlice(chunk));
      }
    }
  }
  // Before the previous kernel has ended: the norm's weights, if a thread needs the same ones for all of its chunks.
  __device__ __forceinline__ void LoadGain() {
    gain_held_ = linear_.norm && kWarps % per_row_ == 0;
    if (!gain_held_) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) gain_[i] = LoadGain(InSlice(warp_) + i);
  }
  __device__ __forceinline__ void Prepare(int pass, int first_row, int n_rows, bool small,
                                          const Prepared& held) const {
    if (linear_.norm) {
      SumSquares(first_row, n_rows, small, held);
      __syncthreads();
      ExchangeSquares(n_rows, pass);
      __syncthreads();
    }
    if (small) {
#pragma unroll
      for (int j = 0; j < Prepared::kChunks; ++j) {
        const int chunk = warp_ + j * kWarps;
        if (chunk < n_rows * per_row_) Store(chunk, held.value[j]);
      }
    } else {
#pragma unroll 8
      for (int chunk = warp_; chunk < n_rows * per_row_; chunk += kWarps) {
        Store(chunk, LoadChunk(linear_, Source(first_row + chunk / per_row_), slice_ + InSlice(chunk)));
      }
    }
  }

 private:
  __device__ __forceinline__ int InSlice(int chunk) const {
    return chunk % per_row_ * kSegmentLanes + lane_ * 4;
  }
  __device__ __forceinline__ int64_t Source(int m) const { return linear_.src ? __ldcg(linear_.src + m) : m; }
  __device__ __forceinline__ void Store(int chunk, float4 value) const {
    const int m = chunk / per_row_, at = InSlice(chunk), k = slice_ + at;
    float x[4] = {value.x, value.y, value.z, value.w};
    if (linear_.norm && k < linear_.in_dim) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = x[i] * layout_.scale[m] * (gain_held_ ? gain_[i] : LoadGain(at + i));
    }
    uint2 packed;
    packed.x = ToBf16(x[0]) | ToBf16(x[1]) << 16;
    packed.y = ToBf16(x[2]) | ToBf16(x[3]) << 16;
    *reinterpret_cast<uint2*>(layout_.input + m * pitch_ + at * 2) = packed;
  }
  __device__ __forceinline__ float LoadGain(int in_slice) const {
    const int k = slice_ + in_slice;
    return k < linear_.in_dim ? LoadValue(linear_.norm.data, linear_.norm.dtype, k) : 0;
  }
  __device__ __forceinline__ void SumSquares(int first_row, int n_rows, bool small,
                                             const Prepared& held) const {
    if (small) {
#pragma unroll
      for (int j = 0; j < Prepared::kChunks; ++j) {
        const int chunk = warp_ + j * kWarps;
        if (chunk >= n_rows * per_row_) break;
        const float sum = WarpSum(Squares(held.value[j]));
        if (lane_ == 0) layout_.part[chunk] = sum;
      }
      return;
    }
#pragma unroll 8
    for (int chunk = warp_; chunk < n_rows * per_row_; chunk += kWarps) {
      const float4 value = LoadChunk(linear_, Source(first_row + chunk / per_row_), slice_ + InSlice(chunk));
      const float sum = WarpSum(Squares(value));
      if (lane_ == 0) layout_.part[chunk] = sum;
    }
  }
  // Every block gets every slice's sums, and adds them up in the order of the slices.
  __device__ __forceinline__ void ExchangeSquares(int n_rows, int pass) const {
    const int cluster = args_.shape.cluster;
    if (threadIdx.x == 0) ExpectBytes(layout_.summed, cluster * n_rows * 4);
    for (int m = threadIdx.x; m < n_rows; m += blockDim.x) {
      float sum = 0;
      for (int i = 0; i < per_row_; ++i) sum += layout_.part[m * per_row_ + i];
      const uint32_t mine = SharedAddress(layout_.squares + rank_ * args_.shape.block_rows + m);
      for (int r = 0; r < cluster; ++r) {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
                         InBlock(mine, r)),
                     "f"(sum), "r"(InBlock(layout_.summed, r))
                     : "memory");
      }
    }
    WaitBarrier(layout_.summed, pass & 1);
    for (int m = threadIdx.x; m < n_rows; m += blockDim.x) {
      float sum = 0;
      for (int r = 0; r < cluster; ++r) sum += layout_.squares[r * args_.shape.block_rows + m];
      layout_.scale[m] = 1 / sqrtf(sum / linear_.in_dim + linear_.norm_eps);
    }
    __syncwarp();
  }

  const StreamArgs& args_;
  const LinearArgs& linear_;
  const Layout& layout_;
  const uint32_t rank_;
  const int warp_, lane_;
  const int per_row_;  // chunks
  const int slice_;    // first input value
  const int pitch_;
  bool gain_held_ = false;
  float gain_[4] = {};
};

// The two chains of sums of a tile for 8 * N rows of the input. With k running over 32 values at a time, lane (g, t)
// takes values 8 t .. 8 t + 7 of weight rows g and g + 8 and of input row g: another order of k than the instruction's,
// the same for both operands, so every load is of 16 bytes.
template <int N>
__device__ __forceinline__ void AddTile(uint32_t tile, const char* input, int pitch, float (&even)[N][4],
                                        float (&odd)[N][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t row = tile + g * (kTileCols * 2);
  const char* x = input + g * pitch + t * 16;
  constexpr int kLines = N > 2 ? 1 : kTileCols / 64;  // unrolled: as far as the registers go
#pragma unroll kLines
  for (int line = 0; line < kTileCols / 64; ++line) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t at = row + line * 128 + (((half * 4 + t) ^ ((g & 1) * 4 + line)) << 4);
      uint32_t v[4], u[4];
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                   : "r"(at)
                   : "memory");
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(u[0]), "=r"(u[1]), "=r"(u[2]), "=r"(u[3])
                   : "r"(at + 8 * kTileCols * 2)
                   : "memory");
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const uint4 w = *reinterpret_cast<const uint4*>(x + n * 8 * pitch + line * 128 + half * 64);
        MultiplyTiles(even[n], v[0], u[0], v[1], u[1], w.x, w.y);
        MultiplyTiles(odd[n], v[2], u[2], v[3], u[3], w.z, w.w);
      }
    }
  }
}

// Partial sums on their way between the blocks of a cluster, and the outputs that they end in. All of it per warp: warp w
// of every block works on the same groups of outputs.
class Exchange {
 public:
  __device__ __forceinline__ Exchange(const StreamArgs& args, const Layout& layout, const Tiles& tiles,
                                      uint32_t rank)
      : args_(args),
        layout_(layout),
        tiles_(tiles),
        rank_(rank),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        owned_shift_(31 - __clz(kTileRows / args.shape.cluster)),
        full_(layout.full + warp_ * kSlots * 8),
        empty_(layout.empty + warp_ * kSlots * 8),
        received_(layout.received + warp_ * kSlots * kTileRows * args.shape.block_rows) {}

  __device__ __forceinline__ void InitBarriers() const {
    for (int i = 0; i < kSlots; ++i) {
      InitBarrier(full_ + 8 * i, 1);
      InitBarrier(empty_ + 8 * i, args_.shape.cluster);
    }
  }

  // A pass: rows [first_row, first_row + n_rows), n_cols of them sent (padded to tiles).
  __device__ __forceinline__ void Begin(int first_row, int n_rows, int n_cols) {
    first_row_ = first_row;
    n_rows_ = n_rows;
    bytes_ = kTileRows * n_cols * 4;
    for (int e = 0; e < min(kSlots, tiles_.n_groups); ++e) Expect(e);
  }

  // The output element that this lane finishes first, of group e of this pass; what it is to be added to.
  struct Old {
    float value = 0, bias = 0;
  };
  __device__ __forceinline__ Old LoadOld(int e) const {
    Old old;
    const Element at = ElementAt(e, lane_);
    if (at.out != nullptr) old = OldOf(at);
    return old;
  }

  template <int N>
  __device__ __forceinline__ void Send(int e, const float (&even)[N][4], const float (&odd)[N][4]) const {
    const int slot = e % kSlots;
    if (e >= kSlots) WaitBarrier(empty_ + 8 * slot, (e / kSlots - 1) & 1);
    const int g = lane_ / 4, t = lane_ % 4, owned = 1 << owned_shift_, block_rows = args_.shape.block_rows;
    const uint32_t to = SharedAddress(received_ + (slot * kTileRows + rank_ * owned) * block_rows);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + 8 * half, owner = row >> owned_shift_;
      const uint32_t line = InBlock(to + (row & (owned - 1)) * block_rows * 4, owner);
      const uint32_t barrier = InBlock(full_ + 8 * slot, owner);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        asm volatile(
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                line + (n * 8 + 2 * t) * 4),
            "f"(even[n][2 * half] + odd[n][2 * half]), "f"(even[n][2 * half + 1] + odd[n][2 * half + 1]),
            "r"(barrier)
            : "memory");
      }
    }
  }

  __device__ __forceinline__ void Finish(int e, const Old& first) {
    const int slot = e % kSlots, owned = 1 << owned_shift_, block_rows = args_.shape.block_rows;
    WaitBarrier(full_ + 8 * slot, (e / kSlots) & 1);
    const float* received = received_ + slot * kTileRows * block_rows;
    for (int i = lane_; i < n_rows_ << owned_shift_; i += 32) {
      const Element at = ElementAt(e, i);
      float part[kMaxCluster];
#pragma unroll
      for (int r = 0; r < kMaxCluster; ++r) {
        part[r] = 0;
        if (r < args_.shape.cluster) {
          part[r] = received[((r << owned_shift_) + (i & (owned - 1))) * block_rows + (i >> owned_shift_)];
        }
      }
      if (at.out == nullptr) continue;
      const Old old = i == lane_ ? first : OldOf(at);
      float sum = part[0];
#pragma unroll
      for (int r = 1; r < kMaxCluster; ++r) {
        if (r < args_.shape.cluster) sum += part[r];
      }
      sum += old.bias;
      *at.out = at.segment->accumulate ? old.value + sum : sum;
    }
    __syncwarp();
    if (e + kSlots < tiles_.n_groups) {
      Expect(slot);
      __syncwarp();
      if (lane_ < args_.shape.cluster) {
        asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                         InBlock(empty_ + 8 * slot, lane_))
                     : "memory");
      }
    }
  }

 private:
  struct Element {
    const LinearSegment* segment;
    int64_t o;
    float* out;  // null: there is none
  };
  // Element i of what this block owns of group e: of row i / owned of the input, output i % owned.
  __device__ __forceinline__ Element ElementAt(int e, int i) const {
    const int m = i >> owned_shift_;
    if (m >= n_rows_) return {nullptr, 0, nullptr};
    const Group group = GroupAt(args_.shape, tiles_.first_group + e * tiles_.step);
    const LinearSegment* segment = &args_.linear.segment[group.segment];
    const int owned = 1 << owned_shift_;
    const int64_t o = group.row + static_cast<int>(rank_) * owned + (i & (owned - 1));
    if (o >= segment->weight.n_rows) return {nullptr, 0, nullptr};
    const int64_t row = args_.linear.dst ? layout_.dst[m] : first_row_ + m;
    return {segment, o, segment->out + row * segment->out_stride + o};
  }
  __device__ __forceinline__ Old OldOf(const Element& at) const {
    Old old;
    if (at.segment->accumulate) old.value = __ldcg(at.out);
    if (at.segment->bias) old.bias = LoadValue(at.segment->bias.data, at.segment->bias.dtype, at.o);
    return old;
  }
  __device__ __forceinline__ void Expect(int slot) const {
    if (lane_ == 0) ExpectBytes(full_ + 8 * slot, bytes_);
  }

  const StreamArgs& args_;
  const Layout& layout_;
  const Tiles& tiles_;
  const uint32_t rank_;
  const int warp_, lane_, owned_shift_;
  const uint32_t full_, empty_;
  const float* received_;
  int first_row_ = 0, n_rows_ = 0, bytes_ = 0;
};

// One pass over a warp's share of the weights for up to 8 * N rows.
template <int N>
__device__ __forceinline__ void Pass(const StreamArgs& args, const Layout& layout, const Tiles& tiles,
                                     Ring& ring, Exchange& exchange, int first_row, int n_rows, int n_passes,
                                     bool& told) {
  const int pitch = args.shape.input_pitch();
  exchange.Begin(first_row, n_rows, 8 * N);
  Exchange::Old old[kLag];
  for (int e = 0; e < tiles.n_groups; ++e) {
    const Exchange::Old next = exchange.LoadOld(e);
    float even[N][4] = {}, odd[N][4] = {};
    for (int unit = 0; unit < tiles.n_units; ++unit) {
      const uint32_t tile = ring.Front();
      AddTile<N>(tile, layout.input + unit * kTileCols * 2, pitch, even, odd);
      __syncwarp();
      ring.Issue(n_passes);
      ring.Pop();
    }
    if (!told && ring.AllIssued(n_passes)) {
      LetNextStart();
      told = true;
    }
    exchange.Send<N>(e, even, odd);
    if (e >= kLag) exchange.Finish(e - kLag, old[0]);
#pragma unroll
    for (int i = 0; i + 1 < kLag; ++i) old[i] = old[i + 1];
    old[kLag - 1] = next;
  }
#pragma unroll
  for (int i = 0; i < kLag; ++i) {
    const int e = tiles.n_groups - kLag + i;
    if (e >= 0) exchange.Finish(e, old[i]);
  }
}
#endif  // TANDEM_SM90

__global__ void __maxnreg__(184) StreamLinear(const __grid_constant__ StreamArgs args) {
#ifdef TANDEM_SM90
  extern __shared__ __align__(1024) char shared[];
  const StreamShape& shape = args.shape;
  const LinearArgs& linear = args.linear;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t rank = ClusterRank();
  const int cluster_index = blockIdx.x / shape.cluster, n_clusters = gridDim.x / shape.cluster;
  const Layout layout = LayoutOf(shape, shared);

  Tiles tiles;
  tiles.first_group = cluster_index * kWarps + warp;
  tiles.step = n_clusters * kWarps;
  tiles.n_groups = max(0, (shape.n_groups - tiles.first_group + tiles.step - 1) / tiles.step);
  tiles.first_unit = rank * shape.units_per_slice;
  tiles.n_units = min(max(shape.n_units - tiles.first_unit, 0), shape.units_per_slice);

  Ring ring(args, tiles, layout, warp, lane == 0);
  Exchange exchange(args, layout, tiles, rank);
  if (lane == 0) {
    if (warp == 0) InitBarrier(layout.summed, 1);
    for (int i = 0; i < shape.stages; ++i) InitBarrier(layout.barriers + (warp * kMaxStages + i) * 8, 1);
    exchange.InitBarriers();
    PublishBarriers();
  }
  __syncwarp();
  ClusterArriveRelaxed();  // the barriers are published
  for (int i = 0; i < shape.stages; ++i) ring.Issue(1);
  bool told = linear.max_rows <= shape.block_rows && ring.AllIssued(1);
  if (told) LetNextStart();
  InputSlice slice(args, layout, rank);
  slice.LoadGain();
  ClusterWait();  // all blocks of the cluster have started: their shared memory may be written

  WaitForPrevious();
  Prepared held;
  const bool early = !linear.src && linear.max_rows <= shape.block_rows && slice.IsSmall(linear.max_rows);
  if (early) slice.Load(0, linear.max_rows, held);
  const int n_rows = min(__ldcg(linear.n_rows), linear.max_rows);
  const int n_passes = (n_rows + shape.block_rows - 1) / shape.block_rows;
  for (int pass = 0; pass < n_passes; ++pass) {
    const int first_row = pass * shape.block_rows;
    const int rows = min(shape.block_rows, n_rows - first_row);
    const bool small = slice.IsSmall(rows);
    if (small && !early) slice.Load(first_row, rows, held);
    if (pass > 0) {  // nobody reads the last pass's input, or has partial sums of it on the way
      ClusterArrive();
      ClusterWait();
      if (lane == 0) {
        exchange.InitBarriers();
        PublishBarriers();
      }
      __syncwarp();
      ClusterArrive();
      ClusterWait();
    }
    if (linear.dst) {
      for (int m = threadIdx.x; m < rows; m += blockDim.x) layout.dst[m] = __ldcg(linear.dst + first_row + m);
    }
    slice.Prepare(pass, first_row, rows, small, held);
    __syncthreads();
    if (rows <= 8) {
      Pass<1>(args, layout, tiles, ring, exchange, first_row, rows, n_passes, told);
    } else if (rows <= 16) {
      Pass<2>(args, layout, tiles, ring, exchange, first_row, rows, n_passes, told);
    } else if (rows <= 32) {
      Pass<4>(args, layout, tiles, ring, exchange, first_row, rows, n_passes, told);
    } else {
      Pass<8>(args, layout, tiles, ring, exchange, first_row, rows, n_passes, told);
    }
  }
  if (n_passes == 0) {  // the copies under way must land while this memory is still ours
    for (int i = 0; i < min(shape.stages, tiles.n_groups * tiles.n_units); ++i) {
      ring.Front();
      ring.Pop();
    }
  }
#endif
}

void LaunchStream(const LinearArgs& args, cudaStream_t stream) {
  StreamArgs stream_args = {};
  stream_args.linear = args;
  stream_args.shape = ShapeOf(args);
  for (int s = 0; s < args.n_segments; ++s) stream_args.map[s] = MapOf(args.segment[s].weight);
  const StreamShape& shape = stream_args.shape;

  KernelShape launch = {};
  launch.threads = kWarps * 32;
  launch.cluster = shape.cluster;
  launch.overlap = true;
  // As many clusters as the device runs at a time with one block on each multiprocessor.
  launch.shared_bytes = std::max(shape.shared_bytes(), kHalfShared + 8 * 1024);
  launch.grid = dim3(shape.cluster);
  AllowShared(StreamLinear, kLargestShared);
  int n_clusters = 0;
  {
    cudaLaunchConfig_t config;
    cudaLaunchAttribute attributes[2];
    SetLaunch(launch, stream, config, attributes);
    TANDEM_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&n_clusters, StreamLinear, &config));
  }
  TANDEM_CHECK(n_clusters > 0) << "no cluster of " << shape.cluster << " blocks fits on this device";
  launch.shared_bytes = shape.shared_bytes();
  launch.grid = dim3(shape.cluster * std::min(n_clusters, (shape.n_groups + kWarps - 1) / kWarps));
  LaunchKernel(StreamLinear, launch, stream, stream_args);
}

constexpr int kPlainThreads = 256;
constexpr int kPlainRows = 8;     // rows of the input at a time
constexpr int kPlainOutputs = 4;  // of a warp at a time

__device__ float PlainScale(const LinearArgs& args, const float* in) {
  float sum = 0;
  for (int k = threadIdx.x % 32; k < args.in_dim; k += 32) sum += in[k] * in[k];
  return 1 / sqrtf(WarpSum(sum) / args.in_dim + args.norm_eps);
}

__global__ void __launch_bounds__(kPlainThreads) PlainLinear(const LinearArgs args) {
  __shared__ float scale[kPlainRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = gridDim.x * (kPlainThreads / 32);
  const int n_rows = min(*args.n_rows, args.max_rows);
  for (int first = 0; first < n_rows; first += kPlainRows) {
    const int rows = min(kPlainRows, n_rows - first);
    const float* in[kPlainRows];
    for (int m = 0; m < kPlainRows; ++m) {
      const int row = first + min(m, rows - 1);
      in[m] = args.in + (args.src ? args.src[row] : row) * args.in_stride;
    }
    __syncthreads();
    if (args.norm && warp < rows) {
      const float value = PlainScale(args, in[warp]);
      if (lane == 0) scale[warp] = value;
    }
    __syncthreads();
    for (int s = 0; s < args.n_segments; ++s) {
      const LinearSegment& segment = args.segment[s];
      const View weight = segment.weight;
      for (int64_t o = (blockIdx.x * (kPlainThreads / 32) + warp) * int64_t{kPlainOutputs}; o < weight.n_rows;
           o += int64_t{kPlainOutputs} * n_warps) {
        float sum[kPlainOutputs][kPlainRows] = {};
        for (int k = lane; k < args.in_dim; k += 32) {
          const float norm = args.norm ? LoadValue(args.norm.data, args.norm.dtype, k) : 1;
          float x[kPlainRows];
#pragma unroll
          for (int m = 0; m < kPlainRows; ++m) {
            x[m] = m < rows ? in[m][k] : 0;
            if (args.norm) x[m] = x[m] * scale[min(m, rows - 1)] * norm;
            if (args.round_bf16) x[m] = __uint_as_float(ToBf16(x[m]) << 16);
          }
#pragma unroll
          for (int i = 0; i < kPlainOutputs; ++i) {
            const int64_t row = min(o + i, weight.n_rows - 1);
            const float w = LoadValue(weight.data, weight.dtype, row * weight.n_cols + k);
#pragma unroll
            for (int m = 0; m < kPlainRows; ++m) sum[i][m] = fmaf(w, x[m], sum[i][m]);
          }
        }
#pragma unroll
        for (int i = 0; i < kPlainOutputs; ++i) {
#pragma unroll
          for (int m = 0; m < kPlainRows; ++m) {
            float value = WarpSum(sum[i][m]);
            if (lane != 0 || m >= rows || o + i >= weight.n_rows) continue;
            if (segment.bias) value += LoadValue(segment.bias.data, segment.bias.dtype, o + i);
            float* out =
                segment.out + (args.dst ? args.dst[first + m] : first + m) * segment.out_stride + o + i;
            *out = segment.accumulate ? *out + value : value;
          }
        }
      }
    }
  }
}

}  // namespace

void LinearCuda(const LinearArgs& args, cudaStream_t stream) {
  if (CanStream(args)) return LaunchStream(args, stream);
  KernelShape launch = {};
  launch.grid = dim3(2 * MultiprocessorCount());
  launch.threads = kPlainThreads;
  LaunchKernel(PlainLinear, launch, stream, args);
}

}  // namespace tandem
