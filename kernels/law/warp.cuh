// What one warp does with the blocks of a law (core/law.h): sums over them in a fixed order, and the choice of a token. Every
// lane calls every function with the same arguments and has every result.
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

// A lane's value >= 0 among those of its warp: the sums before it and up to it, and all lanes'.
struct RunningSums {
  double before, after, total;
};

// In five steps. In every step the upper half of 2, 4, .. 32 lanes adds what the lower half comes to: so a sum up to a lane
// is a rounded sum of one number and of what lies before the lane in the upper half, which never falls from lane to lane,
// and a lane of 0 has the very sum of the lane before it.
__device__ __forceinline__ RunningSums Running(double own) {
  double after = own;
#pragma unroll
  for (int half = 1; half < 32; half *= 2) {
    const double lower = __shfl_sync(~0u, after, (WarpLane() & ~half) | (half - 1));
    if ((WarpLane() & half) != 0) after += lower;
  }
  const double before = __shfl_up_sync(~0u, after, 1);
  return {WarpLane() == 0 ? 0 : before, after, __shfl_sync(~0u, after, 31)};
}

// As ChooseBlock and ChooseInBlock of kernels/sample: the block that holds u, and the part of [0, 1) that is its own; then
// the token in it. Every comparison is with the very number that is reported as a breakpoint.
struct BlockChoice {
  int32_t block = -1;  // -1: the weights add up to nothing, or to no number
  double begin = 0, end = 0;
};

// Where a running sum of `total` is in [begin, end).
struct Breakpoints {
  double begin, end, total, scale;

  __device__ Breakpoints(double begin, double end, double total)
      : begin(begin), end(end), total(total), scale((end - begin) / total) {}
  __device__ double at(double running) const {
    const double at = begin + scale * running;
    return running == total || !(at < end) ? end : at;
  }
};

// The lane that holds u, of lanes that share out the sums from `before` to `after`, and its part of [0, 1).
struct LaneChoice {
  int lane;
  double begin, end;
};
__device__ __forceinline__ LaneChoice ChooseLane(double own, double before, double after,
                                                 const Breakpoints& breakpoints, double u) {
  // The last lane with anything takes what the orders of summation leave over.
  const unsigned holders = __ballot_sync(~0u, own > 0);
  const int last = holders == 0 ? 0 : 31 - __clz(holders);
  const double running = before + Running(own).after;
  const double end = breakpoints.at(WarpLane() >= last || !(running < after) ? after : running);
  const double previous = __shfl_up_sync(~0u, end, 1);
  const double begin = WarpLane() == 0 ? breakpoints.at(before) : previous;
  const unsigned within = __ballot_sync(~0u, u < end);
  const int lane = within == 0 ? last : __ffs(within) - 1;
  return {lane, __shfl_sync(~0u, begin, lane), __shfl_sync(~0u, end, lane)};
}

// The masses of a row's blocks as a warp looks at them: the mass of block b is at mass[b * stride], each lane has
// consecutive ones. Those that a lane has in registers are on their way when FetchMasses returns.
struct BlockMasses {
  static constexpr int kHeld = 8;
  const double* mass;
  int32_t stride, n_blocks;
  double held[kHeld];

  __device__ int32_t per_lane() const { return (n_blocks + 31) / 32; }
  __device__ double at(int32_t b) const { return b < n_blocks ? mass[static_cast<int64_t>(b) * stride] : 0; }
  __device__ double own() const {
    double sum = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) sum += held[j];
#pragma unroll 1
    for (int j = kHeld; j < per_lane(); ++j) sum += at(WarpLane() * per_lane() + j);
    return sum;
  }
};
__device__ __forceinline__ BlockMasses FetchMasses(const double* mass, int32_t stride, int32_t n_blocks) {
  BlockMasses masses;
  masses.mass = mass;
  masses.stride = stride;
  masses.n_blocks = n_blocks;
  const int32_t per_lane = masses.per_lane();
#pragma unroll
  for (int j = 0; j < BlockMasses::kHeld; ++j)
    masses.held[j] = j < per_lane ? masses.at(WarpLane() * per_lane + j) : 0;
  return masses;
}

// own: the masses' own(). Not inlined, and so without a reference to what a caller has in registers.
__device__ __noinline__ inline BlockChoice ChooseBlockOf(const double* mass, int32_t stride, int32_t n_blocks,
                                                         double own, double u) {
  const int32_t per_lane = (n_blocks + 31) / 32;
  const RunningSums lanes = Running(own);
  if (!(lanes.total > 0) || !isfinite(lanes.total)) return {};
  const Breakpoints breakpoints(0, 1, lanes.total);
  // The lane that holds u; then its blocks, a lane each.
  const unsigned within = __ballot_sync(~0u, u < breakpoints.at(lanes.after));
  if (within == 0) return {};
  const int who = __ffs(within) - 1;
  const int32_t b = who * per_lane + WarpLane();
  const bool here = WarpLane() < per_lane && b < n_blocks;
  const double of_block = here ? mass[static_cast<int64_t>(b) * stride] : 0;
  const LaneChoice choice = ChooseLane(of_block, __shfl_sync(~0u, lanes.before, who),
                                       __shfl_sync(~0u, lanes.after, who), breakpoints, u);
  return {who * per_lane + choice.lane, choice.begin, choice.end};
}
__device__ __forceinline__ BlockChoice ChooseBlock(const BlockMasses& masses, double u) {
  return ChooseBlockOf(masses.mass, masses.stride, masses.n_blocks, masses.own(), u);
}

// The weights of a block's tokens in shared memory, in 32 groups of 32.
struct GroupWeights {
  double sum[32];
  uint32_t positive[32];  // bit l: of[group][l] > 0
  float of[32][32];
};

// By a warp: its lanes' weights are a group's.
__device__ __forceinline__ void PutGroup(GroupWeights& weights, int group, float weight) {
  weights.of[group][WarpLane()] = weight;
  const double sum = WarpSum(weight);
  const unsigned positive = __ballot_sync(~0u, weight > 0);
  if (WarpLane() != 0) return;
  weights.sum[group] = sum;
  weights.positive[group] = positive;
}

// By kWarps warps of a block, of which this one is number `warp`. The weights are weight(v, fetch(v)); both may be asked for v
// beyond the vocabulary, where a weight is 0.
template <int kWarps, typename G, typename F>
__device__ __forceinline__ void PutBlock(GroupWeights& weights, int32_t block, int warp, G fetch, F weight) {
  constexpr int kGroups = 32 / kWarps;
  const int group = warp * kGroups;
  const int32_t first = block * kLawBlock + group * 32 + WarpLane();
  decltype(fetch(0)) x[kGroups];
#pragma unroll
  for (int j = 0; j < kGroups; ++j) x[j] = fetch(first + 32 * j);
#pragma unroll
  for (int j = 0; j < kGroups; ++j) PutGroup(weights, group + j, weight(first + 32 * j, x[j]));
}

// A token, and the part of [0, 1) that is its own. -1: nothing has weight.
struct TokenChoice {
  int32_t token = -1;
  double low = 0, high = 1;
};

// By a warp, when the weights of a block with [begin, end) are there. Two steps down: to 32 tokens, to one; at each, the
// running sum at the end of every part.
__device__ __noinline__ inline TokenChoice ChooseInGroupsOf(int32_t block, double begin, double end, double u,
                                                            const GroupWeights* weights) {
  __builtin_assume(__isShared(weights) != 0);
  const unsigned holders = __ballot_sync(~0u, weights->positive[WarpLane()] != 0);
  if (holders == 0) return {};
  const RunningSums groups = Running(weights->sum[WarpLane()]);
  const Breakpoints breakpoints(begin, end, groups.total);
  const unsigned within = __ballot_sync(~0u, u < breakpoints.at(groups.after));
  const int group = within == 0 ? 31 - __clz(holders) : __ffs(within) - 1;
  const LaneChoice choice = ChooseLane(weights->of[group][WarpLane()], __shfl_sync(~0u, groups.before, group),
                                       __shfl_sync(~0u, groups.after, group), breakpoints, u);
  return {block * kLawBlock + group * 32 + choice.lane, choice.begin, choice.end};
}
__device__ __forceinline__ TokenChoice ChooseInGroups(const BlockChoice& choice, double u,
                                                      const GroupWeights& weights) {
  return ChooseInGroupsOf(choice.block, choice.begin, choice.end, u, &weights);
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_WARP_CUH_
