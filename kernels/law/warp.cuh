// What one warp does with the blocks of a law (core/law.h): sums over them in a fixed order, and the choice of a token. Every
// lane calls every function with the same arguments and has every result. What a kernel calls more than once and is long is
// not inlined: code that runs once costs more to fetch than to run.
#ifndef TANDEM_KERNELS_LAW_WARP_CUH_
#define TANDEM_KERNELS_LAW_WARP_CUH_

#include <cstdint>

#include "runtime/core/law.h"

namespace tandem {

__device__ inline int WarpLane() { return threadIdx.x % 32; }

// f(v, x) for v = first, first + n * step, .. < end, with x[j] = fetch(v + j * step): what a thread does with its tokens, n at
// a time. fetch is safe for any v. What is fetched is used in the loop's next round: the assembler moves a load down to
// its use, past other loads' waits, but not over the end of a round.
template <int n, typename G, typename F>
__device__ __forceinline__ void ForTokens(int32_t first, int32_t step, int32_t end, G fetch, F f) {
  decltype(fetch(0)) x[n], next[n];
#pragma unroll
  for (int j = 0; j < n; ++j) next[j] = fetch(first + j * step);
#pragma unroll 1
  for (int32_t v = first; v < end; v += n * step) {
#pragma unroll
    for (int j = 0; j < n; ++j) x[j] = next[j];
    const int32_t later = v + n * step;
    if (later < end) {
#pragma unroll
      for (int j = 0; j < n; ++j) next[j] = fetch(later + j * step);
    }
    f(v, x);
  }
}

// The larger one, NaN if either is.
__device__ inline float MaxOrNan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}
__device__ inline float WarpMaxOrNan(float own) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) own = MaxOrNan(own, __shfl_xor_sync(~0u, own, step));
  return own;
}

__device__ inline double WarpSum(double own) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) own += __shfl_xor_sync(~0u, own, step);
  return own;
}

// The sum of value(b) for b < n, in a fixed order.
template <typename F>
__device__ double WarpTotal(int32_t n, F value) {
  double own = 0;
#pragma unroll 4
  for (int32_t b = WarpLane(); b < n; b += 32) own += value(b);
  return WarpSum(own);
}

// A lane's share of a sum, and what lies before it.
struct LaneSums {
  double before, total;
};

// The lanes' values, added lane by lane.
__device__ __noinline__ inline LaneSums InOrder(double own) {
  LaneSums lanes = {0, 0};
#pragma unroll 8
  for (int lane = 0; lane < 32; ++lane) {
    if (lane == WarpLane()) lanes.before = lanes.total;
    lanes.total += __shfl_sync(~0u, own, lane);
  }
  return lanes;
}

// As ChooseBlock and ChooseInBlock of kernels/sample: the block that holds u, and the part of [0, 1) that is its own; then
// the token in it. Every comparison is with the very number that is reported as a breakpoint.
struct BlockChoice {
  int32_t block = -1;  // -1: the weights add up to nothing, or to no number
  double begin = 0, end = 0;
};

// The mass of block b is at mass[b * stride]. Each lane takes consecutive blocks: running sums of values >= 0 never fall.
__device__ __noinline__ inline BlockChoice ChooseBlock(const double* mass, int stride, int32_t n_blocks,
                                                       double u) {
  const int32_t per_lane = (n_blocks + 31) / 32;
  const int32_t first = WarpLane() * per_lane;
  double own = 0;
#pragma unroll 4
  for (int32_t b = first; b < first + per_lane; ++b) own += b < n_blocks ? mass[b * stride] : 0;
  const LaneSums lanes = InOrder(own);
  if (!(lanes.total > 0) || !isfinite(lanes.total)) return {};
  // The lane that holds u; then of its blocks, a lane each.
  const unsigned lanes_after = __ballot_sync(~0u, u < (lanes.before + own) / lanes.total);
  const int who = lanes_after == 0 ? 31 : __ffs(lanes_after) - 1;
  const double base = __shfl_sync(~0u, lanes.before, who);
  double before = 0, running = 0;
  for (int32_t i = 0; i < per_lane; ++i) {
    const int32_t b = who * per_lane + i;
    const double next = b < n_blocks ? mass[b * stride] : 0;
    if (i < WarpLane()) before += next;
    if (i <= WarpLane()) running += next;
  }
  BlockChoice mine = {who * per_lane + WarpLane(), (base + before) / lanes.total,
                      (base + running) / lanes.total};
  const bool holds = WarpLane() < per_lane && mine.block < n_blocks && u < mine.end;
  const unsigned found = __ballot_sync(~0u, holds);
  if (found == 0) return {};
  const int which = __ffs(found) - 1;
  return {__shfl_sync(~0u, mine.block, which), __shfl_sync(~0u, mine.begin, which),
          __shfl_sync(~0u, mine.end, which)};
}

// Shared memory of one warp that chooses in a block: 32 groups of 32 tokens, a word apart so that lanes read different banks.
struct GroupWeights {
  float of[32][33];
};

// The weights of the block's tokens are in `weights`. Two steps down: to 32 tokens, to one; at each, the running sum at the
// end of every part.
__device__ __noinline__ inline int32_t ChooseInGroups(const BlockChoice& choice, double u,
                                                      const GroupWeights& weights, double* low,
                                                      double* high) {
  const int32_t first = choice.block * kLawBlock;
  double own = 0;
  int32_t last = -1;
#pragma unroll 8
  for (int j = 0; j < 32; ++j) {
    const float w = weights.of[WarpLane()][j];
    own += w;
    if (w > 0) last = first + WarpLane() * 32 + j;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) last = max(last, __shfl_xor_sync(~0u, last, step));
  if (last < 0) return -1;
  const LaneSums groups = InOrder(own);
  const double scale = (choice.end - choice.begin) / groups.total;
  const auto breakpoint = [&](double running) {
    const double at = choice.begin + scale * running;
    return at < choice.end ? at : choice.end;
  };
  // The block's last token of positive weight takes what the orders of summation leave over.
  const int last_group = (last - first) / 32;
  const bool within = WarpLane() >= last_group || u < breakpoint(groups.before + own);
  const int group = __ffs(__ballot_sync(~0u, within)) - 1;
  const double before_group = __shfl_sync(~0u, groups.before, group);

  // In the order in which the group's lane added them up above.
  const int32_t v = first + group * 32 + WarpLane();
  const float w = weights.of[group][WarpLane()];
  const double before = InOrder(w).before;
  const double running = before + w;
  const double after = v >= last ? choice.end : breakpoint(before_group + running);
  const unsigned candidates = __ballot_sync(~0u, w > 0 && (u < after || v == last));
  const int who = candidates == 0 ? 31 : __ffs(candidates) - 1;
  *low = __shfl_sync(~0u, breakpoint(before_group + before), who);
  *high = __shfl_sync(~0u, after, who);
  return __shfl_sync(~0u, v, who);
}

// The weights are weight(v, fetch(v)) for v < n_vocab; both may be asked for v beyond it.
template <typename G, typename F>
__device__ int32_t ChooseInBlock(int32_t n_vocab, const BlockChoice& choice, double u, G fetch, F weight,
                                 GroupWeights& weights, double* low, double* high) {
  constexpr int kGroups = 16;  // whose logits are fetched together
  const int32_t begin = choice.block * kLawBlock;
  __syncwarp();
  ForTokens<kGroups>(begin + WarpLane(), 32, begin + kLawBlock, fetch, [&](int32_t v, const auto& fetched) {
    const int32_t group = (v - begin) / 32;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const float w = weight(v + 32 * j, fetched[j]);
      weights.of[group + j][WarpLane()] = v + 32 * j < n_vocab ? w : 0;
    }
  });
  __syncwarp();
  return ChooseInGroups(choice, u, weights, low, high);
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_WARP_CUH_
