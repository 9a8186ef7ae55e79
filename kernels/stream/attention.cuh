// Rotation, append and attention of a layer in the stream kernel.
#ifndef TANDEM_KERNELS_STREAM_ATTENTION_CUH_
#define TANDEM_KERNELS_STREAM_ATTENTION_CUH_

#include "kernels/stream/memory.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

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

// What rotates a head: loaded before the head is there. `gain`: of the norm before it, optional.
template <int D>
struct Rotation {
  float cos[D / 64] = {}, sin[D / 64] = {}, low_gain[D / 64] = {}, high_gain[D / 64] = {};

  __device__ __forceinline__ void Load(const float* gain, const float* cos_sin) {
    const int lane = Thread() % 32;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const int i = lane + 32 * j;
      cos[j] = __ldcg(cos_sin + i);
      sin[j] = __ldcg(cos_sin + D / 2 + i);
      if (gain == nullptr) continue;
      low_gain[j] = gain[i];
      high_gain[j] = gain[D / 2 + i];
    }
  }
  __device__ __forceinline__ void Turn(Head<D>& head, bool norm, float eps) const {
    if (norm) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) sum = fmaf(head.low[j], head.low[j], sum);
#pragma unroll
      for (int j = 0; j < D / 64; ++j) sum = fmaf(head.high[j], head.high[j], sum);
      const float scale = 1.f / sqrtf(LaneSum(sum) / static_cast<float>(D) + eps);
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
class StreamAttention : packed_attention::Packed<D> {
  using Base = packed_attention::Packed<D>;
  static constexpr int kQueries = packed_attention::kQueries;
  static constexpr int kCluster = packed_attention::kCluster;
  static constexpr int kBlockKeys = packed_attention::kBlockKeys;

 public:
  __device__ __forceinline__ StreamAttention(const Attend& attend, int kv_head, int rank, int32_t first_page,
                                             int32_t new_page)
      : Base(attend.attention, kv_head, rank, reinterpret_cast<float*>(Work()), Common().params.n_sums),
        attend_(attend),
        turn_(Common().turn),
        n_rows_(Common().n_rows),
        first_rows_(RowsOfForward()),
        first_page_(first_page),
        new_page_(new_page) {}

  __device__ __forceinline__ void Run(const packed_attention::Task& task) {
    this->Begin(task, first_rows_);
    const int lane = Thread() % 32;
    const bool ours = lane < n_rows_ && first_rows_.slot == this->slot_;
    // Keys from here on are this forward's.
    const int first_new = __reduce_min_sync(~0u, ours ? first_rows_.position : 0x7fffffff);
    int first = this->first_key();
    // Before keys and values: loads come back in their order.
    Arrivals new_rows = {};
    Ask(new_rows);
    // All that is loaded on a condition begins as 0: else registers would be kept for it through the whole program.
    typename Base::Keys keys = {};
    typename Base::Values values = {};
    if (first < this->n_keys_) {
      const int end = min(first_new, this->n_keys_);
      const ByteOf offset{first, FirstByte(first)};
      this->LoadKeysAt(first, end, offset, keys);
      this->LoadValuesAt(first, end, offset, values);
    }
    Take(new_rows, first_new);
    Meet();
    Mark(1);
    this->Reset();
    if (first < this->n_keys_ && first + packed_attention::kWarpKeys > first_new)
      TakeFresh(first, first_new, keys, values);
#pragma unroll 1
    while (first < this->n_keys_) {
      const int next = first + kCluster * kBlockKeys, last = this->n_keys_;
      const ByteOf offset{next, next < last ? FirstByte(next) : 0};
      typename Base::Scores score = {};
      this->Score(first, keys, score);
      if (next < last) this->LoadKeysAt(next, last, offset, keys);
      this->Accumulate(first, score, values);
      if (next < last) this->LoadValuesAt(next, last, offset, values);
      first = next;
    }
    this->ShareScores();
    this->ShareSums();
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

  // This forward's keys (side 0) and values of the block, by position, in shared memory that products use for their sums: a
  // trip through the cache would hold everybody up.
  static __device__ __forceinline__ char* Fresh(int side, int row) {
    static_assert(2 * kMaxRows * D * 2 <= sizeof(Fixed::sums));
    return reinterpret_cast<char*>(&Common().sums) + (side * kMaxRows + row) * D * 2;
  }
  __device__ __forceinline__ void TakeFresh(int first, int first_new, typename Base::Keys& keys,
                                            typename Base::Values& values) const {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int at = first + tile * 8 + this->g_;
      if (at < first_new || at >= this->n_keys_) continue;
      const char* key = Fresh(0, at - first_new) + this->t_ * 16;
#pragma unroll
      for (int i = 0; i < D / 32; ++i) keys.key[tile][i] = *reinterpret_cast<const uint4*>(key + i * 64);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = first + this->ValueKey(i);
      if (at < first_new || at >= this->n_keys_) continue;
      const char* value = Fresh(1, at - first_new) + this->g_ * 16;
#pragma unroll
      for (int h = 0; h < D / 64; ++h) values.value[i][h] = *reinterpret_cast<const uint4*>(value + h * 128);
    }
  }

  // What this forward brings: queries, two a warp, and the keys and values of the sequence that this block attends to, a row
  // a warp; blocks of other tasks write the same ones again. What is left in the places of other queries does not count:
  // they see no key.
  struct Arrivals {
    Head<D> query[2], key, value;
    Rotation<D> query_rotation[2], key_rotation;
    bool appends;
  };
  // The last warps have the fewest queries.
  static __device__ __forceinline__ int RowOfWarp() { return kWorkers - 1 - Thread() / 32; }
  __device__ __forceinline__ bool HasQuery(int i) const {
    return Thread() / 32 + i * kWorkers < this->n_queries_;
  }
  __device__ __forceinline__ const float* QueryAt(int i) const {
    return attend_.q.template at<float>(turn_) + this->QueryOffset(Thread() / 32 + i * kWorkers);
  }
  __device__ __forceinline__ int64_t NewRow() const {
    return (static_cast<int64_t>(RowOfWarp()) * this->args_.kv.n_kv_heads + this->kv_head_) * D;
  }
  __device__ __forceinline__ void Ask(Arrivals& rows) const {
    static_assert(kQueries == 2 * kWorkers && kMaxRows == kWorkers);
    const int row = RowOfWarp();
    const int slot = __shfl_sync(~0u, first_rows_.slot, row);
    const int position = __shfl_sync(~0u, first_rows_.position, row);
    rows.appends = row < n_rows_ && slot == this->slot_ && position < this->n_keys_ &&
                   position / kBlockKeys % kCluster == this->rank_;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!HasQuery(i)) continue;
      rows.query[i].Look(QueryAt(i));
      const int query_row = this->task_.row + (Thread() / 32 + i * kWorkers) / this->group_;
      rows.query_rotation[i].Load(attend_.q_norm, attend_.cos_sin + static_cast<int64_t>(query_row) * D);
    }
    if (!rows.appends) return;
    rows.key.Look(attend_.k.template at<float>(turn_) + NewRow());
    rows.value.Look(attend_.v.template at<float>(turn_) + NewRow());
    rows.key_rotation.Load(attend_.k_norm, attend_.cos_sin + static_cast<int64_t>(row) * D);
  }
  __device__ __forceinline__ void Take(Arrivals& rows, int first_new) const {
    const int lane = Thread() % 32;
    const float scale = this->query_scale();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!HasQuery(i)) continue;
      Head<D>& head = rows.query[i];
      head.Await(QueryAt(i));
      rows.query_rotation[i].Turn(head, attend_.q_norm != nullptr, attend_.norm_eps);
      const int query = Thread() / 32 + i * kWorkers;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        StoreQuery(query, lane + 32 * j, head.low[j] * scale);
        StoreQuery(query, D / 2 + lane + 32 * j, head.high[j] * scale);
      }
    }
    if (!rows.appends) return;
    const KvLayer& kv = this->args_.kv;
    const int position = __shfl_sync(~0u, first_rows_.position, RowOfWarp());
    const int64_t to = ((static_cast<int64_t>(new_page_) * kv.n_kv_heads + this->kv_head_) * kv.page_size +
                        position % kv.page_size) *
                       D;
    rows.value.Await(attend_.v.template at<float>(turn_) + NewRow());
    Append(kv.v, to, Fresh(1, position - first_new), rows.value);
    rows.key.Await(attend_.k.template at<float>(turn_) + NewRow());
    rows.key_rotation.Turn(rows.key, attend_.k_norm != nullptr, attend_.norm_eps);
    Append(kv.k, to, Fresh(0, position - first_new), rows.key);
  }
  __device__ __forceinline__ void StoreQuery(int query, int at, float q) const {
    uint32_t high, low;
    packed_attention::Split(q, 0, high, low);
    *reinterpret_cast<uint16_t*>(this->shared_ + query * Base::kQueryPitch + at * 2) =
        static_cast<uint16_t>(high);
    *reinterpret_cast<uint16_t*>(this->shared_ + (kQueries + query) * Base::kQueryPitch + at * 2) =
        static_cast<uint16_t>(low);
  }

  __device__ __forceinline__ static void Append(void* cache, int64_t to, char* fresh, const Head<D>& head) {
    const int lane = Thread() % 32;
    uint16_t *at = static_cast<uint16_t*>(cache) + to, *here = reinterpret_cast<uint16_t*>(fresh);
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      const int low = lane + 32 * j, high = D / 2 + lane + 32 * j;
      at[low] = here[low] = static_cast<uint16_t>(RoundPair(head.low[j], 0));
      at[high] = here[high] = static_cast<uint16_t>(RoundPair(head.high[j], 0));
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
      const uint32_t low = RoundPair(v.x, v.y), high = RoundPair(v.z, v.w);
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
  const int32_t new_page_;    // of the row whose key this warp appends
};

// What a block does first in every layer's attention, looked up once.
struct FirstShare {
  packed_attention::Task task = {0, 0};
  int32_t page = -1;     // of this warp's first keys
  int32_t new_page = 0;  // of the row whose key this warp appends, in any share
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
// Of this warp.
__device__ __forceinline__ int FirstKeyOf(int item) {
  return item % packed_attention::kCluster * packed_attention::kBlockKeys +
         Thread() / 32 * packed_attention::kWarpKeys;
}
__device__ __forceinline__ FirstShare FindFirstShare() {
  const AttentionArgs& args = Common().params.attention;
  const int block = static_cast<int>(blockIdx.x);
  FirstShare first;
  const int row = kWorkers - 1 - Thread() / 32;
  if (row < Common().n_rows) {
    first.new_page = __ldg(args.kv.page_table + static_cast<int64_t>(Common().slot[row]) * args.kv.max_pages +
                           Common().position[row] / args.kv.page_size);
  }
  if (block >= ShareBlocks() || Common().n_rows == 0) return first;
  first.task = TaskOf(args, block);
  if (first.task.n_rows == 0) return first;
  const int key = FirstKeyOf(block);
  if (key <= Common().position[first.task.row + first.task.n_rows - 1]) {
    first.page =
        __ldg(args.kv.page_table + static_cast<int64_t>(Common().slot[first.task.row]) * args.kv.max_pages +
              key / args.kv.page_size);
  }
  return first;
}

// What this warp will attend to into the second-level cache, a line a lane, while the product before attention runs: loads of
// keys that come from memory would hold up the queries behind them.
__device__ __forceinline__ void FetchKeys(const Attend& attend, const FirstShare& share) {
  constexpr int kLine = 128;
  const KvLayer& kv = attend.attention.kv;
  const int item = static_cast<int>(blockIdx.x), line = Thread() % 32 * kLine;
  if (share.task.n_rows == 0 || line >= packed_attention::kWarpKeys * kv.head_dim * 2) return;
  const int last = Common().position[share.task.row + share.task.n_rows - 1];
  const int slot = Common().slot[share.task.row], kv_head = item / packed_attention::kCluster % kv.n_kv_heads;
#pragma unroll 1
  for (int key = FirstKeyOf(item); key <= last;
       key += packed_attention::kCluster * packed_attention::kBlockKeys) {
    const int64_t at = kv.offset(slot, kv_head, key) * 2 + line;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(kv.k) + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(kv.v) + at));
  }
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
    StreamAttention<D>(attend, share % n_kv_heads, item % kCluster, item == block ? first.page : -1,
                       first.new_page)
        .Run(task);
    Meet();
    // Of every row there is at most one task.
    if ((item + n_blocks) / kCluster >= Common().n_rows * n_kv_heads) break;
    task = TaskOf(attend.attention, item + n_blocks);
  }
}

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_ATTENTION_CUH_
