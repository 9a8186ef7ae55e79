// Three kernels for one contract.
//
// PackedAttention (sm_90 and later; bf16 cache; heads of 64 or 128): a task is up to 16 queries, the query heads of one
// kv head times consecutive rows of one sequence, so that a key is read once for all of them. A cluster of 8 blocks
// shares a task: of the sequence's chunks of 128 keys block r takes chunks r, r + 8, ..., and its warp w the w-th 16 keys
// of each. A warp keeps a maximum, a sum and an accumulator for each query, over its own keys, in rising order; at the
// end these meet warp by warp, then block by block, each block for its own part of the head. So what is added in which
// order follows from a query's position alone; keys that a query does not see add exactly nothing.
// Tensor cores multiply bf16: a query, and a weight, is taken as the sum of two bf16 numbers, which leaves a relative
// error of 2^-18; keys and values are bf16 already.
//
// WarpAttention (the same, for a forward of more rows than decoding has, which is prefill): a warp has a task to itself and
// takes all keys, 16 at a time in rising order; the warps of a block have neighbouring tasks, so that keys come from the
// first-level cache for most of them. Its order of sums is its own.
//
// PlainAttention (everything else): a block per row and query head, fp32, chunks of 64 keys in rising order.
#include <algorithm>
#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/attention/packed_attention.cuh"
#include "kernels/cuda.cuh"

namespace tandem {
namespace {

using packed_attention::kCluster;
using packed_attention::kThreads;
using packed_attention::kWarps;

struct PackedArgs {
  AttentionArgs attention;
  int rows_per_task;
};

__device__ float Infinity() { return __int_as_float(0x7f800000); }

#ifdef TANDEM_SM90

using packed_attention::FirstRows;
using packed_attention::kQueries;
using packed_attention::Meet;
using packed_attention::Task;

// The blocks of a cluster take tasks together, the turn-th with `turn` counting from 0. What they send each other in turn
// t + 2 lies where that of turn t lay: a block sends it when it has received all of turn t + 1, which the others sent when
// they were done with turn t.
template <int D>
class ClusterAttention : packed_attention::Packed<D> {
  using Base = packed_attention::Packed<D>;
  static constexpr int kPart = Base::kPart;

 public:
  // `barrier`: initialised with 1, before any block of the cluster sends; for this class alone.
  __device__ __forceinline__ ClusterAttention(const AttentionArgs& args, int kv_head, uint32_t rank,
                                              float* shared, uint32_t barrier)
      : Base(args, args.n_heads / args.kv.n_kv_heads, kv_head, static_cast<int>(rank), shared,
             packed_attention::kSumSlots * kQueries),
        received_(shared + packed_attention::FloatsOf<D>()),
        received_stats_(reinterpret_cast<float2*>(received_ + 2 * kCluster * kQueries * kPart)),
        barrier_(barrier) {}

  __device__ __forceinline__ void Run(const Task& task, const FirstRows& first_rows, int turn) {
    this->Begin(task, first_rows);
    int first = this->first_key();
    typename Base::Keys keys;
    typename Base::Values values;
    if (first < this->n_keys_) this->Load(first, keys, values);
    StoreQueries();
    Meet();
    this->Reset();
    for (bool loaded = true; first < this->n_keys_; first += kCluster * packed_attention::kBlockKeys) {
      if (!loaded) this->Load(first, keys, values);
      loaded = false;
      typename Base::Scores score;
      this->Score(first, keys, score);
      this->Accumulate(first, score, values);
    }
    this->ShareScores();
    this->ShareSums();
    if (threadIdx.x == 0) ExpectBytes(barrier_, kCluster * this->n_queries_ * (kPart * 4 + 8));
    SendSums(turn & 1);
    WaitBarrier(barrier_, turn & 1);
    Finish(turn & 1);
  }

 private:
  __device__ __forceinline__ void StoreQueries() const {
    for (int i = threadIdx.x; i < kQueries * (D / 4); i += kThreads) {
      const int query = i / (D / 4), at = i % (D / 4) * 4;
      float4 q = {0, 0, 0, 0};
      if (query < this->n_queries_) {
        q = __ldcg(reinterpret_cast<const float4*>(this->args_.q + this->QueryOffset(query) + at));
      }
      this->StoreQuery4(query, at, q);
    }
  }

  // The block's sums to the blocks that finish them; its largest score and its sum of weights to all.
  __device__ __forceinline__ void SendSums(int buffer) const {
    for (int i = threadIdx.x; i < this->n_queries_ * (D / 4); i += kThreads) {
      const int query = i / (D / 4), quad = i % (D / 4), at = quad * 4;
      const float4 sum = this->BlockSum(query, at);
      const int owner = at / kPart;
      asm volatile(
          "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::
              "r"(InBlock(
                  SharedAddress(received_ + ((buffer * kCluster + this->rank_) * kQueries + query) * kPart +
                                at % kPart),
                  owner)),
          "f"(sum.x), "f"(sum.y), "f"(sum.z), "f"(sum.w), "r"(InBlock(barrier_, owner))
          : "memory");
      if (quad < kCluster) {
        asm volatile(
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                InBlock(SharedAddress(received_stats_ + (buffer * kCluster + this->rank_) * kQueries + query),
                        quad)),
            "f"(this->BlockMax(query)), "f"(this->BlockTotal(query)), "r"(InBlock(barrier_, quad))
            : "memory");
      }
    }
  }

  // Of every query, this block's values.
  __device__ __forceinline__ void Finish(int buffer) const {
    constexpr int kQuads = kPart / 4;
    static_assert(D / 4 >= kCluster);
    for (int i = threadIdx.x; i < this->n_queries_ * kQuads; i += kThreads) {
      const int query = i / kQuads, at = i % kQuads * 4;
      float2 stats[kCluster];
      float4 sums[kCluster];
#pragma unroll
      for (int r = 0; r < kCluster; ++r) {
        const int from = (buffer * kCluster + r) * kQueries + query;
        stats[r] = received_stats_[from];
        sums[r] = *reinterpret_cast<const float4*>(received_ + from * kPart + at);
      }
      float* out = this->args_.out + this->QueryOffset(query) + this->rank_ * kPart + at;
      *reinterpret_cast<float4*>(out) = this->Merge(stats, sums);
    }
  }

  float* received_;         // [2][kCluster][kQueries][kPart]
  float2* received_stats_;  // [2][kCluster][kQueries] largest score, sum of weights
  const uint32_t barrier_;  // what the blocks send has come
};
template <int D>
class WarpAttention : packed_attention::Packed<D, true> {
  using Base = packed_attention::Packed<D, true>;

 public:
  // `shared`: the warp's own QueryFloats<D>() floats.
  __device__ __forceinline__ WarpAttention(const AttentionArgs& args, int kv_head, float* shared)
      : Base(args, args.n_heads / args.kv.n_kv_heads, kv_head, 0, shared, 0) {}

  __device__ __forceinline__ void Run(const Task& task, const FirstRows& first_rows) {
    this->Begin(task, first_rows);
    __syncwarp();  // the last task's queries are used
    for (int i = static_cast<int>(threadIdx.x) % 32; i < this->n_queries_ * (D / 4); i += 32) {
      const int query = i / (D / 4), at = i % (D / 4) * 4;
      const float* q = this->args_.q + this->QueryOffset(query) + at;
      this->StoreQuery4(query, at, __ldcg(reinterpret_cast<const float4*>(q)));
    }
    __syncwarp();
    this->Reset();
    for (int first = 0; first < this->n_keys_; first += packed_attention::kWarpKeys) {
      typename Base::Keys keys;
      typename Base::Values values;
      typename Base::Scores score;
      this->Load(first, keys, values);
      this->Score(first, keys, score);
      this->Accumulate(first, score, values);
    }
    Store();
  }

 private:
  __device__ __forceinline__ void Store() const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = this->QueryOf(i);
      if (query >= this->n_queries_) continue;
      float* out = this->args_.out + this->QueryOffset(query);
      const float total = this->running_total_[i];
#pragma unroll
      for (int h = 0; h < D / 64; ++h) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
          for (int j = 0; j < 8; j += 4) {
            const int at = h * 8 + j, e = i * 2 + c;
            *reinterpret_cast<float4*>(out + h * 64 + (2 * this->t_ + c) * 8 + j) = {
                this->acc_[at][e] / total, this->acc_[at + 1][e] / total, this->acc_[at + 2][e] / total,
                this->acc_[at + 3][e] / total};
          }
        }
      }
    }
  }
};
#endif  // TANDEM_SM90

template <int D>
constexpr int SharedFloats() {
  return packed_attention::FloatsOf<D>() + 2 * packed_attention::kQueries * (D + 2 * kCluster);
}

template <int D>
__global__ void __launch_bounds__(kThreads) PackedAttention(const __grid_constant__ PackedArgs args) {
#ifdef TANDEM_SM90
  extern __shared__ __align__(16) float shared[];
  LetNextStart();
  const uint32_t barrier = SharedAddress(shared + SharedFloats<D>());
  if (threadIdx.x == 0) {
    InitBarrier(barrier, 1);
    PublishBarriers();
  }
  __syncthreads();
  ClusterArriveRelaxed();
  WaitForPrevious();
  const RowPlan& rows = args.attention.rows;
  const FirstRows first_rows = packed_attention::LoadFirstRows(rows);
  ClusterAttention<D> attention(args.attention, blockIdx.y, ClusterRank(), shared, barrier);
  ClusterWait();  // the others may be sent to
  int turn = 0;
  for (int index = blockIdx.z;; index += gridDim.z, ++turn) {
    const Task task = packed_attention::FindTask(rows, first_rows, args.rows_per_task, index);
    if (task.n_rows == 0) break;
    attention.Run(task, first_rows, turn);
  }
#endif
}

__device__ float LoadValue(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
}

__global__ void __launch_bounds__(kThreads) PlainAttention(const AttentionArgs args) {
  __shared__ float query[kAttentionMaxHeadDim], weight[kAttentionChunk], shared_max, shared_keep,
      shared_total;
  const KvLayer& kv = args.kv;
  const int d = kv.head_dim, head = blockIdx.x, kv_head = head / (args.n_heads / kv.n_kv_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t r = blockIdx.y; r < *args.rows.n_rows; r += gridDim.y) {
    const int slot = args.rows.slot[r], n_keys = args.rows.position[r] + 1;
    __syncthreads();
    for (int i = threadIdx.x; i < d; i += kThreads) query[i] = args.q[(r * args.n_heads + head) * d + i];
    float max = -Infinity(), total = 0;
    float acc[kAttentionMaxHeadDim / kThreads] = {};
    for (int begin = 0; begin < n_keys; begin += kAttentionChunk) {
      const int n = min(kAttentionChunk, n_keys - begin);
      __syncthreads();
      for (int j = warp; j < n; j += kWarps) {
        const int64_t at = kv.offset(slot, kv_head, begin + j);
        float sum = 0;
        for (int i = lane; i < d; i += 32) sum = fmaf(query[i], LoadValue(kv.k, kv.dtype, at + i), sum);
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
        if (lane == 0) weight[j] = sum * args.scale;
      }
      __syncthreads();
      if (warp == 0) {
        float top = max;
        for (int j = lane; j < n; j += 32) top = fmaxf(top, weight[j]);
        for (int distance = 16; distance > 0; distance /= 2) {
          top = fmaxf(top, __shfl_xor_sync(~0u, top, distance));
        }
        const float base = top == -Infinity() ? 0 : top;
        float sum = 0;
        for (int j = lane; j < n; j += 32) sum += weight[j] = expf(weight[j] - base);
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
        if (lane == 0) {
          shared_max = top;
          shared_keep = expf(max - base);
          shared_total = sum;
        }
      }
      __syncthreads();
      max = shared_max;
      total = total * shared_keep + shared_total;
      const float keep = shared_keep;
#pragma unroll
      for (int part = 0; part < kAttentionMaxHeadDim / kThreads; ++part) {
        const int i = part * kThreads + threadIdx.x;
        if (i >= d) break;
        float sum = acc[part] * keep;
        for (int j = 0; j < n; ++j) {
          sum = fmaf(weight[j], LoadValue(kv.v, kv.dtype, kv.offset(slot, kv_head, begin + j) + i), sum);
        }
        acc[part] = sum;
      }
    }
#pragma unroll
    for (int part = 0; part < kAttentionMaxHeadDim / kThreads; ++part) {
      const int i = part * kThreads + threadIdx.x;
      if (i < d) args.out[(r * args.n_heads + head) * d + i] = acc[part] / total;
    }
  }
}

// Not placed before the kernel before it has ended: the first-level cache would keep what it held then.
template <int D>
__global__ void __launch_bounds__(kThreads) PrefillAttention(const __grid_constant__ PackedArgs args) {
#ifdef TANDEM_SM90
  extern __shared__ __align__(16) float shared[];
  const RowPlan& rows = args.attention.rows;
  const FirstRows first_rows = packed_attention::LoadFirstRows(rows);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  WarpAttention<D> attention(args.attention, static_cast<int>(blockIdx.x),
                             shared + warp * packed_attention::QueryFloats<D>());
  // The last tasks have the most keys and come first.
  const int first = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kWarps + warp;
  for (int index = first;; index += static_cast<int>(gridDim.y) * kWarps) {
    const Task task = packed_attention::FindTask(rows, first_rows, args.rows_per_task, index);
    if (task.n_rows == 0) break;
    attention.Run(task, first_rows);
  }
#endif
}

template <int D>
void LaunchPrefill(const AttentionArgs& args, int group, cudaStream_t stream) {
  const int rows_per_task = packed_attention::kQueries / group;
  KernelShape launch = {};
  launch.grid =
      dim3(args.kv.n_kv_heads, (args.rows.capacity + rows_per_task * kWarps - 1) / (rows_per_task * kWarps));
  launch.threads = kThreads;
  launch.shared_bytes = kWarps * packed_attention::QueryFloats<D>() * 4;
  AllowShared(PrefillAttention<D>, launch.shared_bytes);
  LaunchKernel(PrefillAttention<D>, launch, stream, PackedArgs{args, rows_per_task});
}

template <int D>
void LaunchPacked(const AttentionArgs& args, int group, cudaStream_t stream) {
  KernelShape launch = {};
  // As many clusters as run at a time; they take more tasks in turns.
  const int at_a_time = std::max(1, MultiprocessorCount() / (kCluster * args.kv.n_kv_heads));
  launch.grid = dim3(kCluster, args.kv.n_kv_heads, std::min(args.rows.capacity, at_a_time));
  launch.threads = kThreads;
  launch.shared_bytes = SharedFloats<D>() * 4 + 8;
  launch.cluster = kCluster;
  launch.overlap = true;
  AllowShared(PackedAttention<D>, launch.shared_bytes);
  LaunchKernel(PackedAttention<D>, launch, stream, PackedArgs{args, packed_attention::kQueries / group});
}

}  // namespace

void AttentionCuda(const AttentionArgs& args, cudaStream_t stream) {
  const int group = args.n_heads / args.kv.n_kv_heads, d = args.kv.head_dim;
  if (args.kv.dtype == DType::kBf16 && (d == 64 || d == 128) && group <= packed_attention::kQueries &&
      ComputeCapability() >= 90) {
    if (args.rows.capacity > kAttentionDecodeRows) {
      return d == 64 ? LaunchPrefill<64>(args, group, stream) : LaunchPrefill<128>(args, group, stream);
    }
    return d == 64 ? LaunchPacked<64>(args, group, stream) : LaunchPacked<128>(args, group, stream);
  }
  KernelShape launch = {};
  launch.grid = dim3(args.n_heads, std::clamp(args.rows.capacity, 1, 1024));
  launch.threads = kThreads;
  LaunchKernel(PlainAttention, launch, stream, args);
}

}  // namespace tandem
