// The kernel of stream.h. Of a block's warps one copies weights and eight compute:
//
//   copier    all tiles of this block, in the order of the program, into a ring. At most `in_flight` tiles are asked for
//             at a time: more would only wait in the memory's queues, and what steps wait for behind them
//   workers   a product: its input into shared memory, as bf16; then group by group, each worker its strand of the sums
//             (strands.cuh); the strands meet in shared memory
//             attention: 8 blocks share the keys of a task (packed_attention.cuh), rotate its queries and append what of
//             the new keys is theirs
//
// Groups of 16 outputs go round the blocks, product after product, so that a product that does not divide leaves the next
// one to the blocks that had less.
#ifndef TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_
#define TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_

#include "kernels/stream/attention.cuh"
#include "kernels/stream/copier.cuh"
#include "kernels/stream/product.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

// A step's description into shared memory, without waiting.
__device__ __forceinline__ void FetchStep(const StreamStep* from, StreamStep* to) {
  static_assert(sizeof(StreamStep) % 16 == 0 && sizeof(StreamStep) / 16 <= kWorkerThreads);
  if (Thread() < static_cast<int>(sizeof(StreamStep) / 16)) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(to) + 16 * Thread()),
                 "l"(reinterpret_cast<const char*>(from) + 16 * Thread())
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

// What the kernels before this one have planned.
__device__ __forceinline__ void AwaitRows(const Params& params) {
  WaitForPrevious();
  Fixed& common = Common();
  const int thread = Thread();
  if (thread < kMaxRows) {
    const bool is_row = thread < params.rows.capacity;
    common.slot[thread] = is_row ? __ldcg(params.rows.slot + thread) : -1;
    common.position[thread] = is_row ? __ldcg(params.rows.position + thread) : 0;
  }
  if (thread == 0) {
    common.turn = static_cast<int32_t>(__ldcg(params.turn) & 1);
    common.n_rows = min(__ldcg(params.n_rows[0]), kMaxRows);
    common.n_logits = min(__ldcg(params.n_rows[1]), kMaxRows);
  }
  Meet();
}

// The last block to come here turns to the other half, for the next launch: all know this one's. Before the last step, for at
// the end a launch would wait for it.
__device__ __forceinline__ void CountBlock(const Params& params) {
  if (threadIdx.x != 0) return;
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

__device__ __forceinline__ void RunWorkers(const Params& params) {
  FetchStep(params.steps, Common().step);
  AwaitRows(params);
  ClearOtherHalf(params, Common().turn);
  MakeFirstShare();
  Round round;
  Progress progress;
  AwaitFetched();
  Meet();
#pragma unroll 1
  for (int s = 0; s < params.n_steps; ++s) {
    const StreamStep& step = Common().step[s & 1];
    if (threadIdx.x == 0) Common().n_done = s;
    if (s + 1 == params.n_steps) {
      LetNextStart();
      CountBlock(params);
    }
    Mark(0);
    if (s + 1 < params.n_steps) FetchStep(params.steps + s + 1, Common().step + ((s + 1) & 1));
    if (step.kind == Kind::kProduct) {
      if (step.before_attention) FetchKeys(step.attend);
      RunProduct(step.product, round, progress);
    } else if (step.attend.attention.kv.head_dim == 64) {
      RunAttention<64>(step.attend);
    } else {
      RunAttention<128>(step.attend);
    }
    AwaitFetched();
    Meet();
    Mark(3);
  }
}

// Registers from the copier's warps to the workers. Code for sm_90 instead of sm_90a cannot: workers spill there.
template <bool kWorker>
__device__ __forceinline__ void SetRegisters() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kWorker) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kWorkerRegisters));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCopierRegisters));
  }
#endif
}

#endif  // TANDEM_SM90

__global__ void __launch_bounds__(kThreads, 1) RunStream(const __grid_constant__ Params given) {
#ifdef TANDEM_SM90
  Fixed& common = Common();
  const int thread = threadIdx.x;
  for (int i = thread; i < static_cast<int>(sizeof(Params) / 4); i += kThreads) {
    reinterpret_cast<uint32_t*>(&common.params)[i] = reinterpret_cast<const uint32_t*>(&given)[i];
  }
  if (thread < 16) reinterpret_cast<uint32_t*>(common.zeros)[thread] = 0;
  if (thread == 0) {
    if (SharedAddress(Memory()) % kTileAlignment != 0) Fail();
    for (int i = 0; i < given.n_stages; ++i) {
      InitBarrier(SharedAddress(common.full + i), 1);
      InitBarrier(SharedAddress(common.empty + i), kWorkers);
    }
    PublishBarriers();
  }
  __syncthreads();
  if (thread >= kWorkerThreads) {
    SetRegisters<false>();
    if (thread < kWorkerThreads + 32) Copier(common.params).Run(common.params);
  } else {
    SetRegisters<true>();
    RunWorkers(common.params);
  }
#endif
}

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_STREAM_KERNEL_CUH_
