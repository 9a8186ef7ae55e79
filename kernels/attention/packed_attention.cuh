// The device code of attention on tensor cores: attention_cuda.cu explains it. The two kernels that attend this way
// (attention_cuda.cu, kernels/stream) differ in where queries come from and how blocks exchange their sums.
#ifndef TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_CUH_
#define TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_CUH_

#include "kernels/attention/attention.h"
#include "kernels/attention/packed_attention.h"
#include "kernels/cuda.cuh"

namespace tandem::packed_attention {

#ifdef TANDEM_SM90

// The thread's number, read anew: in a kernel that does other things too, what follows from it would otherwise be computed
// beforehand, and held or spilled.
__device__ __forceinline__ int Thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

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
  const int lane = Thread() % 32;
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
  const int lane = Thread() % 32, n_rows = first_rows.n_rows;
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

// Two values as packed pairs of bf16: x = high + low but for 2^-18 of it. An infinity's low part is 0.
__device__ __forceinline__ void Split(float a, float b, uint32_t& high, uint32_t& low) {
  high = RoundPair(a, b);
  const float fa = __uint_as_float(high << 16), fb = __uint_as_float(high & 0xffff0000u);
  low = RoundPair(isinf(fa) ? 0 : a - fa, isinf(fb) ? 0 : b - fb);
}

// 16 bytes if `wanted`, else 0. Into the registers themselves: a choice between what was loaded and 0 would wait for the load
// at once.
__device__ __forceinline__ uint4 Load16(const char* p, bool wanted) {
  uint4 v = {0, 0, 0, 0};
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %5, 0;\n"
      "@wanted ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];\n"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(p), "r"(static_cast<uint32_t>(wanted))
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
  static constexpr int H = D / 64;  // sums and values are held in parts of 64 of a head

 public:
  static constexpr int kQueryPitch = D * 2 + 64;  // bytes
  static constexpr int kSumPitch = D + 4;         // floats
  static constexpr int kPart = D / kCluster;      // values of a query that a block finishes

  // `group`: heads that share a kv head. `shared`: FloatsOf<D>(n_sums) floats, aligned to 16 bytes.
  __device__ __forceinline__ Packed(const AttentionArgs& args, int group, int kv_head, int rank,
                                    float* shared, int n_sums)
      : args_(args),
        shared_(reinterpret_cast<char*>(shared)),
        max_(shared + QueryFloats<D>()),
        total_(max_ + kWarps * kQueries),
        sums_(total_ + kWarps * kQueries),
        n_sums_(n_sums),
        rank_(rank),
        kv_head_(kv_head),
        group_(group),
        warp_(Thread() / 32),
        g_(Thread() % 32 / 4),
        t_(Thread() % 4) {}

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
    for (int i = 0; i < 2; ++i) {
      const int query = QueryOf(i), position = position_of(task.row + min(query, n_queries_ - 1) / group_);
      position_[i] = query < n_queries_ ? position : -1;
    }
  }
  // Before the first scores.
  __device__ __forceinline__ void Reset() {
#pragma unroll
    for (int i = 0; i < 2; ++i) running_max_[i] = kMinusInfinity, running_total_[i] = 0;
#pragma unroll
    for (int i = 0; i < H * 8; ++i) {
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
  };
  struct Values {
    uint4 value[4][H];
  };
  __device__ __forceinline__ void Load(int first, Keys& keys, Values& values) const {
    const KvLayer& kv = args_.kv;
    // As a rule the 16 keys lie in one page, which is looked up once.
    const bool one_page = first % kv.page_size + kWarpKeys <= kv.page_size;
    const int64_t begin = kv.offset(slot_, kv_head_, first);
    if (one_page) {
      const auto offset = [&](int key) { return (begin + (key - first) * D) * 2; };
      LoadKeysAt(first, n_keys_, offset, keys);
      LoadValuesAt(first, n_keys_, offset, values);
    } else {
      const auto offset = [&](int key) { return kv.offset(slot_, kv_head_, key) * 2; };
      LoadKeysAt(first, n_keys_, offset, keys);
      LoadValuesAt(first, n_keys_, offset, values);
    }
  }
  // Those before `end`, and 0 in the place of others. offset(key): of a key of the sequence, in bytes.
  template <typename Offset>
  __device__ __forceinline__ void LoadKeysAt(int first, int end, Offset offset, Keys& keys) const {
    const KvLayer& kv = args_.kv;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int at = first + tile * 8 + g_;
      const bool wanted = at < end;
      const char* row = static_cast<const char*>(kv.k) + (wanted ? offset(at) : 0) + t_ * 16;
#pragma unroll
      for (int i = 0; i < D / 32; ++i) keys.key[tile][i] = Load16(row + i * 64, wanted);
    }
  }
  template <typename Offset>
  __device__ __forceinline__ void LoadValuesAt(int first, int end, Offset offset, Values& values) const {
    const KvLayer& kv = args_.kv;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = first + ValueKey(i);
      const bool wanted = at < end;
      const char* row = static_cast<const char*>(kv.v) + (wanted ? offset(at) : 0) + g_ * 16;
#pragma unroll
      for (int h = 0; h < H; ++h) values.value[i][h] = Load16(row + h * 128, wanted);
    }
  }
  // Whose values this lane has i-th.
  __device__ __forceinline__ int ValueKey(int i) const { return 2 * t_ + i % 2 + i / 2 * 8; }

  // Weights of the 16 keys from `first` on for the queries, over the largest score so far; the sums are scaled to it.
  using Scores = float[2][4];
  __device__ __forceinline__ void Score(int first, const Keys& keys, Scores& score) {
    // Up to 8 queries leave half of a tile's rows: the low parts take them.
    if (n_queries_ <= 8) {
      Multiply(keys, 0, kQueries, score);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) score[n][j] += score[n][2 + j], score[n][2 + j] = 0;
      }
      Softmax(score, 0, first);
      return;
    }
    Scores low;
    Multiply(keys, 0, 8, score);
    Multiply(keys, kQueries, kQueries + 8, low);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) score[n][j] += low[n][j];
    }
    Softmax(score, 0, first);
    Softmax(score, 1, first);
  }
  // Products of the keys with 16 rows of shared memory, 8 from row `upper` on and 8 from `lower` on.
  __device__ __forceinline__ void Multiply(const Keys& keys, int upper, int lower, Scores& sum) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[n][j] = 0;
    }
    const char* at = shared_ + (upper + g_) * kQueryPitch + t_ * 16;
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
      const uint4 a = *reinterpret_cast<const uint4*>(at + i * 64);
      const uint4 b = *reinterpret_cast<const uint4*>(at + (lower - upper) * kQueryPitch + i * 64);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        MultiplyTiles(sum[n], a.x, b.x, a.y, b.y, keys.key[n][i].x, keys.key[n][i].y);
        MultiplyTiles(sum[n], a.z, b.z, a.w, b.w, keys.key[n][i].z, keys.key[n][i].w);
      }
    }
  }

  // Adds their values.
  __device__ __forceinline__ void Accumulate(int first, const Scores& score, Values& values) {
    bool bad = false;
    if (first + kWarpKeys > first_position_ + 1) {  // some query does not see some key
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int h = 0; h < H; ++h) bad |= TakeOutNonFinite(values.value[i][h]);
      }
    }
    uint32_t a[2][4];
    Split(score[0][0], score[0][1], a[0][0], a[1][0]);
    Split(score[0][2], score[0][3], a[0][1], a[1][1]);
    Split(score[1][0], score[1][1], a[0][2], a[1][2]);
    Split(score[1][2], score[1][3], a[0][3], a[1][3]);
#pragma unroll
    for (int h = 0; h < H; ++h) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {  // values 8 g + j
        const uint32_t pick = j % 2 ? 0x7632u : 0x5410u;
        const uint32_t b0 =
            __byte_perm(Word(values.value[0][h], j / 2), Word(values.value[1][h], j / 2), pick);
        const uint32_t b1 =
            __byte_perm(Word(values.value[2][h], j / 2), Word(values.value[3][h], j / 2), pick);
        float(&acc)[4] = acc_[h * 8 + j];
        MultiplyTiles(acc, a[0][0], a[0][1], a[0][2], a[0][3], b0, b1);
        MultiplyTiles(acc, a[1][0], a[1][1], a[1][2], a[1][3], b0, b1);
      }
    }
    if (__any_sync(~0u, bad)) AddNonFinite(score, first);
  }

  // Turns the scores of query g (row 0) or g + 8 into weights and rescales what came before.
  __device__ __forceinline__ void Softmax(Scores& score, int row, int first) {
    const int position = position_[row];
    float max = running_max_[row];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& s = score[n][row * 2 + j];
        if (first + n * 8 + t_ * 2 + j > position) s = kMinusInfinity;
        max = fmaxf(max, s);
      }
    }
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
    const float base = max == kMinusInfinity ? 0 : max;
    const float keep = exp2f(running_max_[row] - base);
    float total = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& s = score[n][row * 2 + j];
        s = exp2f(s - base);
        total += s;
      }
    }
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    running_total_[row] = running_total_[row] * keep + total;
    running_max_[row] = max;
#pragma unroll
    for (int j = 0; j < H * 8; ++j) {
      acc_[j][row * 2] *= keep;
      acc_[j][row * 2 + 1] *= keep;
    }
  }

  // A value that is not finite must reach the queries that see it and no other; a product with a weight of 0 would be
  // NaN. So the product has 0 in its place, and it is added here, where it is seen.
  __device__ __forceinline__ void AddNonFinite(const Scores& weight, int first) {
#pragma unroll 1
    for (int key = 0; key < kWarpKeys && first + key < n_keys_; ++key) {
      const auto* values =
          static_cast<const uint16_t*>(args_.kv.v) + args_.kv.offset(slot_, kv_head_, first + key);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const bool second = key % 2;
        const float mine = key < 8 ? (second ? weight[0][row * 2 + 1] : weight[0][row * 2])
                                   : (second ? weight[1][row * 2 + 1] : weight[1][row * 2]);
        const float w = __shfl_sync(~0u, mine, g_ * 4 + key % 8 / 2);
        if (first + key > position_[row]) continue;
#pragma unroll
        for (int h = 0; h < H; ++h) {
#pragma unroll
          for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const uint16_t bits = __ldcg(values + h * 64 + (2 * t_ + c) * 8 + j);
              if ((bits & 0x7f80u) != 0x7f80u) continue;
              acc_[h * 8 + j][row * 2 + c] += w * __uint_as_float(static_cast<uint32_t>(bits) << 16);
            }
          }
        }
      }
    }
  }

  // When all keys are scored: what the warps' sums are to be scaled by, to the largest score of the block.
  __device__ __forceinline__ void ShareScores() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (t_ == 0) max_[warp_ * kQueries + QueryOf(i)] = running_max_[i];
    }
    Meet();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float max = BlockMax(QueryOf(i));
      keep_[i] = exp2f(running_max_[i] - (max == kMinusInfinity ? 0 : max));
      if (t_ == 0) total_[warp_ * kQueries + QueryOf(i)] = running_total_[i] * keep_[i];
    }
  }
  // After ShareScores: scales this warp's sums and puts them into shared memory: a place a warp where there is room, else
  // kSumSlots places, to which warps add in turns, the last ones first.
  __device__ __forceinline__ void ShareSums() {
    ScaleSums(0);
    if (n_queries_ > 8) ScaleSums(1);
    if (HasOwnPlaces()) {
      EachSum(warp_, [](float4& at, const float4& v) { at = v; });
      Meet();
      return;
    }
#pragma unroll 1
    for (int turn = kWarps / kSumSlots - 1; turn >= 0; --turn) {
      if (warp_ / kSumSlots == turn) {
        EachSum(warp_ % kSumSlots, [&](float4& at, const float4& v) {
          const float4 other = turn == kWarps / kSumSlots - 1 ? float4{0, 0, 0, 0} : at;
          at = {v.x + other.x, v.y + other.y, v.z + other.z, v.w + other.w};
        });
      }
      Meet();
    }
  }
  __device__ __forceinline__ void ScaleSums(int i) {
#pragma unroll
    for (int j = 0; j < H * 8; ++j) {
      acc_[j][i * 2] *= keep_[i];
      acc_[j][i * 2 + 1] *= keep_[i];
    }
  }
  __device__ __forceinline__ bool HasOwnPlaces() const { return n_queries_ * kWarps <= n_sums_; }
  __device__ __forceinline__ int QueryOf(int i) const { return g_ + i * 8; }
  __device__ __forceinline__ float BlockMax(int query) const {
    float max = kMinusInfinity;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, max_[w * kQueries + query]);
    return max;
  }
  // Calls body(place in shared memory, this lane's sums) for all of this warp's sums.
  template <typename Body>
  __device__ __forceinline__ void EachSum(int place, Body body) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = QueryOf(i);
      if (query >= n_queries_) continue;
      float* to = sums_ + (place * n_queries_ + query) * kSumPitch;
#pragma unroll
      for (int h = 0; h < H; ++h) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
          for (int j = 0; j < 8; j += 4) {
            const int at = h * 8 + j, e = i * 2 + c;
            body(*reinterpret_cast<float4*>(to + h * 64 + (2 * t_ + c) * 8 + j),
                 float4{acc_[at][e], acc_[at + 1][e], acc_[at + 2][e], acc_[at + 3][e]});
          }
        }
      }
    }
  }

  // After ShareSums: the block's sums of a query's values at .. at + 3, and its sum of weights, over BlockMax.
  __device__ __forceinline__ float4 BlockSum(int query, int at) const {
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int slot = 0; slot < kSumSlots; ++slot) {
      float4 v = PlaceOf(slot, query, at);
      if (HasOwnPlaces()) {
        v = PlaceOf(kWarps - kSumSlots + slot, query, at);
#pragma unroll
        for (int w = kWarps - 2 * kSumSlots + slot; w >= 0; w -= kSumSlots)
          v = Plus(v, PlaceOf(w, query, at));
      }
      sum = Plus(sum, v);
    }
    return sum;
  }
  __device__ __forceinline__ float4 PlaceOf(int place, int query, int at) const {
    return *reinterpret_cast<const float4*>(sums_ + (place * n_queries_ + query) * kSumPitch + at);
  }
  static __device__ __forceinline__ float4 Plus(const float4& a, const float4& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }
  __device__ __forceinline__ float BlockTotal(int query) const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += total_[w * kQueries + query];
    return total;
  }

  // Four values of a query from the blocks' largest scores and sums of weights (stats) and their sums.
  static __device__ __forceinline__ float4 Merge(const float2 (&stats)[kCluster],
                                                 const float4 (&sums)[kCluster]) {
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
  char* shared_;         // queries: high parts, low parts
  float *max_, *total_;  // [kWarps][kQueries]
  float* sums_;          // [places][n_queries][kSumPitch]
  const int n_sums_;
  const int rank_, kv_head_, group_, warp_, g_, t_;
  Task task_;
  int slot_, first_position_, n_queries_, n_keys_;
  int position_[2];         // of queries g and g + 8; -1: no such query
  float running_max_[2];    // of the scores times log2(e)
  float running_total_[2];  // of the weights
  float keep_[2];           // what sums are scaled by in the end
  float acc_[H * 8][4];     // [half][j]: queries g, g + 8; values 64 half + 8 (2 t + 0 or 1) + j
};
#endif  // TANDEM_SM90

}  // namespace tandem::packed_attention

#endif  // TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_CUH_
