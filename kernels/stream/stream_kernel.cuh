// The kernel of stream.h. Of a block's warps one copies weights and eight compute:
//
//   copier    all tiles of this block, in the order of the program, row by row into a ring. At most `in_flight` tiles are
//             asked for at a time: more would only wait in the memory's queues, and what steps wait for behind them
//   workers   a product: its input into shared memory, as bf16; then group by group, each worker its strand of the sums
//             (strands.cuh); the strands meet in shared memory
//             attention: 8 blocks share the keys of a task (packed_attention.cuh), rotate its queries and append what of
//             the new keys is theirs
//
// Groups of 16 outputs go round the blocks, product after product, so that a product that does not divide leaves the next
// one to the blocks that had less.
#ifndef TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_
#define TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_

#include "kernels/attention/packed_attention.cuh"
#include "kernels/cuda.cuh"
#include "kernels/linear/strands.cuh"
#include "kernels/stream/stream_step.h"

namespace tandem::stream {

constexpr int kWorkers = strands::kStrands;
constexpr int kWorkerThreads = kWorkers * 32;
constexpr int kThreads = kWorkerThreads + 32;
constexpr int kTileRows = strands::kTileRows;
constexpr int kTileCols = strands::kTileCols;
// Two neighbouring rows of a tile lie in different halves of the banks.
constexpr int kRowPitch = kTileCols * 2 + 64;
constexpr int kTileBytes = kTileRows * kRowPitch;
constexpr int kSumPitch = 20;  // floats: of 16 outputs of a row
constexpr int kSumFloats = 2 * kWorkers * kMaxRows * kSumPitch;

constexpr int FixedBytes() {
  return kSumFloats * 4 + kMaxRows * kWorkers * 4 + 2 * static_cast<int>(sizeof(StreamStep)) +
         2 * static_cast<int>(sizeof(Tiles)) + 2 * 8 * kMaxStages;
}

#ifdef TANDEM_SM90

constexpr uint32_t kAbsent = 0xffffffffu;

struct Shared {
  char* ring;
  char* work;      // [work_bytes]
  float* sums;     // [2][kWorkers][kMaxRows][kSumPitch]
  float* squares;  // [kMaxRows][kWorkers]
  StreamStep* step;      // [2] this one and the next
  Tiles* tiles;    // [2] the copier's
  uint32_t full, empty;  // [kMaxStages] barriers: a tile is there; is used

  __device__ __forceinline__ Shared(const Params& params, char* shared) {
    ring = shared;
    work = ring + params.n_stages * kTileBytes;
    sums = reinterpret_cast<float*>(work + params.work_bytes);
    squares = sums + kSumFloats;
    step = reinterpret_cast<StreamStep*>(squares + kMaxRows * kWorkers);
    tiles = reinterpret_cast<Tiles*>(step + 2);
    full = SharedAddress(tiles + 2);
    empty = full + 8 * kMaxStages;
  }
};

// Some seconds of looking: something is wrong, and a run that fails is better than one that hangs.
class Patience {
 public:
  __device__ __forceinline__ void Spend() {
    if (++n_ > (1u << 24)) __trap();
  }

 private:
  uint32_t n_ = 0;
};

__device__ __forceinline__ void WaitFor(uint32_t barrier, uint32_t parity) {
  Patience patience;
  uint32_t done;
  while (true) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (done) return;
    patience.Spend();
  }
}
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
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
__device__ __forceinline__ bool IsThere(float v) { return __float_as_uint(v) != kAbsent; }
__device__ __forceinline__ bool AllThere32(const uint4& v) {
  return v.x != kAbsent && v.y != kAbsent && v.z != kAbsent && v.w != kAbsent;
}
__device__ __forceinline__ bool AllThere16(const uint4& v) {
  return (__vcmpeq2(v.x, kAbsent) | __vcmpeq2(v.y, kAbsent) | __vcmpeq2(v.z, kAbsent) | __vcmpeq2(v.w, kAbsent)) == 0;
}
__device__ __forceinline__ float AwaitFloat(const float* p) {
  Patience patience;
  float v = LoadRelaxed(p);
  while (!IsThere(v)) {
    patience.Spend();
    v = LoadRelaxed(p);
  }
  return v;
}
__device__ __forceinline__ void StoreRelaxed(float* p, float v) {
  const uint32_t bits = __float_as_uint(v) == kAbsent ? 0x7fffffffu : __float_as_uint(v);
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(bits) : "memory");
}
__device__ __forceinline__ uint16_t PresentBf16(float v) {
  const uint16_t bits = FloatToBf16(v);
  return bits == 0xffffu ? 0x7fffu : bits;
}

// --- The copier ---

struct Turn {
  int block, n_blocks;
  int before = 0;  // groups of the products so far, modulo n_blocks

  // The first group of the next product that is this block's; others follow at a distance of n_blocks.
  __device__ __forceinline__ int Next(int n_groups) {
    int first = block - before;
    if (first < 0) first += n_blocks;
    before = (before + n_groups) % n_blocks;
    return first;
  }
};

// Weights are read once: first out of the cache.
__device__ __forceinline__ uint64_t ReadOnce() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void CopyRow(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier,
                                        uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

class Copier {
 public:
  __device__ __forceinline__ Copier(const Params& params, const Shared& shared)
      : params_(params), shared_(shared), lane_(threadIdx.x % 32), policy_(ReadOnce()) {}

  __device__ __forceinline__ void Run(const int (&n_rows)[2]) {
    constexpr int kWords = sizeof(Tiles) / 4;
    Turn turn = {static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)};
    uint32_t word = lane_ < kWords ? reinterpret_cast<const uint32_t*>(params_.tiles)[lane_] : 0;
    for (int p = 0; p < params_.n_products; ++p) {
      Tiles& tiles = shared_.tiles[p & 1];
      if (lane_ < kWords) reinterpret_cast<uint32_t*>(&tiles)[lane_] = word;
      __syncwarp();
      if (p + 1 < params_.n_products && lane_ < kWords) {
        word = reinterpret_cast<const uint32_t*>(params_.tiles + p + 1)[lane_];
      }
      if (n_rows[tiles.count] > 0) Copy(tiles, turn.Next(tiles.n_groups), turn.n_blocks);
    }
  }

 private:
  __device__ __forceinline__ void Copy(const Tiles& tiles, int first, int n_blocks) {
    const int n_tiles = (tiles.in_dim + kTileCols - 1) / kTileCols;
    for (int slab = 0; slab < n_tiles; slab += tiles.slab_tiles) {
      const int end = min(slab + tiles.slab_tiles, n_tiles);
      for (int group = first; group < tiles.n_groups; group += n_blocks) {
        const uint16_t* row = RowOf(tiles, group);
        const uint32_t n = __popc(__ballot_sync(~0u, row != nullptr));
        for (int tile = slab; tile < end; ++tile) CopyTile(row, n, tile * kTileCols, tiles.in_dim);
      }
    }
  }
  __device__ __forceinline__ const uint16_t* RowOf(const Tiles& tiles, int group) const {
    if (lane_ >= kTileRows) return nullptr;
    int segment = 0, output = group * kTileRows + lane_;
    if (tiles.gated) {
      segment = lane_ / 8;
      output = group * 8 + lane_ % 8;
    } else {
      while (segment + 1 < kMaxSegments && group >= tiles.first_group[segment + 1]) ++segment;
      output -= tiles.first_group[segment] * kTileRows;
    }
    if (output >= tiles.n_outputs[segment]) return nullptr;
    return tiles.weight[segment] + static_cast<int64_t>(output) * tiles.in_dim;
  }
  __device__ __forceinline__ void CopyTile(const uint16_t* row, uint32_t n, int col, int in_dim) {
    if (n_ >= params_.n_stages) WaitFor(shared_.empty + 8 * stage_, parity_ ^ 1);
    if (n_ >= params_.in_flight) {
      WaitFor(shared_.full + 8 * landed_, landed_parity_);
      if (++landed_ == params_.n_stages) landed_ = 0, landed_parity_ ^= 1;
    }
    const uint32_t bytes = min(kTileCols, in_dim - col) * 2, barrier = shared_.full + 8 * stage_;
    if (lane_ == 0) ExpectBytes(barrier, n * bytes);
    __syncwarp();
    if (row != nullptr) {
      CopyRow(SharedAddress(shared_.ring) + stage_ * kTileBytes + lane_ * kRowPitch, row + col, bytes, barrier,
              policy_);
    }
    if (n_ < params_.n_stages) ++n_;
    if (++stage_ == params_.n_stages) stage_ = 0, parity_ ^= 1;
  }

  const Params& params_;
  const Shared& shared_;
  const int lane_;
  const uint64_t policy_;
  int n_ = 0;  // tiles so far, up to n_stages
  int stage_ = 0, landed_ = 0;
  uint32_t parity_ = 0, landed_parity_ = 0;
};

// --- The workers ---

struct WorkerState {
  int turn;  // which half of the buffers
  uint32_t stamp;
  int n_rows[2];
  Turn blocks;
  packed_attention::FirstRows first_rows;
  int stage = 0;  // of the ring
  uint32_t parity = 0;
  uint32_t n_groups = 0;  // finished
};

class ProductWorker {
 public:
  __device__ __forceinline__ ProductWorker(const Params& params, const Shared& shared, const Product& product,
                                           WorkerState& state)
      : params_(params),
        shared_(shared),
        product_(product),
        state_(state),
        n_rows_(state.n_rows[product.tiles.count]),
        in_dim_(product.tiles.in_dim),
        thread_(threadIdx.x),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        g_(lane_ / 4),
        t_(lane_ % 4) {}

  __device__ __forceinline__ void Run() {
    if (n_rows_ == 0) return;
    const int n_groups = product_.tiles.n_groups, n_blocks = state_.blocks.n_blocks;
    const int first = state_.blocks.Next(n_groups);
    if (first >= n_groups) return;
    const int n_tiles = (in_dim_ + kTileCols - 1) / kTileCols;
    if (product_.tiles.slab_tiles < n_tiles) return RunSlabs(first, n_tiles);
    if (product_.input == Input::kF32) {
      if (n_rows_ == 1) {
        LoadRows<1>();
      } else if (n_rows_ == 2) {
        LoadRows<2>();
      } else if (n_rows_ <= 5) {
        LoadRows<5>();
      } else {
        LoadRows<8>();
      }
    } else {
      LoadAll();
    }
    Meet();
    for (int group = first; group < n_groups; group += n_blocks) {
      const Finisher finisher = Begin(group);
      float sum[4] = {};
      for (int tile = 0; tile < n_tiles; ++tile) AddTile(tile * kTileCols, shared_.work, sum);
      Finish(finisher, sum);
    }
  }

 private:
  // --- The input, [chunk][row][32] bf16 in shared memory ---

  __device__ __forceinline__ uint4* InputAt(char* to, int k, int m) const {
    return reinterpret_cast<uint4*>(to + ((k / 32) * n_rows_ + m) * 64 + (k % 32) * 2);
  }

  // R: at least n_rows_.
  template <int R>
  __device__ __forceinline__ void LoadRows() {
    constexpr int kParts = kMaxInDim / (kWorkerThreads * 8);
    const auto* in = product_.in.at<float>(state_.turn);
    const bool wait = product_.in.half_bytes != 0;
    float4 v[R][kParts][2], gain[kParts][2];
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int k = (i * kWorkerThreads + thread_) * 8;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        gain[i][j] = {1, 1, 1, 1};
        if (product_.norm && k < in_dim_) gain[i][j] = strands::LoadVector(product_.norm, k + 4 * j);
      }
    }
    Patience patience;
    while (true) {
      bool all = true;
#pragma unroll
      for (int m = 0; m < R; ++m) {
        const int64_t row = m < n_rows_ && product_.src ? __ldcg(product_.src + m) : m;
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
          const int k = (i * kWorkerThreads + thread_) * 8;
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            v[m][i][j] = {0, 0, 0, 0};
            if (m >= n_rows_ || k >= in_dim_) continue;
            const uint4 bits = LoadRelaxed16(in + row * product_.in_stride + k + 4 * j);
            all &= AllThere32(bits);
            v[m][i][j] = {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                          __uint_as_float(bits.w)};
          }
        }
      }
      if (all || !wait) break;
      patience.Spend();
    }
    if (product_.norm) {
#pragma unroll
      for (int m = 0; m < R; ++m) {
        if (m >= n_rows_) break;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kParts; ++i) sum = strands::AddSquares(strands::AddSquares(sum, v[m][i][0]), v[m][i][1]);
        sum = strands::Butterfly(sum);
        if (lane_ == 0) shared_.squares[m * kWorkers + warp_] = sum;
      }
      Meet();
    }
#pragma unroll
    for (int m = 0; m < R; ++m) {
      if (m >= n_rows_) break;
      const float scale =
          product_.norm ? strands::RowScale(shared_.squares + m * kWorkers, in_dim_, product_.norm_eps) : 1.f;
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const int k = (i * kWorkerThreads + thread_) * 8;
        if (k >= in_dim_) continue;
        float4 a = v[m][i][0], b = v[m][i][1];
        if (product_.norm) {
          a = strands::Scaled(a, scale, gain[i][0]);
          b = strands::Scaled(b, scale, gain[i][1]);
        }
        *InputAt(shared_.work, k, m) = strands::Round8(a, b);
      }
    }
  }

  // An input in bf16: columns first .. of all rows; a thread's share of up to kAhead pieces of 8, asked for and stored
  // apart, so that something else can be done between.
  static constexpr int kAhead = 8;
  struct Ahead {
    uint4 piece[kAhead];
  };
  __device__ __forceinline__ const uint16_t* PieceAt(int first, int per_row, int i) const {
    const int m = i / per_row, k = first + i % per_row * 8;
    return product_.in.at<uint16_t>(state_.turn) + m * product_.in_stride + k;
  }
  __device__ __forceinline__ void Ask(int first, int n_cols, int begin, Ahead& ahead) const {
    const int per_row = n_cols / 8;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = begin + j * kWorkerThreads + thread_;
      if (i < per_row * n_rows_) ahead.piece[j] = LoadRelaxed16(PieceAt(first, per_row, i));
    }
  }
  __device__ __forceinline__ void Store(char* to, int first, int n_cols, int begin, Ahead& ahead) const {
    const int per_row = n_cols / 8;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = begin + j * kWorkerThreads + thread_;
      if (i >= per_row * n_rows_) break;
      Patience patience;
      while (!AllThere16(ahead.piece[j])) {
        patience.Spend();
        ahead.piece[j] = LoadRelaxed16(PieceAt(first, per_row, i));
      }
      *InputAt(to, i % per_row * 8, i / per_row) = ahead.piece[j];
    }
  }
  __device__ __forceinline__ void LoadAll() const {
    for (int begin = 0; begin < in_dim_ / 8 * n_rows_; begin += kAhead * kWorkerThreads) {
      Ahead ahead;
      Ask(0, in_dim_, begin, ahead);
      Store(shared_.work, 0, in_dim_, begin, ahead);
    }
  }

  // The input by slabs, two of which fit: the next one is asked for while one is multiplied. At most kMaxHeld groups.
  __device__ __forceinline__ void RunSlabs(int first, int n_tiles) {
    const int slab_cols = product_.tiles.slab_tiles * kTileCols, n_blocks = state_.blocks.n_blocks;
    Finisher finisher[kMaxHeld];
    float sum[kMaxHeld][4] = {};
#pragma unroll
    for (int h = 0; h < kMaxHeld; ++h) finisher[h] = Begin(first + h * n_blocks);
    Ahead ahead;
    Ask(0, min(slab_cols, in_dim_), 0, ahead);
    Store(shared_.work, 0, min(slab_cols, in_dim_), 0, ahead);
    Meet();
    for (int col = 0, half = 0; col < in_dim_; col += slab_cols, half ^= 1) {
      char* const work = shared_.work + half * (params_.work_bytes / 2);
      const int next = col + slab_cols, n_next = min(slab_cols, in_dim_ - next);
      if (n_next > 0) Ask(next, n_next, 0, ahead);
#pragma unroll
      for (int h = 0; h < kMaxHeld; ++h) {
        if (first + h * n_blocks >= product_.tiles.n_groups) break;
        for (int at = col; at < min(next, in_dim_); at += kTileCols) {
          // The tile's columns stand at the beginning of the slab's.
          AddTile(at, work - static_cast<int64_t>(col / 32) * n_rows_ * 64, sum[h]);
        }
      }
      if (n_next > 0) Store(shared_.work + (half ^ 1) * (params_.work_bytes / 2), next, n_next, 0, ahead);
      Meet();
    }
#pragma unroll
    for (int h = 0; h < kMaxHeld; ++h) {
      if (first + h * n_blocks < product_.tiles.n_groups) Finish(finisher[h], sum[h]);
    }
  }

  // --- The sums ---

  // `input`: where column 0 of row 0 would be.
  __device__ __forceinline__ void AddTile(int col, const char* input, float (&sum)[4]) {
    WaitFor(shared_.full + 8 * state_.stage, state_.parity);
    const char* tile = shared_.ring + state_.stage * kTileBytes + g_ * kRowPitch + warp_ * 128 + t_ * 16;
    const int k = col + warp_ * 64;
    const char* in = input + ((k / 32) * n_rows_ + g_) * 64 + t_ * 16;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      if (k + u * 32 >= in_dim_) break;
      const uint4 low = *reinterpret_cast<const uint4*>(tile + u * 64);
      const uint4 high = *reinterpret_cast<const uint4*>(tile + u * 64 + 8 * kRowPitch);
      uint4 x = {0, 0, 0, 0};
      if (g_ < n_rows_) x = *reinterpret_cast<const uint4*>(in + u * n_rows_ * 64);
      strands::AddChunk(sum, low, high, x);
    }
    __syncwarp();
    if (lane_ == 0) Arrive(shared_.empty + 8 * state_.stage);
    if (++state_.stage == params_.n_stages) state_.stage = 0, state_.parity ^= 1;
  }

  // Who ends which output: of a group, thread i (turned from group to group) output i % 16 of row i / 16; gated, i % 8 of
  // row i / 8.
  struct Finisher {
    const Segment* segment = nullptr;  // null: this thread has no output
    int output = 0, row = 0, place = 0;
    float old = 0;
    const float* old_at = nullptr;
  };
  __device__ __forceinline__ Finisher Begin(int group) {
    Finisher finisher;
    const bool gated = product_.output == Output::kGated;
    const int per_row = gated ? 8 : kTileRows;
    const int i = (thread_ + (group & 7) * 32) % kWorkerThreads;
    if (group >= product_.tiles.n_groups || i >= per_row * n_rows_) return finisher;
    int segment = 0;
    if (!gated) {
      while (segment + 1 < kMaxSegments && group >= product_.tiles.first_group[segment + 1]) ++segment;
    }
    finisher.place = i % per_row;
    finisher.row = i / per_row;
    finisher.output = (group - product_.tiles.first_group[segment]) * per_row + finisher.place;
    if (finisher.output >= product_.tiles.n_outputs[segment]) return finisher;
    finisher.segment = &product_.segment[segment];
    if (product_.output == Output::kResidual) {
      finisher.old_at =
          finisher.segment->old.at<float>(state_.turn) + finisher.row * finisher.segment->out_stride + finisher.output;
      finisher.old = LoadRelaxed(finisher.old_at);
    }
    return finisher;
  }

  __device__ __forceinline__ void Finish(const Finisher& finisher, const float (&sum)[4]) {
    float* sums = shared_.sums + (state_.n_groups++ & 1) * (kWorkers * kMaxRows * kSumPitch);
    float* mine = sums + warp_ * kMaxRows * kSumPitch + 2 * t_ * kSumPitch + g_;
    if (2 * t_ < n_rows_) mine[0] = sum[0], mine[8] = sum[2];
    if (2 * t_ + 1 < n_rows_) mine[kSumPitch] = sum[1], mine[kSumPitch + 8] = sum[3];
    Meet();
    if (finisher.segment == nullptr) return;
    const float value = Total(sums, finisher, 0);
    const Segment& segment = *finisher.segment;
    switch (product_.output) {
      case Output::kF32:
        StoreRelaxed(Element<float>(finisher), value);
        break;
      case Output::kResidual: {
        float old = finisher.old;
        if (!IsThere(old) && segment.old.half_bytes != 0) old = AwaitFloat(finisher.old_at);
        StoreRelaxed(Element<float>(finisher), old + value);
        break;
      }
      case Output::kGated: {
        float up = Total(sums, finisher, 8);
        const uint16_t bits = PresentBf16(value / (1.f + expf(-value)) * up);
        asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(Element<uint16_t>(finisher)), "h"(bits) : "memory");
        break;
      }
      case Output::kLogits: {
        const int64_t row = product_.dst ? __ldcg(product_.dst + finisher.row) : finisher.row;
        segment.out.at<float>(0)[row * segment.out_stride + finisher.output] = value;
        break;
      }
    }
  }
  // Of the output itself (from 0), or of the one that it gates (8).
  __device__ __forceinline__ float Total(const float* sums, const Finisher& finisher, int from) const {
    const float* at = sums + finisher.row * kSumPitch + finisher.place + from;
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWorkers; ++s) total += at[s * kMaxRows * kSumPitch];
    const View& bias = from == 0 ? finisher.segment->bias : finisher.segment[1].bias;
    if (bias) total += LoadFloat(bias.data, bias.dtype, finisher.output);
    return total;
  }
  template <typename T>
  __device__ __forceinline__ T* Element(const Finisher& finisher) const {
    return finisher.segment->out.template at<T>(state_.turn) + finisher.row * finisher.segment->out_stride +
           finisher.output;
  }

  const Params& params_;
  const Shared& shared_;
  const Product& product_;
  WorkerState& state_;
  const int n_rows_, in_dim_, thread_, warp_, lane_, g_, t_;
};

// The head of a row that a warp holds: values lane + 32 j and, half a head later, their partners. As rope_cuda.cu rotates.
template <int D>
struct Head {
  float low[D / 64], high[D / 64];

  __device__ __forceinline__ void Await(const float* from) {
    const int lane = threadIdx.x % 32;
    Patience patience;
    while (true) {
      bool all = true;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        low[j] = LoadRelaxed(from + lane + 32 * j);
        high[j] = LoadRelaxed(from + D / 2 + lane + 32 * j);
        all &= IsThere(low[j]) && IsThere(high[j]);
      }
      if (all) return;
      patience.Spend();
    }
  }
  __device__ __forceinline__ void Rotate(const View& norm, float eps, const float* cos_sin) {
    const int lane = threadIdx.x % 32;
    if (norm) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) sum = fmaf(low[j], low[j], sum);
#pragma unroll
      for (int j = 0; j < D / 64; ++j) sum = fmaf(high[j], high[j], sum);
      const float scale = 1.f / sqrtf(strands::Butterfly(sum) / static_cast<float>(D) + eps);
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        const int i = lane + 32 * j;
        low[j] = low[j] * scale * LoadFloat(norm.data, norm.dtype, i);
        high[j] = high[j] * scale * LoadFloat(norm.data, norm.dtype, D / 2 + i);
      }
    }
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const int i = lane + 32 * j;
      const float cos = __ldcg(cos_sin + i), sin = __ldcg(cos_sin + D / 2 + i), a = low[j], b = high[j];
      low[j] = a * cos - b * sin;
      high[j] = b * cos + a * sin;
    }
  }
};

template <int D>
class StreamAttention : packed_attention::Packed<D> {
  using Base = packed_attention::Packed<D>;
  static constexpr int kQueries = packed_attention::kQueries;
  static constexpr int kCluster = packed_attention::kCluster;
  static constexpr int kBlockKeys = packed_attention::kBlockKeys;

 public:
  __device__ __forceinline__ StreamAttention(const Params& params, const Shared& shared, const Attend& attend,
                                             WorkerState& state, int kv_head, int rank, int group)
      : Base(attend.attention, kv_head, rank, reinterpret_cast<float*>(shared.work)),
        params_(params),
        attend_(attend),
        state_(state),
        share_(group) {}

  __device__ __forceinline__ void Run(const packed_attention::Task& task) {
    this->Begin(task, state_.first_rows);
    // Keys from here on are this forward's.
    const int lane = threadIdx.x % 32;
    const bool mine = lane < state_.n_rows[0] && state_.first_rows.slot == this->slot_;
    const int first_new = __reduce_min_sync(~0u, mine ? state_.first_rows.position : 0x7fffffff);
    int first = this->first_key();
    typename Base::Keys keys;
    const bool early = first + packed_attention::kWarpKeys <= min(first_new, this->n_keys_);
    if (early) this->Load(first, keys);
    StoreQueries();
    AppendRows();
    Meet();
    if (!early && first < this->n_keys_) this->Load(first, keys);
    while (first < this->n_keys_) {
      this->Add(first, keys);
      first += kCluster * kBlockKeys;
      if (first < this->n_keys_) this->Load(first, keys);
    }
    this->ShareMax();
    Send();
    Receive();
    Finish();
  }

 private:
  // A warp a query at a time.
  __device__ __forceinline__ void StoreQueries() const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float scale = this->query_scale();
#pragma unroll 1
    for (int query = warp; query < kQueries; query += kWorkers) {
      Head<D> head = {};
      if (query < this->n_queries_) {
        head.Await(attend_.q.template at<float>(state_.turn) + this->QueryOffset(query));
        head.Rotate(attend_.q_norm, attend_.norm_eps,
                    attend_.cos_sin + static_cast<int64_t>(this->task_.row + query / this->group_) * D);
      }
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        StoreQuery(query, lane + 32 * j, head.low[j] * scale);
        StoreQuery(query, D / 2 + lane + 32 * j, head.high[j] * scale);
      }
    }
  }
  __device__ __forceinline__ void StoreQuery(int query, int at, float q) const {
    uint32_t high, low;
    packed_attention::Split(q, 0, high, low);
    *reinterpret_cast<uint16_t*>(this->shared_ + query * Base::kQueryPitch + at * 2) = static_cast<uint16_t>(high);
    *reinterpret_cast<uint16_t*>(this->shared_ + (kQueries + query) * Base::kQueryPitch + at * 2) =
        static_cast<uint16_t>(low);
  }

  // The sequence's new keys and values that this block attends to. Blocks of other tasks write the same ones again.
  __device__ __forceinline__ void AppendRows() const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const KvLayer& kv = this->args_.kv;
#pragma unroll 1
    for (int r = 0; r < state_.n_rows[0]; ++r) {
      const int slot = __shfl_sync(~0u, state_.first_rows.slot, r);
      const int position = __shfl_sync(~0u, state_.first_rows.position, r);
      const bool takes = r % kWorkers == warp && slot == this->slot_ && position < this->n_keys_ &&
                         position / kBlockKeys % kCluster == this->rank_;
      if (!takes) continue;
      const int64_t from = (static_cast<int64_t>(r) * kv.n_kv_heads + this->kv_head_) * D;
      const int64_t to = kv.offset(slot, this->kv_head_, position);
      Head<D> head;
      head.Await(attend_.v.template at<float>(state_.turn) + from);
      Append(kv.v, to, lane, head);
      head.Await(attend_.k.template at<float>(state_.turn) + from);
      head.Rotate(attend_.k_norm, attend_.norm_eps, attend_.cos_sin + static_cast<int64_t>(r) * D);
      Append(kv.k, to, lane, head);
    }
  }
  __device__ __forceinline__ static void Append(void* cache, int64_t to, int lane, const Head<D>& head) {
    auto* at = static_cast<uint16_t*>(cache) + to;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      at[lane + 32 * j] = FloatToBf16(head.low[j]);
      at[D / 2 + lane + 32 * j] = FloatToBf16(head.high[j]);
    }
  }

  __device__ __forceinline__ int64_t SumsOf(int rank, int query) const {
    return (static_cast<int64_t>(share_) * kCluster + rank) * kQueries + query;
  }

  // This block's sums to memory, and the word that they are there.
  __device__ __forceinline__ void Send() const {
    for (int i = threadIdx.x; i < this->n_queries_ * (D / 4); i += kWorkerThreads) {
      const int query = i / (D / 4), quad = i % (D / 4);
      __stcg(reinterpret_cast<float4*>(params_.sums + SumsOf(this->rank_, query) * D + quad * 4),
             this->BlockSum(query, quad * 4));
      if (quad == 0) {
        __stcg(params_.stats + SumsOf(this->rank_, query), float2{this->BlockMax(query), this->BlockTotal(query)});
      }
    }
    Meet();
    if (threadIdx.x == 0) {
      asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.u32 [%0], %1;" ::"l"(params_.stamps + share_ * kCluster +
                                                                                 this->rank_),
                   "r"(Stamp())
                   : "memory");
    }
  }
  __device__ __forceinline__ uint32_t Stamp() const { return state_.stamp + attend_.layer; }
  __device__ __forceinline__ void Receive() const {
    if (threadIdx.x < kCluster) {
      Patience patience;
      uint32_t seen;
      while (true) {
        asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                     : "=r"(seen)
                     : "l"(params_.stamps + share_ * kCluster + threadIdx.x)
                     : "memory");
        if (seen == Stamp()) break;
        patience.Spend();
      }
      asm volatile("fence.acq_rel.gpu;" ::: "memory");
    }
    Meet();
  }

  // Of every query, this block's values.
  __device__ __forceinline__ void Finish() const {
    constexpr int kQuads = Base::kPart / 4;
    for (int i = threadIdx.x; i < this->n_queries_ * kQuads; i += kWorkerThreads) {
      const int query = i / kQuads, at = this->rank_ * Base::kPart + i % kQuads * 4;
      float2 stats[kCluster];
      float4 sums[kCluster];
#pragma unroll
      for (int r = 0; r < kCluster; ++r) {
        stats[r] = __ldcg(params_.stats + SumsOf(r, query));
        sums[r] = __ldcg(reinterpret_cast<const float4*>(params_.sums + SumsOf(r, query) * D + at));
      }
      const float4 v = this->Merge(stats, sums);
      const uint32_t low = PresentBf16(v.x) | static_cast<uint32_t>(PresentBf16(v.y)) << 16;
      const uint32_t high = PresentBf16(v.z) | static_cast<uint32_t>(PresentBf16(v.w)) << 16;
      asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(
                       attend_.out.template at<uint16_t>(state_.turn) + this->QueryOffset(query) + at),
                   "r"(low), "r"(high)
                   : "memory");
    }
  }

  const Params& params_;
  const Attend& attend_;
  WorkerState& state_;
  const int share_;  // which task and kv head
};

template <int D>
__device__ __forceinline__ void RunAttention(const Params& params, const Shared& shared, const Attend& attend,
                                             WorkerState& state) {
  constexpr int kCluster = packed_attention::kCluster;
  const AttentionArgs& args = attend.attention;
  const int n_kv_heads = args.kv.n_kv_heads;
  const int rows_per_task = packed_attention::kQueries / (args.n_heads / n_kv_heads);
  // Blocks that share a task take their turns at the same time.
  const int n_blocks = state.blocks.n_blocks / kCluster * kCluster;
  if (state.blocks.block >= n_blocks) return;
  for (int item = state.blocks.block;; item += n_blocks) {
    const int share = item / kCluster;
    const packed_attention::Task task =
        packed_attention::FindTask(params.rows, state.first_rows, rows_per_task, share / n_kv_heads);
    if (task.n_rows == 0) break;
    StreamAttention<D>(params, shared, attend, state, share % n_kv_heads, item % kCluster, share).Run(task);
    Meet();
  }
}

// A step's description into shared memory, without waiting.
__device__ __forceinline__ void FetchStep(const StreamStep* from, StreamStep* to) {
  static_assert(sizeof(StreamStep) % 16 == 0 && sizeof(StreamStep) / 16 <= kWorkerThreads);
  if (threadIdx.x < sizeof(StreamStep) / 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(to) + 16 * threadIdx.x),
                 "l"(reinterpret_cast<const char*>(from) + 16 * threadIdx.x)
                 : "memory");
  }
}
__device__ __forceinline__ void AwaitFetched() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// This block's share of the half that the next launch will use.
__device__ __forceinline__ void ClearOtherHalf(const Params& params, int turn) {
  auto* half = reinterpret_cast<uint4*>(params.halves + (turn ^ 1) * params.half_bytes);
  const uint4 absent = {kAbsent, kAbsent, kAbsent, kAbsent};
  for (int64_t i = blockIdx.x * int64_t{kWorkerThreads} + threadIdx.x; i < params.half_bytes / 16;
       i += int64_t{kWorkerThreads} * gridDim.x) {
    __stcg(half + i, absent);
  }
}

__device__ __forceinline__ void Work(const Params& params, const Shared& shared, const int (&n_rows)[2]) {
  FetchStep(params.steps, shared.step);
  const uint32_t launch = __ldcg(params.turn);
  WorkerState state;
  state.turn = launch & 1;
  state.stamp = launch * static_cast<uint32_t>(params.n_layers) + 1;
  state.n_rows[0] = n_rows[0];
  state.n_rows[1] = n_rows[1];
  state.blocks = {static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)};
  state.first_rows = packed_attention::LoadFirstRows(params.rows);
  state.first_rows.n_rows = n_rows[0];
  ClearOtherHalf(params, state.turn);
  AwaitFetched();
  Meet();
  for (int s = 0; s < params.n_steps; ++s) {
    const StreamStep& step = shared.step[s & 1];
    if (s + 1 < params.n_steps) FetchStep(params.steps + s + 1, shared.step + ((s + 1) & 1));
    if (step.kind == Kind::kProduct) {
      ProductWorker(params, shared, step.product, state).Run();
    } else if (n_rows[0] > 0) {
      if (step.attend.attention.kv.head_dim == 64) {
        RunAttention<64>(params, shared, step.attend, state);
      } else {
        RunAttention<128>(params, shared, step.attend, state);
      }
    }
    AwaitFetched();
    Meet();
  }
  if (threadIdx.x == 0) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(params.turn + 1) : "memory");
    if (before == gridDim.x - 1) {
      params.turn[1] = 0;
      params.turn[0] = launch + 1;
    }
  }
}
#endif  // TANDEM_SM90

__global__ void __launch_bounds__(kThreads, 1) RunStream(const __grid_constant__ Params params) {
#ifdef TANDEM_SM90
  extern __shared__ __align__(128) char memory[];
  const Shared shared(params, memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < params.n_stages; ++i) {
      InitBarrier(shared.full + 8 * i, 1);
      InitBarrier(shared.empty + 8 * i, kWorkers);
    }
    PublishBarriers();
  }
  const int n_rows[2] = {min(__ldcg(params.n_rows[0]), kMaxRows), min(__ldcg(params.n_rows[1]), kMaxRows)};
  __syncthreads();
  if (threadIdx.x >= kWorkerThreads) {
    Copier(params, shared).Run(n_rows);
  } else {
    Work(params, shared, n_rows);
  }
#endif
}

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_
