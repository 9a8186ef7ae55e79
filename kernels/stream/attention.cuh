// Rotation, append and attention of a layer in the stream kernel.
#ifndef TANDEM_KERNELS_STREAM_ATTENTION_CUH_
#define TANDEM_KERNELS_STREAM_ATTENTION_CUH_

#include "kernels/stream/share.cuh"

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

template <int D>
class StreamAttention : packed_attention::Packed<D> {
  using Base = packed_attention::Packed<D>;
  static constexpr int kQueries = packed_attention::kQueries;
  static constexpr int kCluster = packed_attention::kCluster;
  static constexpr int kBlockKeys = packed_attention::kBlockKeys;

 public:
  __device__ __forceinline__ StreamAttention(const Attend& attend, const Share& share)
      : Base(attend.attention, Common().params.group, share.kv_head, share.rank,
             reinterpret_cast<float*>(Work()), Common().params.n_sums),
        attend_(attend),
        share_(share),
        turn_(Common().turn) {
    this->task_.row = share.row;
    this->slot_ = share.slot;
    this->first_position_ = share.first_position;
    this->n_keys_ = share.n_keys;
    this->n_queries_ = share.n_queries;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = this->QueryOf(i);
      this->position_[i] = query < share.n_queries ? share.first_position + Common().query_row[query] : -1;
    }
  }

  __device__ __forceinline__ void Run() {
    int first = this->first_key();
    const int first_new = share_.first_new;
    // Before keys and values: loads come back in their order.
    Arrivals new_rows = {};
    Ask(new_rows);
    // All that is loaded on a condition begins as 0: else registers would be kept for it through the whole program.
    typename Base::Keys keys = {};
    typename Base::Values values = {};
    const int end = min(first_new, this->n_keys_);
    const ByteOf at_first{first, share_.keys_at};
    if (first < this->n_keys_) {
      this->LoadKeysAt(first, end, at_first, keys);
      this->LoadValuesAt(first, end, at_first, values);
    }
    Take(new_rows);
    Meet();
    Mark(1);
    this->Reset();
    if (first < this->n_keys_ && first + packed_attention::kWarpKeys > first_new)
      TakeFresh(first, first_new, keys, values);
#pragma unroll 1
    while (first < this->n_keys_) {
      const int next = first + kCluster * kBlockKeys, last = this->n_keys_;
      const ByteOf offset{next,
                          next < last ? this->args_.kv.offset(this->slot_, this->kv_head_, next) * 2 : 0};
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
  };
  __device__ __forceinline__ bool HasQuery(int i) const {
    return Thread() / 32 + i * kWorkers < this->n_queries_;
  }
  __device__ __forceinline__ void Ask(Arrivals& rows) const {
    static_assert(kQueries == 2 * kWorkers && kMaxRows == kWorkers);
    const float* q = attend_.q.template at<float>(turn_);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!HasQuery(i)) continue;
      rows.query[i].Look(q + share_.query_at[i]);
      rows.query_rotation[i].Load(attend_.q_norm, attend_.cos_sin + share_.query_cos_sin[i]);
    }
    if (share_.fresh_row < 0) return;
    rows.key.Look(attend_.k.template at<float>(turn_) + share_.new_from);
    rows.value.Look(attend_.v.template at<float>(turn_) + share_.new_from);
    rows.key_rotation.Load(attend_.k_norm, attend_.cos_sin + share_.new_cos_sin);
  }
  __device__ __forceinline__ void Take(Arrivals& rows) const {
    const int lane = Thread() % 32;
    const float scale = this->query_scale();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!HasQuery(i)) continue;
      Head<D>& head = rows.query[i];
      head.Await(attend_.q.template at<float>(turn_) + share_.query_at[i]);
      rows.query_rotation[i].Turn(head, attend_.q_norm != nullptr, attend_.norm_eps);
      const int query = Thread() / 32 + i * kWorkers;
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        StoreQuery(query, lane + 32 * j, head.low[j] * scale);
        StoreQuery(query, D / 2 + lane + 32 * j, head.high[j] * scale);
      }
    }
    if (share_.fresh_row < 0) return;
    const KvLayer& kv = this->args_.kv;
    rows.value.Await(attend_.v.template at<float>(turn_) + share_.new_from);
    Append(kv.v, share_.new_at, Fresh(1, share_.fresh_row), rows.value);
    rows.key.Await(attend_.k.template at<float>(turn_) + share_.new_from);
    rows.key_rotation.Turn(rows.key, attend_.k_norm != nullptr, attend_.norm_eps);
    Append(kv.k, share_.new_at, Fresh(0, share_.fresh_row), rows.key);
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
  const Share& share_;
  const int turn_;
};

template <int D>
__device__ __forceinline__ void RunAttention(const Attend& attend) {
  constexpr int kCluster = packed_attention::kCluster;
  const Share& share = Common().share[Thread() / 32];
  const int block = static_cast<int>(blockIdx.x), n_blocks = ShareBlocks();
  const int n_items = Common().n_tasks * attend.attention.kv.n_kv_heads * kCluster;
#pragma unroll 1
  for (int item = block; item < n_items && block < n_blocks; item += n_blocks) {
    if (share.item != item) MakeShare(item);
    StreamAttention<D>(attend, share).Run();
    Meet();
  }
}

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_ATTENTION_CUH_
