// Two kernels. PrepareWide writes the rows of the input, norm and rounding, into `scratch` in the order in which lanes multiply
// them. MultiplyWide does the rest, a cluster of 2 or 4 blocks for units of 16 outputs a block:
//
//   - Of every tile of 512 columns a block has the strands (strands.h) of its rank, so weights and input are read once by a
//     cluster, each block its columns. Its 8 warps are those strands by as many groups of 16 outputs as there are blocks.
//   - One thread copies weights, stage after stage into a ring: a unit's part of a tile, 16 KB. It begins before the previous
//     kernel has ended. Another copies the input, once for a pass of up to kHeld units.
//   - At the end of a pass the strands of a group meet in the shared memory of one block, which writes the outputs.
//
// Barriers. Use u of a slot (u = 0, 1, ...) is phase u of its barriers, so the parity to wait for is u & 1.
//   full         1 arrival and the bytes: the copying thread expects them, then asks. Warps wait for use u
//   empty        8 arrivals, the warps': before use u the copying thread waits for use u - 1
//   sums_full    1 arrival and the bytes: expected by the block that receives, for use 0 before the clusters' blocks meet, for
//                u + 1 when it has read u and before it says so
//   sums_empty   8 arrivals from each block of the cluster, whose readers have read; before use u a warp that sends waits for
//                use u - 1. Said only of slots that will be used again, so that nobody writes to a block that has ended
#include "kernels/linear/wide_linear.h"

#include <algorithm>

#include "kernels/cuda.cuh"
#include "kernels/linear/strands.cuh"
#include "kernels/linear/weight_map.cuh"

namespace tandem::wide {
namespace {

using strands::kChunk;
using strands::kMapCols;
using strands::kSquares;
using strands::kStrands;
using strands::kTileCols;
using strands::kTileRows;

constexpr int kWorkers = kStrands;  // warps that multiply
constexpr int kWorkerThreads = kWorkers * 32;
constexpr int kThreads = kWorkerThreads + 2 * 32;
constexpr int kPieceBytes = 16 * 32;  // of the input: a lane's 16 bytes of 8 rows of a chunk
constexpr int kStageBytes = 16 * 1024;
constexpr int kMaxStages = 12;
constexpr int kInputStages = 3;
constexpr int kSumSlots = 2;
// The rest of a multiprocessor's is for the kernel that prepares the next product's rows, which can wait there.
constexpr int kSharedBytes = 204 * 1024;

// The sums of groups of rows are sent so many at a time.
constexpr int PartOf(int n_groups) { return n_groups < 4 ? n_groups : 4; }
constexpr int SumBytes(int n_groups) { return kStrands * PartOf(n_groups) * kPieceBytes; }

struct Fixed {
  uint64_t full[kMaxStages], empty[kMaxStages];
  uint64_t input_full[kInputStages], input_empty[kInputStages];
  uint64_t sums_full[kSumSlots], sums_empty[kSumSlots];
  float scale[kMaxRows];
  int32_t out_row[kMaxRows];
};
constexpr int kFixedBytes = (static_cast<int>(sizeof(Fixed)) + 127) / 128 * 128;

struct PrepareArgs {
  LinearArgs linear;
  int n_groups;  // of 8 rows
};

struct WideArgs {
  CUtensorMap map[kMaxSegments];
  LinearArgs linear;
  int first_unit[kMaxSegments];  // of a segment
  int n_units;
  int cluster, n_clusters;  // blocks of a cluster; clusters
  int n_strands;            // of a block
  int n_tiles;
  int n_stages;
  int input_bytes;                  // of a stage of the input
  int input_at, sums_at, fixed_at;  // in shared memory, which the ring of weights begins
};

__host__ __device__ float* ScalesOf(const LinearArgs& args, int n_groups) {
  return args.scratch + 8 * n_groups * PreparedCols(args.in_dim) / 2;
}

constexpr int kPrepareThreads = 256;
constexpr int kPrepareCols = kPrepareThreads * 8;

// The sum of squares of 16 values, 8 of this lane's and 8 of its neighbour's, as strands::GroupSum adds them up.
__device__ __forceinline__ float PairSum(const float (&v)[8]) {
  float sum[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sum[i] = v[i] * v[i];
    sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
  }
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < distance; ++i) sum[i] += sum[i + distance];
  }
  return sum[0];
}

__device__ __forceinline__ void LoadPiece(const LinearArgs& linear, const float* in, int k, float (&v)[8],
                                          float (&gain)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 four = __ldcg(reinterpret_cast<const float4*>(in + k) + i);
    v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
  }
  if (!linear.norm) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) gain[i] = LoadFloat(linear.norm.data, linear.norm.dtype, k + i);
}

// A block has a row, or some of its columns if there is no norm; a thread 8 columns at a time. Rows and columns that are not
// there become zeros.
__global__ void __launch_bounds__(kPrepareThreads) PrepareWide(const __grid_constant__ PrepareArgs args) {
  __shared__ float squares[strands::kMaxInDim / kSquares];
  LetNextStart();
  const LinearArgs& linear = args.linear;
  const int m = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int in_dim = linear.in_dim, n_cols = static_cast<int>(PreparedCols(in_dim));
  const int first = (blockIdx.y * kPrepareThreads + thread) * 8,
            step = static_cast<int>(gridDim.y) * kPrepareCols;
  if (linear.norm) {
    const char* gain = static_cast<const char*>(linear.norm.data);
    for (int k = first; k < in_dim; k += step)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(gain + (linear.norm.dtype == DType::kF32 ? 4 : 2) * k));
  }
  WaitForPrevious();
  const bool is_row = m < min(__ldcg(linear.n_rows), linear.max_rows);
  const float* in =
      is_row ? linear.in + (linear.src != nullptr ? __ldcg(linear.src + m) : m) * linear.in_stride : nullptr;
  auto* out = reinterpret_cast<uint4*>(linear.scratch);
  // All loads of two turns before anything is done with them. n_cols is a multiple of 512: warps are whole.
  for (int begin = first; begin < n_cols; begin += 2 * step) {
    float v[2][8] = {}, gain[2][8] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = begin + i * step;
      if (is_row && k < in_dim) LoadPiece(linear, in, k, v[i], gain[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = begin + i * step;
      if (k >= n_cols) break;
      if (linear.norm) {
        const float sum = PairSum(v[i]);
        if (k % kSquares == 0 && k < in_dim) squares[k / kSquares] = sum;
#pragma unroll
        for (int j = 0; j < 8; ++j) v[i][j] = v[i][j] * gain[i][j];
      }
      const int lane = m % 8 * 4 + k % kChunk / 8;
      out[(k / kChunk * args.n_groups + m / 8) * 32 + lane] = {
          RoundPair(v[i][0], v[i][1]), RoundPair(v[i][2], v[i][3]), RoundPair(v[i][4], v[i][5]),
          RoundPair(v[i][6], v[i][7])};
    }
  }
  if (!linear.norm) return;
  __syncthreads();
  if (!is_row || thread >= 32) return;
  const float scale = strands::RowScale(in_dim, linear.norm_eps, [&](int i) { return squares[i]; });
  if (thread == 0) ScalesOf(linear, args.n_groups)[m] = scale;
}

#ifdef TANDEM_SM90

constexpr int kBoxBytes = kStageBytes / 2;
constexpr int kInFlight = 4;  // stages of a block: what hides the latency of memory at its full rate

// Shared memory: the ring of weights, that of the input, sums, the rest.
__device__ __forceinline__ char* Memory() {
  extern __shared__ __align__(kBoxAlignment) char wide_memory[];
  return wide_memory;
}

template <int N>
class Block {
 public:
  __device__ __forceinline__ explicit Block(const WideArgs& args)
      : args_(args),
        linear_(args.linear),
        first_unit_(static_cast<int>(blockIdx.x) / args.cluster),
        n_units_((args.n_units - first_unit_ + args.n_clusters - 1) / args.n_clusters),
        fixed_(*reinterpret_cast<Fixed*>(Memory() + args.fixed_at)) {}

  __device__ __forceinline__ void MakeBarriers() const {
    if (SharedAddress(Memory()) % kBoxAlignment != 0) Fail();
    for (int i = 0; i < args_.n_stages; ++i) {
      InitBarrier(SharedAddress(fixed_.full + i), 1);
      InitBarrier(SharedAddress(fixed_.empty + i), kWorkers);
    }
    for (int i = 0; i < kInputStages; ++i) {
      InitBarrier(SharedAddress(fixed_.input_full + i), 1);
      InitBarrier(SharedAddress(fixed_.input_empty + i), kWorkers);
    }
    for (int i = 0; i < kSumSlots; ++i) {
      InitBarrier(SharedAddress(fixed_.sums_full + i), 1);
      InitBarrier(SharedAddress(fixed_.sums_empty + i), kWorkers * args_.cluster);
    }
    PublishBarriers();
    for (int i = 0; i < kSumSlots; ++i) ExpectBytes(SharedAddress(fixed_.sums_full + i), kSumBytes);
  }

  // By one thread.
  __device__ __forceinline__ void CopyWeights() const {
    for (int s = 0; s < linear_.n_segments; ++s) FetchMap(args_.map + s);
    const uint64_t policy = ReadOnce();
    const uint32_t full = SharedAddress(fixed_.full), empty = SharedAddress(fixed_.empty),
                   ring = SharedAddress(Memory());
    const int n_stages = args_.n_stages, unit_rows = args_.cluster * kTileRows;
    int n = 0, stage = 0, landed = 0;
    uint32_t parity = 0, landed_parity = 0;
    const auto await_landed = [&] {
      WaitFor(full + 8 * landed, landed_parity);
      if (++landed == n_stages) landed = 0, landed_parity ^= 1;
    };
    bool wanted = true;
    for (Pass pass(*this); wanted && pass.Next();) {
      // One thread is slow: what a pass can know beforehand is not worked out for every stage.
      const CUtensorMap* map[kHeld];
      int row[kHeld];
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const int unit = pass.UnitAt(j), segment = SegmentOf(unit);
        map[j] = args_.map + segment;
        row[j] = (unit - args_.first_unit[segment]) * unit_rows;
      }
      int piece = rank() * args_.n_strands;
      for (int tile = 0; wanted && tile < args_.n_tiles; ++tile, piece += kStrands) {
#pragma unroll
        for (int j = 0; j < kHeld; ++j) {
          if (j >= pass.count || !wanted) continue;
          if (n >= n_stages) {
            // What there is no room for at first waits until it is sure that there are rows.
            if (n == n_stages) WaitForPrevious();
            if (n == n_stages && __ldcg(linear_.n_rows) == 0) {
              wanted = false;
              continue;
            }
            WaitFor(empty + 8 * stage, parity ^ 1);
          }
          if (n >= kInFlight) await_landed();
          const uint32_t barrier = full + 8 * stage, to = ring + stage * kStageBytes;
          ExpectBytes(barrier, kStageBytes);
          CopyBox(to, map[j], row[j], piece, barrier, policy);
          CopyBox(to + kBoxBytes, map[j], row[j] + unit_rows / 2, piece, barrier, policy);
          if (++stage == n_stages) stage = 0, parity ^= 1;
          ++n;
        }
      }
    }
    // Nothing may be on its way to a block that has ended.
    for (int i = 0; i < min(n, kInFlight); ++i) await_landed();
  }

  // By one thread.
  __device__ __forceinline__ void CopyInput() const {
    WaitForPrevious();
    if (__ldcg(linear_.n_rows) == 0) return;
    // The rows were written by stores, and are read by copies.
    asm volatile("fence.proxy.async.global;" ::: "memory");
    const uint32_t full = SharedAddress(fixed_.input_full), empty = SharedAddress(fixed_.input_empty);
    const char* from = reinterpret_cast<const char*>(linear_.scratch) + rank() * args_.input_bytes;
    int n = 0, stage = 0;
    uint32_t parity = 0;
    for (Pass pass(*this); pass.Next();) {
      for (int tile = 0; tile < args_.n_tiles; ++tile, ++n) {
        if (n >= kInputStages) WaitFor(empty + 8 * stage, parity ^ 1);
        const uint32_t barrier = full + 8 * stage;
        ExpectBytes(barrier, args_.input_bytes);
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                SharedAddress(Memory() + args_.input_at) + stage * args_.input_bytes),
            "l"(from + int64_t{tile} * args_.cluster * args_.input_bytes), "r"(args_.input_bytes),
            "r"(barrier)
            : "memory");
        if (++stage == kInputStages) stage = 0, parity ^= 1;
      }
    }
  }

  // By 8 warps.
  __device__ __forceinline__ void Multiply() {
    WaitForPrevious();
    n_rows_ = min(__ldcg(linear_.n_rows), linear_.max_rows);
    if (n_rows_ == 0) return;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < n_rows_) {
      if (linear_.norm) fixed_.scale[thread] = __ldcg(ScalesOf(linear_, N) + thread);
      fixed_.out_row[thread] = linear_.dst != nullptr ? __ldcg(linear_.dst + thread) : thread;
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kWorkerThreads) : "memory");
    for (Pass pass(*this); pass.Next();) {
      float sum[kHeld][N][4] = {};
#pragma unroll 1
      for (int tile = 0; tile < args_.n_tiles; ++tile) AddTile(tile, pass.count, sum);
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        if (j >= pass.count) continue;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          Send(sum[j], part);
          // While these are on their way, those before them.
          if (part > 0) Finish(pass.UnitAt(j), part - 1);
          if (part == 0 && j > 0) Finish(pass.UnitAt(j - 1), kParts - 1);
        }
      }
      Finish(pass.UnitAt(pass.count - 1), kParts - 1);
    }
  }

 private:
  static constexpr int kHeld = N == 8 ? 2 : 4;  // units of a pass: what registers hold the sums of
  static constexpr int kPart = PartOf(N), kParts = N / kPart, kSumBytes = SumBytes(N);

  // Goes through the units of a block, pass by pass.
  struct Pass {
    const Block& block;
    int done = 0, count = 0;

    __device__ __forceinline__ explicit Pass(const Block& of) : block(of) {}
    __device__ __forceinline__ bool Next() {
      done += count;
      const int left = block.n_units_ - done, n_passes = (left + kHeld - 1) / kHeld;
      if (left == 0) return false;
      count = (left + n_passes - 1) / n_passes;
      return true;
    }
    __device__ __forceinline__ int UnitAt(int j) const {
      return block.first_unit_ + (done + j) * block.args_.n_clusters;
    }
  };

  __device__ __forceinline__ int SegmentOf(int unit) const {
    int s = 0;
    while (s + 1 < linear_.n_segments && unit >= args_.first_unit[s + 1]) ++s;
    return s;
  }
  static __device__ __forceinline__ int rank() { return static_cast<int>(ClusterRank()); }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  // Of a block's strands this warp's, and its group of a unit's outputs.
  __device__ __forceinline__ int strand() const { return warp() % args_.n_strands; }
  __device__ __forceinline__ int group() const { return warp() / args_.n_strands; }

  static __device__ __forceinline__ uint4 At(const char* p) { return *reinterpret_cast<const uint4*>(p); }

  __device__ __forceinline__ void AddTile(int tile, int n_held, float (&sum)[kHeld][N][4]) {
    // Columns beyond the last count for nothing, whatever is there.
    const bool has_cols =
        tile * kTileCols + (rank() * args_.n_strands + strand()) * kMapCols < linear_.in_dim;
    uint4 x[2][N];
    WaitFor(SharedAddress(fixed_.input_full + input_stage_), input_parity_);
    const char* in = Memory() + args_.input_at + input_stage_ * args_.input_bytes +
                     strand() * 2 * N * kPieceBytes + lane() * 16;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int n = 0; n < N; ++n) x[u][n] = At(in + (u * N + n) * kPieceBytes);
    }
    __syncwarp();
    if (lane() == 0) Arrive(SharedAddress(fixed_.input_empty + input_stage_));
    if (++input_stage_ == kInputStages) input_stage_ = 0, input_parity_ ^= 1;

    const int box_rows = args_.cluster * kTileRows / 2, row = group() * kTileRows;
    const int at =
        row / box_rows * kBoxBytes + (strand() * box_rows + row % box_rows) * kMapCols * 2 + BoxByte(lane());
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (j >= n_held) continue;
      WaitFor(SharedAddress(fixed_.full + stage_), parity_);
      const char* weights = Memory() + stage_ * kStageBytes;
      uint4 low[2], high[2];
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const char* p = weights + (at ^ u * 64);
        low[u] = At(p);
        high[u] = At(p + 8 * kMapCols * 2);
      }
      __syncwarp();
      if (lane() == 0) Arrive(SharedAddress(fixed_.empty + stage_));
      if (++stage_ == args_.n_stages) stage_ = 0, parity_ ^= 1;
      // As strands::AddChunk, its steps for all rows in turn: a step waits for the one before it in the same sum.
      if (!has_cols) continue;
#pragma unroll
      for (int u = 0; u < 2; ++u) {
#pragma unroll
        for (int n = 0; n < N; ++n)
          MultiplyTiles(sum[j][n], low[u].x, high[u].x, low[u].y, high[u].y, x[u][n].x, x[u][n].y);
#pragma unroll
        for (int n = 0; n < N; ++n)
          MultiplyTiles(sum[j][n], low[u].z, high[u].z, low[u].w, high[u].w, x[u][n].z, x[u][n].w);
      }
    }
  }

  // This warp's strand of 16 outputs to the block that ends them.
  __device__ __forceinline__ void Send(const float (&sum)[N][4], int part) {
    const int slot = n_sent_ % kSumSlots, use = n_sent_ / kSumSlots;
    if (use > 0) WaitFor(SharedAddress(fixed_.sums_empty + slot), (use - 1) & 1);
    ++n_sent_;
    const int to_strand = rank() * args_.n_strands + strand();
    const uint32_t to = InBlock(SharedAddress(Memory() + args_.sums_at + slot * kSumBytes +
                                              to_strand * kPart * kPieceBytes + lane() * 16),
                                group());
    const uint32_t barrier = InBlock(SharedAddress(fixed_.sums_full + slot), group());
#pragma unroll
    for (int n = 0; n < kPart; ++n) {
      const float(&four)[4] = sum[part * kPart + n];
      asm volatile(
          "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::
              "r"(to + n * kPieceBytes),
          "f"(four[0]), "f"(four[1]), "f"(four[2]), "f"(four[3]), "r"(barrier)
          : "memory");
    }
  }

  // Ends this block's 16 outputs of a unit for a part of the rows: a warp 8 outputs and 8 rows, a lane an output for two rows.
  __device__ __forceinline__ void Finish(int unit, int part) {
    const int slot = n_finished_ % kSumSlots, use = n_finished_ / kSumSlots;
    const int segment = SegmentOf(unit);
    const LinearSegment& to = linear_.segment[segment];
    const int n = warp() / 2, half = warp() % 2;
    const int output = (unit - args_.first_unit[segment]) * args_.cluster * kTileRows + rank() * kTileRows +
                       half * 8 + BoxRow(lane());
    const int row = (part * kPart + n) * 8 + lane() % 4 * 2;
    const bool mine = n < kPart && output < to.weight.n_rows;
    float old[2] = {}, bias = 0;
    float* out[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!mine || row + i >= n_rows_) continue;
      out[i] = to.out + fixed_.out_row[row + i] * to.out_stride + output;
      if (to.accumulate) old[i] = __ldcg(out[i]);
    }
    if (mine && to.bias) bias = LoadFloat(to.bias.data, to.bias.dtype, output);
    WaitFor(SharedAddress(fixed_.sums_full + slot), use & 1);
    float total[2] = {};
    if (n < kPart) {
      const char* sums =
          Memory() + args_.sums_at + slot * kSumBytes + n * kPieceBytes + lane() * 16 + half * 8;
#pragma unroll
      for (int s = 0; s < kStrands; ++s) {
        const float2 two = *reinterpret_cast<const float2*>(sums + s * kPart * kPieceBytes);
        total[0] += two.x;
        total[1] += two.y;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (out[i] == nullptr) continue;
      float value = total[i];
      if (linear_.norm) value *= fixed_.scale[row + i];
      if (to.bias) value += bias;
      *out[i] = to.accumulate ? old[i] + value : value;
    }
    __syncwarp();
    if (++n_finished_ + 1 >= n_units_ * kParts) return;
    if (threadIdx.x == 0) ExpectBytes(SharedAddress(fixed_.sums_full + slot), kSumBytes);
    __syncwarp();
    if (lane() < args_.cluster) {
      asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                       InBlock(SharedAddress(fixed_.sums_empty + slot), lane()))
                   : "memory");
    }
  }

  const WideArgs& args_;
  const LinearArgs& linear_;
  const int first_unit_, n_units_;
  Fixed& fixed_;
  int n_rows_ = 0;
  int stage_ = 0, input_stage_ = 0, n_sent_ = 0, n_finished_ = 0;
  uint32_t parity_ = 0, input_parity_ = 0;
};

#endif  // TANDEM_SM90

template <int N>
__global__ void __launch_bounds__(kThreads, 1) MultiplyWide(const __grid_constant__ WideArgs args) {
#ifdef TANDEM_SM90
  LetNextStart();
  Block<N> block(args);
  if (threadIdx.x == 0) block.MakeBarriers();
  __syncthreads();
  __syncwarp();  // a warp that comes to a cluster's barrier in parts arrives more than once
  ClusterArriveRelaxed();
  ClusterWait();
  if (threadIdx.x < kWorkerThreads) {
    block.Multiply();
  } else if (threadIdx.x == kWorkerThreads) {
    block.CopyWeights();
  } else if (threadIdx.x == kWorkerThreads + 32) {
    block.CopyInput();
  }
#endif
}

// How a launch cuts the outputs.
struct Cut {
  int cluster = 0, n_clusters = 0, n_units = 0;
  // Outputs of the block that has most.
  int64_t most() const { return int64_t{(n_units + n_clusters - 1) / n_clusters} * kTileRows; }
};

int UnitsOf(const LinearSegment& segment, int cluster) {
  return static_cast<int>((segment.weight.n_rows + cluster * kTileRows - 1) / (cluster * kTileRows));
}

KernelShape ShapeOf(const Cut& cut) {
  KernelShape shape = {};
  shape.grid = dim3(cut.n_clusters * cut.cluster);
  shape.threads = kThreads;
  shape.shared_bytes = kSharedBytes;
  shape.cluster = cut.cluster;
  shape.overlap = true;
  return shape;
}

// cut.n_clusters: 0 if none can run.
template <int N>
Cut CutFor(const LinearArgs& args, int cluster) {
  Cut cut = {cluster, MultiprocessorCount() / cluster, 0};
  cudaLaunchConfig_t config;
  cudaLaunchAttribute attributes[2];
  SetLaunch(ShapeOf(cut), nullptr, config, attributes);
  if (cudaOccupancyMaxActiveClusters(&cut.n_clusters, MultiplyWide<N>, &config) != cudaSuccess) {
    cudaGetLastError();
    cut.n_clusters = 0;
  }
  for (int s = 0; s < args.n_segments; ++s) cut.n_units += UnitsOf(args.segment[s], cluster);
  cut.n_clusters = std::min(cut.n_clusters, cut.n_units);
  return cut;
}

template <int N>
bool LaunchRows(const LinearArgs& args, CudaStream stream) {
  AllowShared(MultiplyWide<N>, kSharedBytes);
  // Larger clusters read less input; smaller ones may leave fewer multiprocessors without work.
  Cut cut = CutFor<N>(args, 4);
  const Cut pairs = CutFor<N>(args, 2);
  if (pairs.n_clusters == 0) return false;
  if (cut.n_clusters == 0 || 16 * pairs.most() < 15 * cut.most()) cut = pairs;

  WideArgs wide = {};
  wide.linear = args;
  wide.n_units = cut.n_units;
  wide.cluster = cut.cluster;
  wide.n_clusters = cut.n_clusters;
  wide.n_strands = kStrands / cut.cluster;
  wide.n_tiles = static_cast<int>(PreparedCols(args.in_dim) / kTileCols);
  wide.input_bytes = wide.n_strands * 2 * N * kPieceBytes;
  const int others = kFixedBytes + kSumSlots * SumBytes(N) + kInputStages * wide.input_bytes;
  wide.n_stages = std::min(kMaxStages, (kSharedBytes - others) / kStageBytes);
  wide.input_at = wide.n_stages * kStageBytes;
  wide.sums_at = wide.input_at + kInputStages * wide.input_bytes;
  wide.fixed_at = wide.sums_at + kSumSlots * SumBytes(N);
  for (int s = 0, unit = 0; s < args.n_segments; ++s) {
    const LinearSegment& segment = args.segment[s];
    wide.first_unit[s] = unit;
    unit += UnitsOf(segment, cut.cluster);
    if (!MakeWeightMap(segment.weight.data, static_cast<int>(segment.weight.n_rows), args.in_dim,
                       cut.cluster * kTileRows / 2, wide.n_strands, wide.map + s))
      return false;
  }

  AllowShared(PrepareWide, 0);
  KernelShape prepare = {};
  // A norm's sum takes a whole row.
  prepare.grid = dim3(8 * N, args.norm ? 1 : (args.in_dim + kPrepareCols - 1) / kPrepareCols);
  prepare.threads = kPrepareThreads;
  prepare.overlap = true;
  LaunchKernel(PrepareWide, prepare, stream, PrepareArgs{args, N});
  LaunchKernel(MultiplyWide<N>, ShapeOf(cut), stream, wide);
  return true;
}

}  // namespace

bool Launch(const LinearArgs& args, CudaStream stream) {
  if (args.max_rows < kMinRows || args.max_rows > kMaxRows || args.in_dim % kMapCols != 0) return false;
  cudaFuncAttributes attributes;
  if (ComputeCapability() < 90 || cudaFuncGetAttributes(&attributes, MultiplyWide<2>) != cudaSuccess ||
      attributes.ptxVersion < 90) {
    cudaGetLastError();
    return false;
  }
  switch (RowGroups(args.max_rows)) {
    case 2:
      return LaunchRows<2>(args, stream);
    case 4:
      return LaunchRows<4>(args, stream);
    default:
      return LaunchRows<8>(args, stream);
  }
}

}  // namespace tandem::wide
