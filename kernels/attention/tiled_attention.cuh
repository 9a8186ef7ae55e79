// The device code of attention for forwards of many rows: attention_cuda.cu explains it.
#ifndef TANDEM_KERNELS_ATTENTION_TILED_ATTENTION_CUH_
#define TANDEM_KERNELS_ATTENTION_TILED_ATTENTION_CUH_

#include "kernels/attention/attention.h"
#include "kernels/attention/packed_attention.cuh"
#include "kernels/cuda.cuh"

namespace tandem::tiled_attention {

constexpr int kWarpQueries = 16;
constexpr int kKeys = 64;   // of a tile
constexpr int kStages = 3;  // tiles of keys and values in shared memory

// The tiles, and a half of every thread's part of the queries.
template <int D, int kWarps>
constexpr int SharedBytes() {
  return kStages * 2 * kKeys * D * 2 + kWarps * 32 * (D / 16) * 16;
}

// Rows of one sequence that follow each other in the plan.
struct Run {
  int row;
  int n_rows;  // 0: no such run
};

#ifdef TANDEM_SM90

// The index-th run among n_rows rows. Bit r of `begins`: at row r one begins.
template <int kWords>
__device__ __forceinline__ Run FindRun(const uint32_t (&begins)[kWords], int n_rows, int index) {
  Run run = {0, 0};
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    for (uint32_t left = begins[w]; left != 0; left &= left - 1, --index) {
      const int at = w * 32 + __ffs(static_cast<int>(left)) - 1;
      if (index == 0) run = {at, n_rows - at};
      if (index == -1) run.n_rows = at - run.row;  // a run ends where the next one begins
    }
  }
  return run;
}

// 16 bytes to shared memory, zeros if not `wanted`.
__device__ __forceinline__ void CopyAsync(uint32_t to, const char* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// For all of this thread's groups of copies but the last kPending.
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit values: lane l brings the address of row l % 8 of matrix l / 8, and gets of each values
// 2 (l % 4) and the next one of row l / 4; of column l / 4, if transposed.
__device__ __forceinline__ uint4 LoadMatrices(uint32_t row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(row)
               : "memory");
  return v;
}
__device__ __forceinline__ uint4 LoadTransposed(uint32_t row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(row)
               : "memory");
  return v;
}

// A block of kWarps warps. No bit depends on their number.
template <int D, int kWarps>
class Tiled {
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTileBytes = kKeys * D * 2;  // of keys; values likewise
  static constexpr int kChunks = D / 8;             // 16 bytes each, of a key
  static constexpr int kCopyStep = kThreads / kChunks;
  static constexpr int kCopies = kKeys / kCopyStep;  // of keys by a thread; of values likewise
  static_assert(32 % kCopyStep == 0);

 public:
  static constexpr int kQueries = kWarps * kWarpQueries;
  // `shared`: SharedBytes<D, kWarps>() bytes, aligned to 128. `rounded`: where outputs go as bf16, if not to args.out.
  __device__ __forceinline__ Tiled(const AttentionArgs& args, int kv_head, char* shared, uint16_t* rounded)
      : args_(args),
        kv_head_(kv_head),
        group_(args.n_heads / args.kv.n_kv_heads),
        shared_(shared),
        rounded_(rounded),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / 32),
        lane_(thread_ % 32),
        g_(lane_ / 4),
        t_(lane_ % 4) {}

  // For the whole block; up to kQueries / group rows.
  __device__ __forceinline__ void Attend(const Run& run) {
    row_ = run.row;
    n_queries_ = run.n_rows * group_;
    slot_ = __ldcg(args_.rows.slot + run.row);
    const int first_position = __ldcg(args_.rows.position + run.row);
    n_keys_ = __ldcg(args_.rows.position + run.row + run.n_rows - 1) + 1;
    const int n_tiles = (n_keys_ + kKeys - 1) / kKeys;
    __syncthreads();  // the last run's tiles are used
    int32_t rows[kKeys / 32];
#pragma unroll
    for (int tile = 0; tile < kStages - 1; ++tile) {
      if (tile < n_tiles) {
        FindRows(tile, rows);
        CopyTile(rows, tile);
      }
      CommitCopies();
    }
    FindRows(kStages - 1, rows);
    LoadQueries();
    int stage = 0;
    for (int tile = 0; tile < n_tiles; ++tile) {
      WaitCopies<kStages - 2>();
      int bad = 0;
      if ((tile + 1) * kKeys <= first_position + 1) {
        __syncthreads();
      } else {  // some query does not see some key
        bad = __syncthreads_or(TakeOutNonFinite(stage));
      }
      const int free_stage = stage == 0 ? kStages - 1 : stage - 1;
      if (tile + kStages - 1 < n_tiles) CopyTile(rows, free_stage);
      CommitCopies();
      FindRows(tile + kStages, rows);  // a tile ahead: it waits for the page table
      if (tile * kKeys <= last_position_) AddTile(tile * kKeys, stage, bad != 0);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
    Store();
  }

 private:
  // Where in the cache keys `lane` and `lane` + 32 of a tile are, in rows of D values; -1: behind the last one.
  __device__ __forceinline__ void FindRows(int tile, int32_t (&rows)[kKeys / 32]) const {
#pragma unroll
    for (int half = 0; half < kKeys / 32; ++half) {
      const int key = tile * kKeys + half * 32 + lane_;
      rows[half] = key < n_keys_ ? static_cast<int32_t>(args_.kv.offset(slot_, kv_head_, key) / D) : -1;
    }
  }
  __device__ __forceinline__ void CopyTile(const int32_t (&rows)[kKeys / 32], int stage) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int key = thread_ / kChunks + i * kCopyStep;
      const int32_t row = __shfl_sync(~0u, rows[i * kCopyStep / 32], key % 32);
      const int64_t offset = int64_t{row < 0 ? 0 : row} * (D * 2) + thread_ % kChunks * 16;
      CopyAsync(SharedAddress(TileOf(stage, 0) + MyChunk(i)), static_cast<const char*>(args_.kv.k) + offset,
                row >= 0);
      CopyAsync(SharedAddress(TileOf(stage, 1) + MyChunk(i)), static_cast<const char*>(args_.kv.v) + offset,
                row >= 0);
    }
  }
  __device__ __forceinline__ char* TileOf(int stage, int side) const {
    return shared_ + (stage * 2 + side) * kTileBytes;
  }
  // Neighbouring keys' chunks stand in different banks.
  static __device__ __forceinline__ int ChunkAt(int key, int chunk) {
    return key * (D * 2) + chunk / 8 * 128 + (chunk % 8 ^ key % 8) * 16;
  }
  __device__ __forceinline__ int MyChunk(int i) const {
    return ChunkAt(thread_ / kChunks + i * kCopyStep, thread_ % kChunks);
  }

  // Puts 0 in the place of this thread's values of a tile that are not finite; true if there were any.
  __device__ __forceinline__ bool TakeOutNonFinite(int stage) const {
    bool bad = false;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      auto* at = reinterpret_cast<uint4*>(TileOf(stage, 1) + MyChunk(i));
      uint4 v = *at;
      if (!packed_attention::TakeOutNonFinite(v)) continue;
      *at = v;
      bad = true;
    }
    return bad;
  }

  __device__ __forceinline__ int64_t QueryOffset(int query) const {
    const int64_t row = row_ + query / group_;
    return (row * args_.n_heads + kv_head_ * group_ + query % group_) * D;
  }
  __device__ __forceinline__ int QueryOf(int i) const { return warp_ * kWarpQueries + g_ + i * 8; }

  // This thread's low parts of the queries: there are no registers for them.
  __device__ __forceinline__ uint4* LowQuery(int k) const {
    return reinterpret_cast<uint4*>(shared_ + kStages * 2 * kTileBytes) + k * kThreads + thread_;
  }
  __device__ __forceinline__ void LoadQueries() {
    const float scale = args_.scale * 1.44269504088896341f;  // log2(e) too: weights are powers of 2
    last_position_ = -1;
    const int last = min((warp_ + 1) * kWarpQueries, n_queries_) - 1;
    if (last >= warp_ * kWarpQueries) last_position_ = __ldcg(args_.rows.position + row_ + last / group_);
    first_position_ = n_keys_;
    const float* q[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = QueryOf(i);
      const bool exists = query < n_queries_;
      position_[i] = exists ? __ldcg(args_.rows.position + row_ + query / group_) : -1;
      first_position_ = min(first_position_, __reduce_min_sync(~0u, position_[i]));
      max_[i] = kMinusInfinity;
      total_[i] = 0;
      q[i] = args_.q + (exists ? QueryOffset(query) : 0) + t_ * 2;
    }
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t low[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float2 v = {0, 0};
        if (position_[e % 2] >= 0) v = __ldcg(reinterpret_cast<const float2*>(q[e % 2] + k * 16 + e / 2 * 8));
        packed_attention::Split(v.x * scale, v.y * scale, query_[k][e], low[e]);
      }
      *LowQuery(k) = {low[0], low[1], low[2], low[3]};
    }
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc_[j][e] = 0;
    }
  }

  // Scores, then weights: [keys 8 n + 2 t, 8 n + 2 t + 1][of queries g, g + 8].
  using Scores = float[kKeys / 8][4];

  __device__ __forceinline__ void AddTile(int first, int stage, bool bad) {
    Scores score;
    Score(stage, score);
    Softmax(first, score);
    AddValues(stage, score);
    if (bad) AddNonFinite(first, score);
  }

  // Four products at a time that do not wait for each other.
  __device__ __forceinline__ void Score(int stage, Scores& score) const {
    const uint32_t keys = SharedAddress(TileOf(stage, 0));
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) score[n][e] = 0;
    }
#pragma unroll
    for (int k = 0; k < D / 16; k += 2) {
      const uint4 low_a = *LowQuery(k), low_b = *LowQuery(k + 1);
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 4) {
        uint4 key[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          key[j] = LoadMatrices(keys + ChunkAt((n + j) * 8 + lane_ % 8, k * 2 + lane_ / 8));
        const uint32_t(&a)[4] = query_[k], (&b)[4] = query_[k + 1];
#pragma unroll
        for (int j = 0; j < 4; ++j) MultiplyTiles(score[n + j], a[0], a[1], a[2], a[3], key[j].x, key[j].y);
#pragma unroll
        for (int j = 0; j < 4; ++j) MultiplyTiles(score[n + j], b[0], b[1], b[2], b[3], key[j].z, key[j].w);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          MultiplyTiles(score[n + j], low_a.x, low_a.y, low_a.z, low_a.w, key[j].x, key[j].y);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          MultiplyTiles(score[n + j], low_b.x, low_b.y, low_b.z, low_b.w, key[j].z, key[j].w);
      }
    }
  }

  __device__ __forceinline__ void Softmax(int first, Scores& score) {
    if (first + kKeys > first_position_ + 1) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (first + n * 8 + t_ * 2 + e % 2 > position_[e / 2]) score[n][e] = kMinusInfinity;
        }
      }
    }
    float keep[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float max = max_[i];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) max = fmaxf(max, fmaxf(score[n][i * 2], score[n][i * 2 + 1]));
      max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
      max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
      const float base = max == kMinusInfinity ? 0 : max;
      keep[i] = exp2f(max_[i] - base);
      float total = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = score[n][i * 2 + c];
          s = exp2f(s - base);
          total += s;
        }
      }
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      total_[i] = total_[i] * keep[i] + total;
      max_[i] = max;
    }
    // As a rule no maximum moves, and a product with 1 changes no bit.
    if (!__any_sync(~0u, keep[0] != 1 || keep[1] != 1)) return;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc_[j][e] *= keep[e / 2];
    }
  }

  __device__ __forceinline__ void AddValues(int stage, const Scores& weight) {
    const uint32_t values = SharedAddress(TileOf(stage, 1));
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float(&w)[4] = weight[k * 2 + e / 2];
        SplitWeights(w[e % 2 * 2], w[e % 2 * 2 + 1], high[e], low[e]);
      }
#pragma unroll
      for (int n = 0; n < D / 8; n += 4) {
        uint4 value[2];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          value[j] = LoadTransposed(values + ChunkAt(k * 16 + lane_ % 16, n + j * 2 + lane_ / 16));
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const uint32_t(&a)[4] = part == 0 ? high : low;
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            MultiplyTiles(acc_[n + j * 2], a[0], a[1], a[2], a[3], value[j].x, value[j].y);
            MultiplyTiles(acc_[n + j * 2 + 1], a[0], a[1], a[2], a[3], value[j].z, value[j].w);
          }
        }
      }
    }
  }
  // As packed_attention::Split. A weight is no infinity.
  static __device__ __forceinline__ void SplitWeights(float a, float b, uint32_t& high, uint32_t& low) {
    high = RoundPair(a, b);
    low = RoundPair(a - __uint_as_float(high << 16), b - __uint_as_float(high & 0xffff0000u));
  }

  // What TakeOutNonFinite took out, for the queries that see it. Rare.
  __device__ __forceinline__ void AddNonFinite(int first, const Scores& weight) {
#pragma unroll 1
    for (int pair = 0; pair < kKeys / 2; ++pair) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float even = 0, odd = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          const float e = weight[n][i * 2],
                      o = weight[n][i * 2 + 1];  // all of them: so they stay in registers
          even = n == pair / 4 ? e : even;
          odd = n == pair / 4 ? o : odd;
        }
        even = __shfl_sync(~0u, even, g_ * 4 + pair % 4);
        odd = __shfl_sync(~0u, odd, g_ * 4 + pair % 4);
        AddNonFinite(first + pair * 2, even, i);
        AddNonFinite(first + pair * 2 + 1, odd, i);
      }
    }
  }
  // Of one key, for query g or g + 8 (i = 1).
  __device__ __forceinline__ void AddNonFinite(int key, float weight, int i) {
    if (key > position_[i]) return;
    const auto* values = static_cast<const uint16_t*>(args_.kv.v) + args_.kv.offset(slot_, kv_head_, key);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint16_t bits = __ldcg(values + j * 8 + t_ * 2 + c);
        if ((bits & 0x7f80u) != 0x7f80u) continue;
        acc_[j][i * 2 + c] += weight * __uint_as_float(static_cast<uint32_t>(bits) << 16);
      }
    }
  }

  __device__ __forceinline__ void Store() const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = QueryOf(i);
      if (query >= n_queries_) continue;
      const int64_t to = QueryOffset(query) + t_ * 2;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        const float2 v = {acc_[j][i * 2] / total_[i], acc_[j][i * 2 + 1] / total_[i]};
        if (rounded_ != nullptr) {
          *reinterpret_cast<uint32_t*>(rounded_ + to + j * 8) = RoundPair(v.x, v.y);
        } else {
          *reinterpret_cast<float2*>(args_.out + to + j * 8) = v;
        }
      }
    }
  }

  const AttentionArgs& args_;
  const int kv_head_, group_;
  char* shared_;
  uint16_t* rounded_;
  const int thread_, warp_, lane_, g_, t_;
  int row_, slot_, n_queries_, n_keys_;  // of the run
  int first_position_, last_position_;   // of the warp's queries; -1: there are none, or fewer than 16
  int position_[2];                      // of queries g and g + 8; -1: no such query
  uint32_t query_[D / 16][4];            // high parts; scaled
  float max_[2];                         // of the scores times log2(e)
  float total_[2];                       // of the weights
  float acc_[D / 8][4];                  // [j]: queries g, g + 8; values 8 j + 2 t, 8 j + 2 t + 1
};

#endif  // TANDEM_SM90

}  // namespace tandem::tiled_attention

#endif  // TANDEM_KERNELS_ATTENTION_TILED_ATTENTION_CUH_
