// The device code of attention on tensor cores: attention_cuda.cu explains it. The two kernels that attend this way
// (attention_cuda.cu, kernels/stream) differ in where queries come from and how blocks exchange their sums.
#ifndef TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_CUH_
#define TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_CUH_

#include "kernels/attention/attention.h"
#include "kernels/cuda.cuh"

namespace tandem::packed_attention {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kCluster = 8;  // blocks that share a task
constexpr int kWarpKeys = 16;
constexpr int kBlockKeys = kWarps * kWarpKeys;
constexpr int kQueries = 16;  // of a task
constexpr int kSumSlots = 2;

// Shared memory of a block, in floats, for heads of D.
template <int D>
TANDEM_HD constexpr int FloatsOf() {
  constexpr int kQueryBytes = 2 * kQueries * (D * 2 + 64), kSumBytes = kSumSlots * kQueries * (D + 4) * 4;
  return (kQueryBytes > kSumBytes ? kQueryBytes : kSumBytes) / 4 + 2 * kWarps * kQueries;
}

#ifdef TANDEM_SM90

#define kMinusInfinity __int_as_float(0xff800000)

struct Task {
  int row;     // the first
  int n_rows;  // 0: no such task
};

// The first 32 rows of the plan, one a lane: loaded together with n_rows.
struct FirstRows {
  int n_rows;
  int slot, position;
};
__device__ __forceinline__ FirstRows LoadFirstRows(const RowPlan& rows) {
  const int lane = threadIdx.x % 32;
  FirstRows first = {0, -1, 0};
  if (lane < rows.capacity) {
    first.slot = __ldcg(rows.slot + lane);
    first.position = __ldcg(rows.position + lane);
  }
  first.n_rows = __ldcg(rows.n_rows);
  return first;
}

// The index-th task of the plan: runs of rows of one sequence, cut to rows_per_task. For a whole warp.
__device__ __forceinline__ Task FindTask(const RowPlan& rows, const FirstRows& first_rows, int rows_per_task,
                                int index) {
  const int lane = threadIdx.x % 32, n_rows = first_rows.n_rows;
  int n_tasks = 0, run = 0, last_slot = -1;
  Task task = {0, 0};
  for (int first = 0; first < n_rows; first += 32) {
    const int r = first + lane;
    const bool exists = r < n_rows;
    const int slot = !exists ? -2 : first == 0 ? first_rows.slot : __ldcg(rows.slot + r);
    int before = __shfl_up_sync(~0u, slot, 1);
    if (lane == 0) before = last_slot;
    const unsigned new_run = __ballot_sync(~0u, slot != before);
    // The last row at or before this one at which a run begins.
    const unsigned mine = new_run & (~0u >> (31 - lane));
    const int start = mine ? first + 31 - __clz(mine) : run;
    const unsigned begins = __ballot_sync(~0u, exists && (r - start) % rows_per_task == 0);
    for (unsigned left = begins; left != 0; left &= left - 1) {
      const int at = first + __ffs(left) - 1;
      if (task.n_rows < 0) {  // a task ends where the next one begins
        task.n_rows = at - task.row;
        return task;
      }
      if (n_tasks++ == index) task = {at, -1};
    }
    run = new_run ? first + 31 - __clz(new_run) : run;
    last_slot = __shfl_sync(~0u, slot, 31);
  }
  if (task.n_rows < 0) task.n_rows = n_rows - task.row;
  return task;
}

__device__ __forceinline__ uint32_t RoundPair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// Two values as packed pairs of bf16: x = high + low but for 2^-18 of it. An infinity's low part is 0.
__device__ __forceinline__ void Split(float a, float b, uint32_t& high, uint32_t& low) {
  high = RoundPair(a, b);
  const float fa = __uint_as_float(high << 16), fb = __uint_as_float(high & 0xffff0000u);
  low = RoundPair(isinf(fa) ? 0 : a - fa, isinf(fb) ? 0 : b - fb);
}

__device__ __forceinline__ uint4 Load16(const void* p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}

// Puts 0 in the place of infinities and NaNs; true if there were any.
__device__ __forceinline__ bool TakeOutNonFinite(uint32_t& pair) {
  uint32_t keep = ~0u;
  if ((pair & 0x7f80u) == 0x7f80u) keep &= 0xffff0000u;
  if ((pair & 0x7f800000u) == 0x7f800000u) keep &= 0x0000ffffu;
  pair &= keep;
  return keep != ~0u;
}
__device__ __forceinline__ bool TakeOutNonFinite(uint4& v) {
  const bool x = TakeOutNonFinite(v.x), y = TakeOutNonFinite(v.y);
  const bool z = TakeOutNonFinite(v.z), w = TakeOutNonFinite(v.w);
  return x || y || z || w;
}
__device__ __forceinline__ uint32_t Word(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Among the threads that attend.
__device__ __forceinline__ void Meet() { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); }

// A block's part of a task. D: head_dim.
template <int D>
class Packed {
 public:
  static constexpr int T = 1;                     // tiles of 16 queries
  static constexpr int kQueryPitch = D * 2 + 64;  // bytes
  static constexpr int kSumPitch = D + 4;         // floats
  static constexpr int kHalves = D / 64;
  static constexpr int kPart = D / kCluster;  // values of a query that a block finishes
  // Queries as high and low parts; later, in the same place, sums of warps.
  static constexpr int kQueryBytes = 2 * kQueries * kQueryPitch;
  static constexpr int kSumBytes = kSumSlots * kQueries * kSumPitch * 4;
  static constexpr int kFloats = (kQueryBytes > kSumBytes ? kQueryBytes : kSumBytes) / 4;

  // `shared`: FloatsOf<D>() floats, aligned to 16 bytes.
  __device__ __forceinline__ Packed(const AttentionArgs& args, int kv_head, int rank, float* shared)
      : args_(args),
        shared_(reinterpret_cast<char*>(shared)),
        sums_(shared),
        max_(shared + kFloats),
        total_(max_ + kWarps * kQueries),
        rank_(rank),
        kv_head_(kv_head),
        group_(args.n_heads / args.kv.n_kv_heads),
        warp_(threadIdx.x / 32),
        g_(threadIdx.x % 32 / 4),
        t_(threadIdx.x % 4) {}

 protected:
  __device__ __forceinline__ void Begin(const Task& task, const FirstRows& first_rows) {
    task_ = task;
    n_queries_ = task.n_rows * group_;
    const bool held = task.row + task.n_rows <= 32;
    const auto position_of = [&](int row) {
      if (held) return __shfl_sync(~0u, first_rows.position, row);
      return __ldcg(args_.rows.position + row);
    };
    slot_ = held ? __shfl_sync(~0u, first_rows.slot, task.row) : __ldcg(args_.rows.slot + task.row);
    first_position_ = position_of(task.row);
    n_keys_ = position_of(task.row + task.n_rows - 1) + 1;
#pragma unroll
    for (int i = 0; i < 2 * T; ++i) {
      running_max_[i] = kMinusInfinity;
      running_total_[i] = 0;
      const int query = (i / 2) * 16 + g_ + (i % 2) * 8;
      const int position = position_of(task.row + min(query, n_queries_ - 1) / group_);
      position_[i] = query < n_queries_ ? position : -1;
    }
#pragma unroll
    for (int i = 0; i < T * (D / 8); ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) acc_[i][j] = 0;
    }
  }
  __device__ __forceinline__ int first_key() const { return rank_ * kBlockKeys + warp_ * kWarpKeys; }

  __device__ __forceinline__ int64_t QueryOffset(int query) const {
    const int64_t row = task_.row + query / group_;
    return (row * args_.n_heads + kv_head_ * group_ + query % group_) * D;
  }

  // Queries are scaled by log2(e) too, so that weights are powers of 2.
  __device__ __forceinline__ float query_scale() const { return args_.scale * 1.44269504088896341f; }
  __device__ __forceinline__ void StoreQuery4(int query, int at, float4 q) const {
    const float scale = query_scale();
    uint2 high, low;
    Split(q.x * scale, q.y * scale, high.x, low.x);
    Split(q.z * scale, q.w * scale, high.y, low.y);
    *reinterpret_cast<uint2*>(shared_ + query * kQueryPitch + at * 2) = high;
    *reinterpret_cast<uint2*>(shared_ + (kQueries + query) * kQueryPitch + at * 2) = low;
  }

  // This warp's 16 keys and values from `first` on. As in linear's tiles, k runs in an order of its own: lane (g, t)
  // holds values 8 t .. 8 t + 7 of every 32 of keys g and g + 8; and of keys 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 values
  // 8 g .. 8 g + 7 of each half of the head.
  struct Keys {
    uint4 key[2][D / 32];
    uint4 value[4][kHalves];
  };
  __device__ __forceinline__ void Load(int first, Keys& keys) const {
    const KvLayer& kv = args_.kv;
    // As a rule the 16 keys lie in one page, which is looked up once.
    const bool one_page = first % kv.page_size + kWarpKeys <= kv.page_size;
    const int64_t begin = kv.offset(slot_, kv_head_, first);
    if (one_page) {
      LoadAt(first, keys, [&](int key) { return (begin + (key - first) * D) * 2; });
    } else {
      LoadAt(first, keys, [&](int key) { return kv.offset(slot_, kv_head_, key) * 2; });
    }
  }
  // offset(key): of a key of the sequence, in bytes.
  template <typename Offset>
  __device__ __forceinline__ void LoadAt(int first, Keys& keys, Offset offset) const {
    const KvLayer& kv = args_.kv;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int at = first + tile * 8 + g_;
      const char* row = at < n_keys_ ? static_cast<const char*>(kv.k) + offset(at) + t_ * 16 : nullptr;
#pragma unroll
      for (int i = 0; i < D / 32; ++i) keys.key[tile][i] = row ? Load16(row + i * 64) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = first + 2 * t_ + i % 2 + i / 2 * 8;
      const char* row = at < n_keys_ ? static_cast<const char*>(kv.v) + offset(at) + g_ * 16 : nullptr;
#pragma unroll
      for (int h = 0; h < kHalves; ++h) keys.value[i][h] = row ? Load16(row + h * 128) : uint4{0, 0, 0, 0};
    }
  }

  __device__ __forceinline__ void Add(int first, Keys& keys) {
    float score[T][2][4] = {};
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int tile = 0; tile < T; ++tile) {
          const char* at = shared_ + (part * kQueries + tile * 16 + g_) * kQueryPitch + i * 64 + t_ * 16;
          const uint4 a = *reinterpret_cast<const uint4*>(at);
          const uint4 b = *reinterpret_cast<const uint4*>(at + 8 * kQueryPitch);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            MultiplyTiles(score[tile][n], a.x, b.x, a.y, b.y, keys.key[n][i].x, keys.key[n][i].y);
            MultiplyTiles(score[tile][n], a.z, b.z, a.w, b.w, keys.key[n][i].z, keys.key[n][i].w);
          }
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < T; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) Softmax(score[tile], tile, half, first);
    }
    bool bad = false;
    if (first + kWarpKeys > first_position_ + 1) {  // some query does not see some key
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int h = 0; h < kHalves; ++h) bad |= TakeOutNonFinite(keys.value[i][h]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < T; ++tile) {
      uint32_t a[2][4];
      Split(score[tile][0][0], score[tile][0][1], a[0][0], a[1][0]);
      Split(score[tile][0][2], score[tile][0][3], a[0][1], a[1][1]);
      Split(score[tile][1][0], score[tile][1][1], a[0][2], a[1][2]);
      Split(score[tile][1][2], score[tile][1][3], a[0][3], a[1][3]);
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {  // values 8 g + j
          const uint32_t pick = j % 2 ? 0x7632u : 0x5410u;
          const uint32_t b0 = __byte_perm(Word(keys.value[0][h], j / 2), Word(keys.value[1][h], j / 2), pick);
          const uint32_t b1 = __byte_perm(Word(keys.value[2][h], j / 2), Word(keys.value[3][h], j / 2), pick);
          float(&acc)[4] = acc_[(tile * kHalves + h) * 8 + j];
          MultiplyTiles(acc, a[0][0], a[0][1], a[0][2], a[0][3], b0, b1);
          MultiplyTiles(acc, a[1][0], a[1][1], a[1][2], a[1][3], b0, b1);
        }
      }
    }
    if (__any_sync(~0u, bad)) AddNonFinite(score, first);
  }

  // Turns the scores of query row g (half 0) or g + 8 into weights and rescales what came before.
  __device__ __forceinline__ void Softmax(float (&score)[2][4], int tile, int half, int first) {
    const int i = tile * 2 + half, position = position_[i];
    float max = running_max_[i];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& s = score[n][half * 2 + j];
        if (first + n * 8 + t_ * 2 + j > position) s = kMinusInfinity;
        max = fmaxf(max, s);
      }
    }
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
    const float base = max == kMinusInfinity ? 0 : max;
    const float keep = exp2f(running_max_[i] - base);
    float total = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& s = score[n][half * 2 + j];
        s = exp2f(s - base);
        total += s;
      }
    }
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    running_total_[i] = running_total_[i] * keep + total;
    running_max_[i] = max;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      acc_[tile * (D / 8) + j][half * 2] *= keep;
      acc_[tile * (D / 8) + j][half * 2 + 1] *= keep;
    }
  }

  // A value that is not finite must reach the queries that see it and no other; a product with a weight of 0 would be
  // NaN. So the product has 0 in its place, and it is added here, where it is seen.
  __device__ __forceinline__ void AddNonFinite(const float (&weight)[T][2][4], int first) {
#pragma unroll 1
    for (int key = 0; key < kWarpKeys && first + key < n_keys_; ++key) {
      const auto* row =
          static_cast<const uint16_t*>(args_.kv.v) + args_.kv.offset(slot_, kv_head_, first + key);
#pragma unroll
      for (int tile = 0; tile < T; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool second = key % 2;
          const float mine = key < 8 ? (second ? weight[tile][0][half * 2 + 1] : weight[tile][0][half * 2])
                                     : (second ? weight[tile][1][half * 2 + 1] : weight[tile][1][half * 2]);
          const float w = __shfl_sync(~0u, mine, g_ * 4 + key % 8 / 2);
          if (first + key > position_[tile * 2 + half]) continue;
#pragma unroll
          for (int h = 0; h < kHalves; ++h) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
#pragma unroll
              for (int c = 0; c < 2; ++c) {
                const uint16_t bits = __ldcg(row + h * 64 + (2 * t_ + c) * 8 + j);
                if ((bits & 0x7f80u) != 0x7f80u) continue;
                acc_[(tile * kHalves + h) * 8 + j][half * 2 + c] +=
                    w * __uint_as_float(static_cast<uint32_t>(bits) << 16);
              }
            }
          }
        }
      }
    }
  }

  // Scales every warp's sums to the largest score of the block and adds them up in kSumSlots places, from the last
  // warps to the first.
  __device__ __forceinline__ void ShareMax() {
#pragma unroll
    for (int i = 0; i < 2 * T; ++i) {
      if (t_ == 0) max_[warp_ * kQueries + QueryOf(i)] = running_max_[i];
    }
    Meet();  // and the queries are not needed any more
#pragma unroll
    for (int i = 0; i < 2 * T; ++i) {
      const float max = BlockMax(QueryOf(i));
      const float keep = exp2f(running_max_[i] - (max == kMinusInfinity ? 0 : max));
      if (t_ == 0) total_[warp_ * kQueries + QueryOf(i)] = running_total_[i] * keep;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        acc_[i / 2 * (D / 8) + j][i % 2 * 2] *= keep;
        acc_[i / 2 * (D / 8) + j][i % 2 * 2 + 1] *= keep;
      }
    }
#pragma unroll
    for (int turn = kWarps / kSumSlots - 1; turn >= 0; --turn) {
      if (warp_ / kSumSlots == turn) {
        EachSum([&](float4& at, const float4& v) {
          const float4 other = turn == kWarps / kSumSlots - 1 ? float4{0, 0, 0, 0} : at;
          at = {v.x + other.x, v.y + other.y, v.z + other.z, v.w + other.w};
        });
      }
      Meet();
    }
  }
  __device__ __forceinline__ int QueryOf(int i) const { return (i / 2) * 16 + g_ + (i % 2) * 8; }
  __device__ __forceinline__ float BlockMax(int query) const {
    float max = kMinusInfinity;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, max_[w * kQueries + query]);
    return max;
  }
  // Calls body(place in shared memory, this lane's sums) for all of this warp's sums.
  template <typename Body>
  __device__ __forceinline__ void EachSum(Body body) const {
#pragma unroll
    for (int i = 0; i < 2 * T; ++i) {
      const int query = QueryOf(i);
      if (query >= n_queries_) continue;
      float* to = sums_ + (warp_ % kSumSlots * kQueries + query) * kSumPitch;
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
          for (int j = 0; j < 8; j += 4) {
            const int at = ((i / 2) * kHalves + h) * 8 + j, e = i % 2 * 2 + c;
            body(*reinterpret_cast<float4*>(to + h * 64 + (2 * t_ + c) * 8 + j),
                 float4{acc_[at][e], acc_[at + 1][e], acc_[at + 2][e], acc_[at + 3][e]});
          }
        }
      }
    }
  }

  // After ShareMax: the block's sums of a query's values at .. at + 3, and its sum of weights, over BlockMax.
  __device__ __forceinline__ float4 BlockSum(int query, int at) const {
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int slot = 0; slot < kSumSlots; ++slot) {
      const float4 v = *reinterpret_cast<const float4*>(sums_ + (slot * kQueries + query) * kSumPitch + at);
      sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
    }
    return sum;
  }
  __device__ __forceinline__ float BlockTotal(int query) const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += total_[w * kQueries + query];
    return total;
  }

  // Four values of a query from the blocks' largest scores and sums of weights (stats) and their sums.
  static __device__ __forceinline__ float4 Merge(const float2 (&stats)[kCluster], const float4 (&sums)[kCluster]) {
    float max = kMinusInfinity, total = 0;
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int r = 0; r < kCluster; ++r) max = fmaxf(max, stats[r].x);
    const float base = max == kMinusInfinity ? 0 : max;
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      const float keep = exp2f(stats[r].x - base);
      sum.x = fmaf(keep, sums[r].x, sum.x);
      sum.y = fmaf(keep, sums[r].y, sum.y);
      sum.z = fmaf(keep, sums[r].z, sum.z);
      sum.w = fmaf(keep, sums[r].w, sum.w);
      total = fmaf(keep, stats[r].y, total);
    }
    return {sum.x / total, sum.y / total, sum.z / total, sum.w / total};
  }

  const AttentionArgs& args_;
  char* shared_;
  float* sums_;          // [kSumSlots][kQueries][kSumPitch]
  float *max_, *total_;  // [kWarps][kQueries]
  const int rank_, kv_head_, group_, warp_, g_, t_;
  Task task_;
  int slot_, first_position_, n_queries_, n_keys_;
  int position_[2 * T];         // of query rows g and g + 8 of each tile; -1: no such query
  float running_max_[2 * T];    // of the scores times log2(e)
  float running_total_[2 * T];  // of the weights
  float acc_[T * (D / 8)][4];   // [tile][half][j]: rows g, g + 8; values 64 half + 8 (2 t + 0 or 1) + j
};
#endif  // TANDEM_SM90

}  // namespace tandem::packed_attention

#endif  // TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_CUH_
