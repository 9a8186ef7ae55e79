// The kernel of stream.h. Of a block's warps four copy weights and eight compute:
//
//   copiers   all tiles of this block, in the order of the program, row by row into a ring. At most `in_flight` tiles are
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
constexpr int kCopiers =
    4;  // warps: each copies a quarter of a tile's rows, for a copy is some 80 cycles of a warp's time
constexpr int kThreads = kWorkerThreads + kCopiers * 32;
constexpr int kTileRows = strands::kTileRows;
constexpr int kTileCols = strands::kTileCols;
// Two neighbouring rows of a tile lie in different halves of the banks.
constexpr int kRowPitch = kTileCols * 2 + 64;
constexpr int kTileBytes = kTileRows * kRowPitch;
constexpr int kPieceCols = kWorkerThreads * 8;  // of an input: a thread has 8 columns of every so many
constexpr int kSumPitch = 20;                   // floats: of 16 outputs of a row

// Shared memory begins with what does not depend on the program; then `work_bytes` for inputs, then the ring.
struct Fixed {
  Params params;
  StreamStep step[2];                            // this one and the next
  Tiles tiles[kCopiers][2];                      // the copiers'
  uint64_t full[kMaxStages], empty[kMaxStages];  // barriers: a tile is there; is used
  uint4 zeros[4];                                // a chunk of an input row that is not there
  float scale[kMaxRows];                         // of a product's rows
  float sums[2][kWorkers][kMaxRows][kSumPitch];
  float residual[kMaxResidual][kMaxRows]
                [kTileRows];  // of the outputs of this block in products that add to the input
  int32_t n_done;             // steps
  int32_t turn;               // which half of the buffers
  int32_t n_rows, n_logits;
  int32_t slot[kMaxRows], position[kMaxRows];
};
constexpr int kFixedBytes = (static_cast<int>(sizeof(Fixed)) + 127) / 128 * 128;

#ifdef TANDEM_SM90

constexpr uint32_t kAbsent = 0xffffffffu;

__device__ __forceinline__ char* Memory() {
  extern __shared__ __align__(128) char stream_memory[];
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
__device__ __forceinline__ uint4 LoadShared16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ bool IsThere(float v) { return __float_as_uint(v) != kAbsent; }
__device__ __forceinline__ bool AllThere16(const uint4& v) {
  return (__vcmpeq2(v.x, kAbsent) | __vcmpeq2(v.y, kAbsent) | __vcmpeq2(v.z, kAbsent) |
          __vcmpeq2(v.w, kAbsent)) == 0;
}
__device__ __forceinline__ float2 LoadRelaxed8(const void* p) {
  float2 v;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t Present(float v) {
  return __float_as_uint(v) == kAbsent ? 0x7fffffffu : __float_as_uint(v);
}
__device__ __forceinline__ void StoreBf16(uint16_t* p, float v) {
  const auto bits = static_cast<uint16_t>(strands::RoundPair(v, 0));
  asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(p), "h"(bits) : "memory");
}
__device__ __forceinline__ void StoreRelaxed(float* p, float v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(Present(v)) : "memory");
}

// --- The copier ---

// Groups go round the blocks. Every thread counts for itself.
struct Round {
  int before = 0;  // groups of the products so far, modulo the number of blocks

  // The first group of the next product that is this block's; others follow at a distance of as many as there are blocks.
  // Those of a residual begin at block 0 always, so that an output has one block.
  __device__ __forceinline__ int Next(const Tiles& tiles) {
    const int n_groups = tiles.n_groups, n_blocks = static_cast<int>(gridDim.x);
    if (tiles.residual) before = 0;
    int first = static_cast<int>(blockIdx.x) - before;
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
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// Bytes may arrive before a barrier is told to expect them: it waits for the telling.
class Copier {
 public:
  __device__ __forceinline__ explicit Copier(const Params& params)
      : n_stages_(params.n_stages),
        in_flight_(params.in_flight),
        copier_(threadIdx.x / 32 - kWorkers),
        lane_(threadIdx.x % 32),
        row_(copier_ * kRowsOfCopier + lane_),
        ring_(SharedAddress(Ring()) + row_ * kRowPitch),
        full_(SharedAddress(Common().full)),
        empty_(SharedAddress(Common().empty)),
        policy_(ReadOnce()) {}

  __device__ __forceinline__ void Run(const Params& params, int n_rows, int n_logits) {
    constexpr int kWords = sizeof(Tiles) / 4;
    Round round;
    uint32_t word = lane_ < kWords ? reinterpret_cast<const uint32_t*>(params.tiles)[lane_] : 0;
    for (int p = 0; p < params.n_products; ++p) {
      Tiles& tiles = Common().tiles[copier_][p & 1];
      if (lane_ < kWords) reinterpret_cast<uint32_t*>(&tiles)[lane_] = word;
      __syncwarp();
      if (p + 1 < params.n_products && lane_ < kWords) {
        word = reinterpret_cast<const uint32_t*>(params.tiles + p + 1)[lane_];
      }
      if ((tiles.count == 0 ? n_rows : n_logits) > 0) Copy(tiles, round.Next(tiles));
    }
  }

 private:
  __device__ __forceinline__ void Copy(const Tiles& tiles, int first) {
    const int in_dim = tiles.in_dim, n_groups = tiles.n_groups,
              n_tiles = (in_dim + kTileCols - 1) / kTileCols;
    for (int slab = 0; slab < n_tiles; slab += tiles.slab_tiles) {
      const int end = min(slab + tiles.slab_tiles, n_tiles);
      for (int group = first; group < n_groups; group += static_cast<int>(gridDim.x)) {
        const uint16_t* row = lane_ < kRowsOfCopier ? RowOf(tiles, group, row_) : nullptr;
        // One copier tells how much is to come.
        int n = 0;
        if (copier_ == 0)
          n = __popc(__ballot_sync(~0u, lane_ < kTileRows && RowOf(tiles, group, lane_) != nullptr));
        for (int tile = slab; tile < end; ++tile) CopyTile(row, n, tile * kTileCols, in_dim);
      }
    }
  }
  static __device__ __forceinline__ const uint16_t* RowOf(const Tiles& tiles, int group, int row) {
    int segment = 0, output = group * kTileRows + row;
    if (tiles.gated) {
      segment = row / 8;
      output = group * 8 + row % 8;
    } else {
      while (segment + 1 < kMaxSegments && group >= tiles.first_group[segment + 1]) ++segment;
      output -= tiles.first_group[segment] * kTileRows;
    }
    if (output >= tiles.n_outputs[segment]) return nullptr;
    return tiles.weight[segment] + static_cast<int64_t>(output) * tiles.in_dim;
  }
  __device__ __forceinline__ void CopyTile(const uint16_t* row, int n, int col, int in_dim) {
    if (n_ >= n_stages_) WaitFor(empty_ + 8 * stage_, parity_ ^ 1);
    if (n_ >= in_flight_) {
      WaitFor(full_ + 8 * landed_, landed_parity_);
      if (++landed_ == n_stages_) landed_ = 0, landed_parity_ ^= 1;
    }
    const uint32_t bytes = min(kTileCols, in_dim - col) * 2, barrier = full_ + 8 * stage_;
    if (copier_ == 0 && lane_ == 0) ExpectBytes(barrier, n * bytes);
    __syncwarp();
    if (row != nullptr) CopyRow(ring_ + stage_ * kTileBytes, row + col, bytes, barrier, policy_);
    if (n_ < n_stages_) ++n_;
    if (++stage_ == n_stages_) stage_ = 0, parity_ ^= 1;
  }

  static constexpr int kRowsOfCopier = kTileRows / kCopiers;
  const int n_stages_, in_flight_, copier_, lane_, row_;
  const uint32_t ring_, full_, empty_;
  const uint64_t policy_;
  int n_ = 0;  // tiles so far, up to n_stages
  int stage_ = 0, landed_ = 0;
  uint32_t parity_ = 0, landed_parity_ = 0;
};

// --- The input of a product: [chunk][row][32] bf16 in shared memory ---
//
// What follows is in functions of their own, not inlined: each has the registers to itself.

__device__ __forceinline__ float4 Float4(const uint4& bits) {
  return {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)};
}
__device__ __forceinline__ bool AllThere(const float4& v) {
  return IsThere(v.x) && IsThere(v.y) && IsThere(v.z) && IsThere(v.w);
}
// Squares of a row's groups, and the row's scale from them.
constexpr int kFirstGroups = kMaxHidden / strands::kSquares;
static_assert(kMaxRows * kFirstGroups * sizeof(float) <= sizeof(Fixed::sums));

// The forward's input: fp32 rows, times the norm. Once a launch, so it is short rather than fast.
__device__ __forceinline__ void LoadFirst(const Product& product, int n_rows) {
  const int thread = Thread(), in_dim = product.tiles.in_dim;
  float* squares = Common().sums[0][0][0];
  for (int m = 0; m < n_rows; ++m) {
    const int64_t row = product.src != nullptr ? __ldcg(product.src + m) : m;
    const float* in = product.in.at<float>(0) + row * product.in_stride;
    constexpr int kUnroll = 8;
    for (int first = thread; first < in_dim; first += kUnroll * kWorkerThreads) {
      float v[kUnroll], gain[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int k = first + i * kWorkerThreads;
        v[i] = k < in_dim ? __ldcg(in + k) : 0;
        gain[i] = k < in_dim ? product.gain[k] : 0;
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int k = first + i * kWorkerThreads;
        const float sum = strands::GroupSum(~0u, v[i] * v[i]);
        if (k >= in_dim) continue;
        if (k % strands::kSquares == 0) squares[m * kFirstGroups + k / strands::kSquares] = sum;
        auto* to = reinterpret_cast<uint16_t*>(Work() + ((k / 32) * n_rows + m) * 64 + (k % 32) * 2);
        *to = static_cast<uint16_t>(strands::RoundPair(v[i] * gain[i], 0));
      }
    }
  }
  Meet();
  const int m = thread / 32;
  if (m >= n_rows) return;
  const float scale =
      strands::RowScale(in_dim, product.norm_eps, [&](int i) { return squares[m * kFirstGroups + i]; });
  if (thread % 32 == 0) Common().scale[m] = scale;
}

// The scales of rows in bf16, a warp a row: asked for before the rows, taken after them.
class Scales {
 public:
  __device__ __forceinline__ Scales(const Product& product, int n_rows)
      : product_(product), row_(Thread() / 32), n_groups_(product.tiles.in_dim / strands::kSquares) {
    mine_ = product.scaled && row_ < n_rows;
    if (!mine_) return;
    const int64_t row = product.src != nullptr ? __ldcg(product.src + row_) : row_;
    from_ = product.squares.at<float>(Common().turn) + row * n_groups_;
  }
  __device__ __forceinline__ void Ask() {
    const int lane = Thread() % 32;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      squares_[i] = 0;
      if (mine_ && lane + 32 * i < n_groups_) squares_[i] = LoadRelaxed(from_ + lane + 32 * i);
    }
  }
  __device__ __forceinline__ void Take() {
    if (!mine_) return;
    const int lane = Thread() % 32;
    Patience patience;
    while (true) {
      bool all = true;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) all &= IsThere(squares_[i]);
      if (all) break;
      patience.Spend();
      Ask();
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (lane + 32 * i < n_groups_) sum += squares_[i];
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    const float scale = 1.f / sqrtf(sum / static_cast<float>(product_.tiles.in_dim) + product_.norm_eps);
    if (lane == 0) Common().scale[row_] = scale;
  }

 private:
  static constexpr int kAhead = kMaxHidden / strands::kSquares / 32;
  const Product& product_;
  const int row_, n_groups_;
  bool mine_;
  const float* from_ = nullptr;
  float squares_[kAhead];
};

// An input in bf16: columns of all rows, copied to shared memory in pieces of 8 and looked at there: a thread has piece
// after piece at a distance of kPieceCols columns. Short loops, for the instruction cache is small, and no registers, so that
// something else can be done between Ask and Await.
class Pieces {
 public:
  __device__ __forceinline__ Pieces(const Product& product, int n_rows)
      : col_(Thread() * 8),
        in_(product.in.at<uint16_t>(Common().turn) + col_),
        stride_(static_cast<int>(product.in_stride)),
        src_(product.src),
        n_rows_(n_rows) {}

  // Columns first .. of n_cols, to be put at `to`.
  __device__ __forceinline__ void Begin(int first, int n_cols, char* to) {
    first_ = first;
    n_cols_ = n_cols;
    to_ = to + ((col_ / 32) * n_rows_) * 64 + (col_ % 32) * 2;
  }
  // Waits for this thread's last piece: the others come earlier, as a rule, and many threads that look at much would keep
  // memory from those they wait for.
  __device__ __forceinline__ void AwaitLast() const {
    if (col_ >= n_cols_) return;
    const uint16_t* last = From(n_rows_ - 1) + (n_cols_ - 1 - col_) / kPieceCols * kPieceCols;
    Patience patience;
    while (!AllThere16(LoadRelaxed16(last))) patience.Spend();
  }
  __device__ __forceinline__ void Ask() const {
#pragma unroll 1
    for (int row = 0; row < n_rows_; ++row) {
      const uint16_t* from = From(row);
      uint32_t to = SharedAddress(to_) + row * 64;
#pragma unroll 1
      for (int col = col_; col < n_cols_; col += kPieceCols) {
        Copy(to, from);
        from += kPieceCols;
        to += kPieceCols / 32 * 64 * n_rows_;
      }
    }
  }
  __device__ __forceinline__ void Await() const {
    Patience patience;
    while (true) {
      asm volatile("cp.async.wait_all;" ::: "memory");
      bool all = true;
#pragma unroll 1
      for (int row = 0; row < n_rows_; ++row) {
        const uint16_t* from = From(row);
        char* to = to_ + row * 64;
#pragma unroll 1
        for (int col = col_; col < n_cols_; col += kPieceCols) {
          if (!AllThere16(LoadShared16(SharedAddress(to)))) {
            Copy(SharedAddress(to), from);
            all = false;
          }
          from += kPieceCols;
          to += kPieceCols / 32 * 64 * n_rows_;
        }
      }
      if (all) return;
      patience.Spend();
    }
  }

 private:
  __device__ __forceinline__ const uint16_t* From(int row) const {
    return in_ + (src_ != nullptr ? __ldcg(src_ + row) : row) * stride_ + first_;
  }
  static __device__ __forceinline__ void Copy(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  }

  const int col_;
  const uint16_t* const in_;
  const int stride_;
  const int32_t* const src_;
  const int n_rows_;
  int first_ = 0, n_cols_ = 0;
  char* to_ = nullptr;
};

// --- The sums of a product ---

// Where the workers are in the ring, and how many groups they have finished.
struct Progress {
  int stage = 0;
  uint32_t parity = 0;
  uint32_t n_groups = 0;
};

// What a thread multiplies with: its lane's place in tiles and in the input.
class Multiplier {
 public:
  __device__ __forceinline__ Multiplier(const Product& product, int n_rows)
      : n_stages_(Common().params.n_stages),
        in_dim_(product.tiles.in_dim),
        chunk_bytes_(n_rows * 64),
        warp_(Thread() / 32),
        lane_(Thread() % 32),
        has_row_(lane_ / 4 < n_rows),
        tile_(Ring() + (lane_ / 4) * kRowPitch + warp_ * 128 + lane_ % 4 * 16),
        in_offset_((warp_ * 2 * n_rows + lane_ / 4) * 64 + lane_ % 4 * 16),
        full_(SharedAddress(Common().full)),
        empty_(SharedAddress(Common().empty)) {}

  // Tiles of columns begin .. end; `input` holds them from column `begin` on.
  __device__ __forceinline__ void AddTiles(int begin, int end, const char* input, Progress& progress,
                                           float (&sum)[4]) const {
    // Lanes that have no row bring zeros.
    const char* in = has_row_ ? input + in_offset_ : reinterpret_cast<const char*>(Common().zeros);
    const int next_chunk = has_row_ ? chunk_bytes_ : 0;
    int k = begin;
#pragma unroll 1
    for (; k + kTileCols <= end; k += kTileCols, in += 16 * next_chunk) {
      const char* tile = tile_ + progress.stage * kTileBytes;
      WaitFor(full_ + 8 * progress.stage, progress.parity);
      const uint4 low = At(tile), high = At(tile + 8 * kRowPitch), x = At(in);
      const uint4 next_low = At(tile + 64), next_high = At(tile + 8 * kRowPitch + 64),
                  y = At(in + next_chunk);
      strands::AddChunk(sum, low, high, x);
      strands::AddChunk(sum, next_low, next_high, y);
      Release(progress);
    }
    if (k >= end) return;
    WaitFor(full_ + 8 * progress.stage, progress.parity);
#pragma unroll 1
    for (int u = 0; u < 2; ++u) {
      if (k + warp_ * 64 + u * 32 >= in_dim_) break;
      const char* tile = tile_ + progress.stage * kTileBytes + u * 64;
      strands::AddChunk(sum, At(tile), At(tile + 8 * kRowPitch), At(in + u * next_chunk));
    }
    Release(progress);
  }

 private:
  static __device__ __forceinline__ uint4 At(const char* p) { return *reinterpret_cast<const uint4*>(p); }
  __device__ __forceinline__ void Release(Progress& progress) const {
    __syncwarp();
    if (lane_ == 0) Arrive(empty_ + 8 * progress.stage);
    if (++progress.stage == n_stages_) progress.stage = 0, progress.parity ^= 1;
  }

  const int n_stages_, in_dim_, chunk_bytes_, warp_, lane_;
  const bool has_row_;
  const char* const tile_;
  const int in_offset_;
  const uint32_t full_, empty_;
};

// Ends the outputs of groups, in rising order: thread i output i % 16 of row i / 16; gated, i % 8 of row i / 8.
class Finisher {
 public:
  // `first`: the first of them.
  __device__ __forceinline__ Finisher(const Product& product, int first, int n_rows)
      : product_(product),
        thread_(Thread()),
        n_rows_(n_rows),
        output_(product.output),
        shift_(output_ == Output::kGated ? 3 : 4),
        row_(thread_ >> shift_),
        place_(thread_ & ((1 << shift_) - 1)) {
    Enter(0);
    if (gain_ == nullptr || row_ >= n_rows) return;
    for (int group = first; group < product.tiles.n_groups; group += static_cast<int>(gridDim.x)) {
      asm volatile("prefetch.global.L1 [%0];" ::"l"(gain_ + group * kTileRows + place_));
    }
  }

  __device__ __forceinline__ void Finish(int group, const float (&sum)[4], Progress& progress) {
    float* sums = Common().sums[progress.n_groups++ & 1][0][0];
    const int lane = thread_ % 32, g = lane / 4, t = lane % 4;
    float* mine = sums + (thread_ / 32 * kMaxRows + 2 * t) * kSumPitch + g;
    if (2 * t < n_rows_) mine[0] = sum[0], mine[8] = sum[2];
    if (2 * t + 1 < n_rows_) mine[kSumPitch] = sum[1], mine[kSumPitch + 8] = sum[3];
    Meet();
    if (row_ >= n_rows_) return;
    while (group >= end_) Enter(segment_ + 1);
    const int output = ((group - begin_) << shift_) + place_;
    if (output >= n_outputs_) return;
    const float value = Total(sums, 0, bias_, output);
    float* out = out_ + output;
    switch (output_) {
      case Output::kF32:
        StoreRelaxed(out, value);
        break;
      case Output::kResidual: {
        float& old = Common().residual[group / static_cast<int>(gridDim.x)][row_][place_];
        old = (old_ != nullptr ? __ldcg(old_ + output) : old) + value;
        if (gain_ == nullptr) break;  // nobody reads it
        StoreBf16(reinterpret_cast<uint16_t*>(out_) + output, old * gain_[output]);
        const float sum = strands::GroupSum(0xffffu << (thread_ & 16), old * old);
        if (place_ == 0) StoreRelaxed(squares_ + group, sum);
        break;
      }
      case Output::kGated: {
        const float up = Total(sums, 8, up_bias_, output);
        StoreBf16(reinterpret_cast<uint16_t*>(out_) + output, value / (1.f + expf(-value)) * up);
        break;
      }
      case Output::kLogits:
        *out = value;
        break;
    }
  }

 private:
  __device__ __forceinline__ void Enter(int segment) {
    segment_ = segment;
    const Tiles& tiles = product_.tiles;
    const bool last = output_ == Output::kGated || segment + 1 == kMaxSegments;
    begin_ = tiles.first_group[segment];
    end_ = last ? 1 << 30 : tiles.first_group[segment + 1];
    n_outputs_ = tiles.n_outputs[segment];
    if (row_ >= n_rows_) return;
    const Segment& to = product_.segment[segment];
    const int turn = Common().turn;
    const int64_t row = product_.dst != nullptr ? __ldcg(product_.dst + row_) : row_;
    bias_ = to.bias;
    gain_ = to.gain;
    squares_ = output_ == Output::kResidual
                   ? to.squares.at<float>(turn) + row_ * (n_outputs_ / strands::kSquares)
                   : nullptr;
    up_bias_ = output_ == Output::kGated ? product_.segment[1].bias : nullptr;
    old_ = to.old.data != nullptr ? to.old.at<float>(turn) + row_ * to.out_stride : nullptr;
    const bool bf16 = output_ == Output::kGated || output_ == Output::kResidual;
    out_ = bf16 ? reinterpret_cast<float*>(to.out.at<uint16_t>(turn) + row * to.out_stride)
                : to.out.at<float>(turn) + row * to.out_stride;
  }
  __device__ __forceinline__ float Total(const float* sums, int from, const float* bias, int output) const {
    const float* at = sums + row_ * kSumPitch + place_ + from;
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWorkers; ++s) total += at[s * kMaxRows * kSumPitch];
    if (product_.scaled) total *= Common().scale[row_];
    return bias != nullptr ? total + bias[output] : total;
  }

  const Product& product_;
  const int thread_, n_rows_;
  const Output output_;
  const int shift_, row_, place_;
  int segment_ = 0, begin_ = 0, end_ = 0, n_outputs_ = 0;
  const float *bias_ = nullptr, *up_bias_ = nullptr, *old_ = nullptr, *gain_ = nullptr;
  float *out_ = nullptr, *squares_ = nullptr;  // out_: of bf16 values too
};

// The input by slabs, two of which fit: the next one is asked for while one is multiplied. At most two groups a block.
__device__ __forceinline__ void MultiplySlabs(const Product& product, const Multiplier& multiplier,
                                              Finisher& finisher, int first, int n_rows, Progress& progress) {
  static_assert(kMaxHeld == 2);
  const int in_dim = product.tiles.in_dim, slab_cols = product.tiles.slab_tiles * kTileCols;
  const int half_bytes = Common().params.work_bytes / 2, second = first + static_cast<int>(gridDim.x);
  const bool two = second < product.tiles.n_groups;
  float sum[4] = {0, 0, 0, 0}, second_sum[4] = {0, 0, 0, 0};
  Pieces pieces(product, n_rows);
  // The first turn only loads.
#pragma unroll 1
  for (int col = -slab_cols, half = 1; col < in_dim; col += slab_cols, half ^= 1) {
    const int next = col + slab_cols;
    pieces.Begin(next, max(0, min(slab_cols, in_dim - next)), Work() + (half ^ 1) * half_bytes);
    pieces.Ask();
    const char* work = Work() + half * half_bytes;
    const int end = min(next, in_dim);
#pragma unroll 1
    for (int held = 0; held < (col < 0 ? 0 : two ? 2 : 1); ++held) {
      multiplier.AddTiles(col, end, work, progress, sum);
#pragma unroll
      for (int i = 0; two && i < 4; ++i) {  // the other group's turn
        const float other = second_sum[i];
        second_sum[i] = sum[i];
        sum[i] = other;
      }
    }
    pieces.Await();
    Meet();
  }
  finisher.Finish(first, sum, progress);
  if (two) finisher.Finish(second, second_sum, progress);
}

__device__ __forceinline__ void RunProduct(const Product& product, Round& round, Progress& progress) {
  const int n_rows = product.tiles.count == 0 ? Common().n_rows : Common().n_logits;
  if (n_rows == 0) return;
  const int first = round.Next(product.tiles), n_groups = product.tiles.n_groups,
            in_dim = product.tiles.in_dim;
  if (first >= n_groups) return;
  // What does not need the input comes before it.
  const Multiplier multiplier(product, n_rows);
  Finisher finisher(product, first, n_rows);
  if (product.tiles.slab_tiles * kTileCols < in_dim) {
    MultiplySlabs(product, multiplier, finisher, first, n_rows, progress);
    return;
  }
  if (product.input == Input::kBf16) {
    Pieces pieces(product, n_rows);
    Scales scales(product, n_rows);
    pieces.Begin(0, in_dim, Work());
    if (in_dim * n_rows > 2 * kPieceCols) pieces.AwaitLast();
    pieces.Ask();
    scales.Ask();
    pieces.Await();
    Meet();
    Mark(1);
    scales.Take();  // wanted at the end of a group
  } else {
    LoadFirst(product, n_rows);
    Meet();
    Mark(1);
  }
#pragma unroll 1
  for (int group = first; group < n_groups; group += static_cast<int>(gridDim.x)) {
    float sum[4] = {0, 0, 0, 0};
    multiplier.AddTiles(0, in_dim, Work(), progress, sum);
    finisher.Finish(group, sum, progress);
  }
  Mark(2);
}

// The head of a row that a warp holds: values lane + 32 j and, half a head later, their partners. As rope_cuda.cu rotates.
template <int D>
struct Head {
  float low[D / 64] = {}, high[D / 64] = {};

  __device__ __forceinline__ void Look(const float* from) {
    const int lane = Thread() % 32;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      low[j] = LoadRelaxed(from + lane + 32 * j);
      high[j] = LoadRelaxed(from + D / 2 + lane + 32 * j);
    }
  }
  __device__ __forceinline__ void Await(const float* from) {
    Patience patience;
    while (true) {
      bool all = true;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) all &= IsThere(low[j]) && IsThere(high[j]);
      if (all) return;
      patience.Spend();
      Look(from);
    }
  }
};

__device__ __forceinline__ float HeadSum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}

// What rotates a head: loaded before the head is there.
template <int D>
struct Rotation {
  float cos[D / 64], sin[D / 64], low_gain[D / 64], high_gain[D / 64];
  bool norm;
  float eps;

  __device__ __forceinline__ Rotation(const float* gain, float given_eps, const float* cos_sin)
      : norm(gain != nullptr), eps(given_eps) {
    const int lane = Thread() % 32;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const int i = lane + 32 * j;
      cos[j] = __ldcg(cos_sin + i);
      sin[j] = __ldcg(cos_sin + D / 2 + i);
      low_gain[j] = norm ? gain[i] : 1;
      high_gain[j] = norm ? gain[D / 2 + i] : 1;
    }
  }
  __device__ __forceinline__ void Turn(Head<D>& head) const {
    if (norm) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) sum = fmaf(head.low[j], head.low[j], sum);
#pragma unroll
      for (int j = 0; j < D / 64; ++j) sum = fmaf(head.high[j], head.high[j], sum);
      const float scale = 1.f / sqrtf(HeadSum(sum) / static_cast<float>(D) + eps);
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        head.low[j] = head.low[j] * scale * low_gain[j];
        head.high[j] = head.high[j] * scale * high_gain[j];
      }
    }
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const float a = head.low[j], b = head.high[j];
      head.low[j] = a * cos[j] - b * sin[j];
      head.high[j] = b * cos[j] + a * sin[j];
    }
  }
};

// The forward's rows, one a lane.
__device__ __forceinline__ packed_attention::FirstRows RowsOfForward() {
  const int lane = Thread() % 32;
  if (lane >= kMaxRows) return {Common().n_rows, -1, 0};
  return {Common().n_rows, Common().slot[lane], Common().position[lane]};
}

template <int D>
class StreamAttention : packed_attention::Packed<D, 1> {
  using Base = packed_attention::Packed<D, 1>;
  static constexpr int kQueries = packed_attention::kQueries;
  static constexpr int kCluster = packed_attention::kCluster;
  static constexpr int kBlockKeys = packed_attention::kBlockKeys;

 public:
  __device__ __forceinline__ StreamAttention(const Attend& attend, int kv_head, int rank, int32_t first_page)
      : Base(attend.attention, kv_head, rank, reinterpret_cast<float*>(Work()), Common().params.n_sums),
        attend_(attend),
        turn_(Common().turn),
        n_rows_(Common().n_rows),
        first_rows_(RowsOfForward()),
        first_page_(first_page) {}

  __device__ __forceinline__ void Run(const packed_attention::Task& task) {
    this->Begin(task, first_rows_);
    // Keys from here on are this forward's.
    const int lane = Thread() % 32;
    const bool ours = lane < n_rows_ && first_rows_.slot == this->slot_;
    const int first_new = __reduce_min_sync(~0u, ours ? first_rows_.position : 0x7fffffff);
    const int first = this->first_key();
    int64_t at = 0;  // of the first key, in bytes
    // All that is loaded on a condition begins as 0: else registers would be kept for it through the whole program.
    typename Base::Keys keys = {};
    if (first < this->n_keys_) at = FirstByte(first);
    const bool early = first + packed_attention::kWarpKeys <= min(first_new, this->n_keys_);
    if (early) {
      this->LoadKeysAt(first, keys, ByteOf{first, at});
      FetchValues(at);
    }
    StoreQueries();
    AppendRows();
    Meet();
    Mark(1);
    if (!early && first < this->n_keys_) this->LoadKeysAt(first, keys, ByteOf{first, at});
    // Registers hold 64 values of a head at a time, and the next ones on their way. What fits into one turn of the blocks is
    // scored once for all of them.
    const bool once = this->n_keys_ <= kCluster * kBlockKeys, mine = first < this->n_keys_;
    typename Base::Scores score = {};
    typename Base::Values values = {}, next = {};
    if (mine) {
      this->LoadValuesAt(first, 0, values, ByteOf{first, at});
      this->Score(first, keys, score);
    }
#pragma unroll 1
    for (int half = 0; half < D / 64; ++half) {
      if (once && mine) {
        if (half + 1 < D / 64) this->LoadValuesAt(first, half + 1, next, ByteOf{first, at});
        this->Accumulate(first, half, score, values);
      } else if (mine) {
        AccumulateAll(half, at, score, values);
      }
      if (half == 0) this->ShareScores();
      this->ShareSums(half);
      this->ResetSums();
      values = next;
    }
    Mark(2);
    Send();
    Finish();
  }

 private:
  // A page holds a multiple of 16 keys.
  struct ByteOf {
    int first;
    int64_t at;
    __device__ __forceinline__ int64_t operator()(int key) const { return at + (key - first) * (D * 2); }
  };
  // More keys than one turn: the first ones, scored already in the first half, and those of later turns.
  __device__ __forceinline__ void AccumulateAll(int half, int64_t at, typename Base::Scores& score,
                                                typename Base::Values& values) {
    if (half > 0) this->ResetScores();
#pragma unroll 1
    for (int first = this->first_key(); first < this->n_keys_; first += kCluster * kBlockKeys) {
      if (half > 0 || first != this->first_key()) {
        at = FirstByte(first);
        typename Base::Keys keys = {};
        this->LoadKeysAt(first, keys, ByteOf{first, at});
        this->LoadValuesAt(first, half, values, ByteOf{first, at});
        this->Score(first, keys, score);
      }
      this->Accumulate(first, half, score, values);
    }
  }
  // Where the first keys of a block lie is the same in every layer.
  __device__ __forceinline__ int64_t FirstByte(int first) const {
    const KvLayer& kv = this->args_.kv;
    const int32_t page =
        first == this->first_key() && first_page_ >= 0
            ? first_page_
            : __ldg(kv.page_table + static_cast<int64_t>(this->slot_) * kv.max_pages + first / kv.page_size);
    return ((static_cast<int64_t>(page) * kv.n_kv_heads + this->kv_head_) * kv.page_size +
            first % kv.page_size) *
           D * 2;
  }
  // This warp's 16 values into the second-level cache: a line a lane.
  __device__ __forceinline__ void FetchValues(int64_t at) const {
    constexpr int kLine = 128;
    const int lane = Thread() % 32;
    if (lane * kLine < packed_attention::kWarpKeys * D * 2) {
      asm volatile(
          "prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(this->args_.kv.v) + at + lane * kLine));
    }
  }

  // A warp a query at a time. What is left in the places of others does not count: they see no key.
  __device__ __forceinline__ void StoreQueries() const {
    const int warp = Thread() / 32, lane = Thread() % 32;
    const float scale = this->query_scale();
#pragma unroll 1
    for (int query = warp; query < this->n_queries_; query += kWorkers) {
      Head<D> head;
      const float* from = attend_.q.template at<float>(turn_) + this->QueryOffset(query);
      head.Look(from);
      const Rotation<D> rotation(
          attend_.q_norm, attend_.norm_eps,
          attend_.cos_sin + static_cast<int64_t>(this->task_.row + query / this->group_) * D);
      head.Await(from);
      rotation.Turn(head);
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
    *reinterpret_cast<uint16_t*>(this->shared_ + query * Base::kQueryPitch + at * 2) =
        static_cast<uint16_t>(high);
    *reinterpret_cast<uint16_t*>(this->shared_ + (kQueries + query) * Base::kQueryPitch + at * 2) =
        static_cast<uint16_t>(low);
  }

  // The sequence's new keys and values that this block attends to. Blocks of other tasks write the same ones again.
  __device__ __forceinline__ void AppendRows() const {
    const int warp = Thread() / 32, lane = Thread() % 32;
    const KvLayer& kv = this->args_.kv;
#pragma unroll 1
    for (int r = 0; r < n_rows_; ++r) {
      const int slot = __shfl_sync(~0u, first_rows_.slot, r);
      const int position = __shfl_sync(~0u, first_rows_.position, r);
      // The last warps have the fewest queries.
      const bool takes = kWorkers - 1 - r % kWorkers == warp && slot == this->slot_ &&
                         position < this->n_keys_ && position / kBlockKeys % kCluster == this->rank_;
      if (!takes) continue;
      const int64_t from = (static_cast<int64_t>(r) * kv.n_kv_heads + this->kv_head_) * D;
      const int64_t to = kv.offset(slot, this->kv_head_, position);
      const float *k = attend_.k.template at<float>(turn_) + from,
                  *v = attend_.v.template at<float>(turn_) + from;
      Head<D> key, value;
      value.Look(v);
      key.Look(k);
      const Rotation<D> rotation(attend_.k_norm, attend_.norm_eps,
                                 attend_.cos_sin + static_cast<int64_t>(r) * D);
      value.Await(v);
      Append(kv.v, to, lane, value);
      key.Await(k);
      rotation.Turn(key);
      Append(kv.k, to, lane, key);
    }
  }
  __device__ __forceinline__ static void Append(void* cache, int64_t to, int lane, const Head<D>& head) {
    auto* at = static_cast<uint16_t*>(cache) + to;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      at[lane + 32 * j] = static_cast<uint16_t>(strands::RoundPair(head.low[j], 0));
      at[D / 2 + lane + 32 * j] = static_cast<uint16_t>(strands::RoundPair(head.high[j], 0));
    }
  }

  // Of a query: [rank], before D values each.
  __device__ __forceinline__ int64_t SumsOf(int rank, int query) const {
    return this->QueryOffset(query) / D * kCluster + rank;
  }

  // This block's sums to memory.
  __device__ __forceinline__ void Send() const {
    float* sums = attend_.sums.template at<float>(turn_);
    float* stats = attend_.stats.template at<float>(turn_);
    for (int i = Thread(); i < this->n_queries_ * (D / 4); i += kWorkerThreads) {
      const int query = i / (D / 4), quad = i % (D / 4);
      const int64_t to = SumsOf(this->rank_, query);
      const float4 v = this->BlockSum(query, quad * 4);
      asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(sums + to * D + quad * 4),
                   "r"(Present(v.x)), "r"(Present(v.y)), "r"(Present(v.z)), "r"(Present(v.w))
                   : "memory");
      if (quad == 0) {
        asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(stats + to * 2),
                     "r"(Present(this->BlockMax(query))), "r"(Present(this->BlockTotal(query)))
                     : "memory");
      }
    }
  }

  // Of every query, this block's values, from what all blocks of the task have sent.
  __device__ __forceinline__ void Finish() const {
    constexpr int kQuads = Base::kPart / 4;
    const float* all_sums = attend_.sums.template at<float>(turn_);
    const float* all_stats = attend_.stats.template at<float>(turn_);
    for (int i = Thread(); i < this->n_queries_ * kQuads; i += kWorkerThreads) {
      const int query = i / kQuads, at = this->rank_ * Base::kPart + i % kQuads * 4;
      const float* from = all_sums + SumsOf(0, query) * D + at;
      const float* from_stats = all_stats + SumsOf(0, query) * 2;
      float2 stats[kCluster] = {};
      float4 sums[kCluster] = {};
      Patience patience;
      while (true) {
#pragma unroll
        for (int r = 0; r < kCluster; ++r) {
          sums[r] = Float4(LoadRelaxed16(from + r * D));
          stats[r] = LoadRelaxed8(from_stats + r * 2);
        }
        bool all = true;
#pragma unroll
        for (int r = 0; r < kCluster; ++r)
          all &= AllThere(sums[r]) && IsThere(stats[r].x) && IsThere(stats[r].y);
        if (all) break;
        patience.Spend();
      }
      const float4 v = this->Merge(stats, sums);
      const uint32_t low = strands::RoundPair(v.x, v.y), high = strands::RoundPair(v.z, v.w);
      asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(
                       attend_.out.template at<uint16_t>(turn_) + this->QueryOffset(query) + at),
                   "r"(low), "r"(high)
                   : "memory");
    }
  }

  const Attend& attend_;
  const int turn_, n_rows_;
  const packed_attention::FirstRows first_rows_;
  const int32_t first_page_;  // of this warp's first keys; -1: not known
};

// What a block does first in every layer's attention, looked up once.
struct FirstShare {
  packed_attention::Task task = {0, 0};
  int32_t page = -1;  // of this warp's first keys
};
__device__ __forceinline__ int ShareBlocks() {
  return static_cast<int>(gridDim.x) / packed_attention::kCluster * packed_attention::kCluster;
}
__device__ __forceinline__ packed_attention::Task TaskOf(const AttentionArgs& args, int item) {
  const int n_kv_heads = args.kv.n_kv_heads;
  return packed_attention::FindTask(Common().params.rows, RowsOfForward(),
                                    packed_attention::kQueries / (args.n_heads / n_kv_heads),
                                    item / packed_attention::kCluster / n_kv_heads);
}
__device__ __forceinline__ FirstShare FindFirstShare() {
  const AttentionArgs& args = Common().params.attention;
  const int block = static_cast<int>(blockIdx.x);
  FirstShare first;
  if (block >= ShareBlocks() || Common().n_rows == 0) return first;
  first.task = TaskOf(args, block);
  if (first.task.n_rows == 0) return first;
  const int key = block % packed_attention::kCluster * packed_attention::kBlockKeys +
                  Thread() / 32 * packed_attention::kWarpKeys;
  if (key <= Common().position[first.task.row + first.task.n_rows - 1]) {
    first.page =
        __ldg(args.kv.page_table + static_cast<int64_t>(Common().slot[first.task.row]) * args.kv.max_pages +
              key / args.kv.page_size);
  }
  return first;
}

template <int D>
__device__ __forceinline__ void RunAttention(const Attend& attend, FirstShare first) {
  constexpr int kCluster = packed_attention::kCluster;
  const int n_kv_heads = attend.attention.kv.n_kv_heads, block = static_cast<int>(blockIdx.x);
  // Blocks that share a task take their turns at the same time.
  const int n_blocks = ShareBlocks();
  packed_attention::Task task = first.task;
  for (int item = block; task.n_rows != 0; item += n_blocks) {
    const int share = item / kCluster;
    StreamAttention<D>(attend, share % n_kv_heads, item % kCluster, item == block ? first.page : -1)
        .Run(task);
    Meet();
    // Of every row there is at most one task.
    if ((item + n_blocks) / kCluster >= Common().n_rows * n_kv_heads) break;
    task = TaskOf(attend.attention, item + n_blocks);
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

__device__ __forceinline__ void RunWorkers(const Params& params) {
  FetchStep(params.steps, Common().step);
  ClearOtherHalf(params, Common().turn);
  const FirstShare first = FindFirstShare();
  Round round;
  Progress progress;
  AwaitFetched();
  Meet();
#pragma unroll 1
  for (int s = 0; s < params.n_steps; ++s) {
    const StreamStep& step = Common().step[s & 1];
    if (threadIdx.x == 0) Common().n_done = s;
    Mark(0);
    if (s + 1 < params.n_steps) FetchStep(params.steps + s + 1, Common().step + ((s + 1) & 1));
    if (step.kind == Kind::kProduct) {
      RunProduct(step.product, round, progress);
    } else if (step.attend.attention.kv.head_dim == 64) {
      RunAttention<64>(step.attend, first);
    } else {
      RunAttention<128>(step.attend, first);
    }
    AwaitFetched();
    Meet();
    Mark(3);
  }
  if (threadIdx.x == 0) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(params.turn + 1)
                 : "memory");
    if (before == gridDim.x - 1) {
      params.turn[1] = 0;
      ++params.turn[0];
    }
  }
}
#endif  // TANDEM_SM90

__global__ void __launch_bounds__(kThreads, 1) RunStream(const __grid_constant__ Params given) {
#ifdef TANDEM_SM90
  Fixed& common = Common();
  const int thread = threadIdx.x;
  for (int i = thread; i < static_cast<int>(sizeof(Params) / 4); i += kThreads) {
    reinterpret_cast<uint32_t*>(&common.params)[i] = reinterpret_cast<const uint32_t*>(&given)[i];
  }
  if (thread < kMaxRows) {
    const bool is_row = thread < given.rows.capacity;
    common.slot[thread] = is_row ? __ldcg(given.rows.slot + thread) : -1;
    common.position[thread] = is_row ? __ldcg(given.rows.position + thread) : 0;
  }
  if (thread < 16) reinterpret_cast<uint32_t*>(common.zeros)[thread] = 0;
  if (thread == 0) {
    for (int i = 0; i < given.n_stages; ++i) {
      InitBarrier(SharedAddress(common.full + i), 1);
      InitBarrier(SharedAddress(common.empty + i), kWorkers);
    }
    PublishBarriers();
    const uint32_t launch = __ldcg(given.turn);
    common.turn = static_cast<int32_t>(launch & 1);
    common.n_rows = min(__ldcg(given.n_rows[0]), kMaxRows);
    common.n_logits = min(__ldcg(given.n_rows[1]), kMaxRows);
  }
  __syncthreads();
  if (thread >= kWorkerThreads) {
    Copier(common.params).Run(common.params, common.n_rows, common.n_logits);
  } else {
    RunWorkers(common.params);
  }
#endif
}

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_
