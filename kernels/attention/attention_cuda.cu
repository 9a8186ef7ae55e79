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
// TiledAttention (the same, for a forward of more rows than decoding has, which is prefill): a block has up to 128 queries
// (32 in a forward of few rows), the query heads of one kv head times consecutive rows of one sequence, a warp 16 of them.
// Tiles of 64 keys and values pass through shared memory in rising order, copied two tiles ahead; a warp leaves out those
// that none of its queries sees. Its order of sums is its own, and follows from a query's position alone too.
//
// PlainAttention (everything else): a block per row and query head, fp32, chunks of 64 keys in rising order.
#include <algorithm>
#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/attention/packed_attention.cuh"
#include "kernels/attention/tiled_attention.cuh"
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
  ClusterWait();  // the others may be sent to
  const int n_kv_heads = args.attention.kv.n_kv_heads;
  int turn = 0;
  for (int item = static_cast<int>(blockIdx.y);; item += static_cast<int>(gridDim.y), ++turn) {
    const Task task = packed_attention::FindTask(rows, first_rows, args.rows_per_task, item / n_kv_heads);
    if (task.n_rows == 0) break;
    ClusterAttention<D>(args.attention, item % n_kv_heads, ClusterRank(), shared, barrier)
        .Run(task, first_rows, turn);
  }
#endif
}

__device__ float LoadValue(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
}

struct PlainArgs {
  AttentionArgs attention;
  uint16_t* rounded;
};

__global__ void __launch_bounds__(kThreads) PlainAttention(const __grid_constant__ PlainArgs plain) {
  const AttentionArgs& args = plain.attention;
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
      if (i >= d) break;
      const int64_t to = (r * args.n_heads + head) * d + i;
      if (plain.rounded != nullptr) {
        plain.rounded[to] = FloatToBf16(acc[part] / total);
      } else {
        args.out[to] = acc[part] / total;
      }
    }
  }
}

struct TiledArgs {
  AttentionArgs attention;
  uint16_t* rounded;
  int rows_per_block;
};

// A block looks at rows_per_block rows of the plan, which are of one sequence as a rule, and takes runs of one sequence
// among them, those gridDim.z apart.
template <int D, int kTiledWarps>
__global__ void __launch_bounds__(kTiledWarps * 32) TiledAttention(const __grid_constant__ TiledArgs args) {
#ifdef TANDEM_SM90
  using Tiled = tiled_attention::Tiled<D, kTiledWarps>;
  constexpr int kWords = Tiled::kQueries / 32;
  extern __shared__ __align__(128) char tiles[];
  __shared__ uint32_t shared_begins[kWords];
  WaitForPrevious();
  LetNextStart();
  const RowPlan& rows = args.attention.rows;
  const int thread = static_cast<int>(threadIdx.x);
  // The last rows have the most keys and come first.
  const int first = static_cast<int>(gridDim.y - 1 - blockIdx.y) * args.rows_per_block;
  const int n_rows = min(__ldcg(rows.n_rows) - first, args.rows_per_block);
  if (n_rows <= 0) return;
  if (thread < Tiled::kQueries) {
    const int32_t* slot = rows.slot + first + thread;
    const bool begins = thread < n_rows && (thread == 0 || __ldcg(slot) != __ldcg(slot - 1));
    const uint32_t all = __ballot_sync(~0u, begins);
    if (thread % 32 == 0) shared_begins[thread / 32] = all;
  }
  __syncthreads();
  uint32_t begins[kWords];
#pragma unroll
  for (int w = 0; w < kWords; ++w) begins[w] = shared_begins[w];
  Tiled tiled(args.attention, static_cast<int>(blockIdx.x), tiles, args.rounded);
  for (int index = static_cast<int>(blockIdx.z);; index += static_cast<int>(gridDim.z)) {
    tiled_attention::Run run = tiled_attention::FindRun(begins, n_rows, index);
    if (run.n_rows == 0) break;
    run.row += first;
    tiled.Attend(run);
  }
#endif
}

template <int D, int kTiledWarps>
void LaunchTiled(const AttentionArgs& args, int group, uint16_t* rounded, cudaStream_t stream) {
  constexpr int kBlocks = 64;  // of a kv head: some for each multiprocessor
  const int rows_per_block = kTiledWarps * tiled_attention::kWarpQueries / group;
  const int n_blocks = (args.rows.capacity + rows_per_block - 1) / rows_per_block;
  KernelShape launch = {};
  // Few rows may be those of many sequences, which then have blocks of their own.
  launch.grid = dim3(args.kv.n_kv_heads, n_blocks, std::clamp(kBlocks / n_blocks, 1, 8));
  launch.threads = kTiledWarps * 32;
  launch.shared_bytes = tiled_attention::SharedBytes<D, kTiledWarps>();
  launch.overlap = true;
  AllowShared(TiledAttention<D, kTiledWarps>, launch.shared_bytes);
  LaunchKernel(TiledAttention<D, kTiledWarps>, launch, stream, TiledArgs{args, rounded, rows_per_block});
}

// Small blocks, two on a multiprocessor, for a round's rows of many sequences; large ones, which read a key once for more
// queries, for prefill.
template <int D>
void LaunchTiled(const AttentionArgs& args, int group, uint16_t* rounded, cudaStream_t stream) {
  constexpr int kRoundRows = 256;
  return args.rows.capacity <= kRoundRows ? LaunchTiled<D, 2>(args, group, rounded, stream)
                                          : LaunchTiled<D, 8>(args, group, rounded, stream);
}

template <int D>
void LaunchPacked(const AttentionArgs& args, int group, cudaStream_t stream) {
  KernelShape launch = {};
  launch.grid = dim3(kCluster);
  launch.threads = kThreads;
  launch.shared_bytes = SharedFloats<D>() * 4 + 8;
  launch.cluster = kCluster;
  launch.overlap = true;
  AllowShared(PackedAttention<D>, launch.shared_bytes);
  // As many clusters as there is room for at a time; they take tasks, of every kv head, in turns.
  cudaLaunchConfig_t config;
  cudaLaunchAttribute attributes[2];
  SetLaunch(launch, stream, config, attributes);
  int at_a_time = 0;
  TANDEM_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&at_a_time, PackedAttention<D>, &config));
  launch.grid.y =
      static_cast<unsigned>(std::min(args.rows.capacity * args.kv.n_kv_heads, std::max(at_a_time, 1)));
  LaunchKernel(PackedAttention<D>, launch, stream, PackedArgs{args, packed_attention::kQueries / group});
}

}  // namespace

void AttentionCuda(const AttentionArgs& args, cudaStream_t stream, uint16_t* rounded) {
  const int group = args.n_heads / args.kv.n_kv_heads, d = args.kv.head_dim;
  TANDEM_CHECK(rounded == nullptr || args.rows.capacity > kAttentionDecodeRows)
      << args.rows.capacity << " rows";
  if (args.kv.dtype == DType::kBf16 && (d == 64 || d == 128) && group <= packed_attention::kQueries &&
      ComputeCapability() >= 90) {
    if (args.rows.capacity > kAttentionDecodeRows) {
      return d == 64 ? LaunchTiled<64>(args, group, rounded, stream)
                     : LaunchTiled<128>(args, group, rounded, stream);
    }
    return d == 64 ? LaunchPacked<64>(args, group, stream) : LaunchPacked<128>(args, group, stream);
  }
  KernelShape launch = {};
  launch.grid = dim3(args.n_heads, std::clamp(args.rows.capacity, 1, 1024));
  launch.threads = kThreads;
  LaunchKernel(PlainAttention, launch, stream, PlainArgs{args, rounded});
}

}  // namespace tandem
