// What one warp does with the blocks of a law (core/law.h): sums over them in a fixed order, and the choice of a token. Every
// lane calls every function with the same arguments and has every result.
#ifndef TANDEM_KERNELS_LAW_WARP_CUH_
#define TANDEM_KERNELS_LAW_WARP_CUH_

#include <cstdint>

#include "runtime/core/law.h"

namespace tandem {

__device__ inline int WarpLane() { return threadIdx.x % 32; }

// A lane's share of a sum, and what lies before it.
struct LaneSums {
  double before, total;
};

// The lanes' values, added lane by lane.
__device__ inline LaneSums InOrder(double own) {
  LaneSums lanes = {0, 0};
  for (int lane = 0; lane < 32; ++lane) {
    if (lane == WarpLane()) lanes.before = lanes.total;
    lanes.total += __shfl_sync(~0u, own, lane);
  }
  return lanes;
}

// value(b) for b < n, each lane taking consecutive ones. Running sums of values >= 0 that are made of it never fall.
template <typename F>
__device__ LaneSums SumInOrder(int32_t n, F value) {
  const int32_t per_lane = (n + 31) / 32;
  double own = 0;
  for (int32_t i = 0; i < per_lane; ++i) {
    const int32_t b = WarpLane() * per_lane + i;
    if (b < n) own += value(b);
  }
  return InOrder(own);
}

struct Peak {
  float max = -INFINITY;
  int32_t argmax = INT32_MAX;  // its lowest id
  bool has_nan = false;

  __device__ void Merge(const Peak& other) {
    has_nan |= other.has_nan | isnan(other.max);
    const bool better = other.max > max || (other.max == max && other.argmax < argmax);
    if (!better) return;
    max = other.max;
    argmax = other.argmax;
  }
};
__device__ inline Peak WarpPeak(Peak peak) {
  for (int step = 16; step > 0; step /= 2) {
    peak.Merge({__shfl_xor_sync(~0u, peak.max, step), __shfl_xor_sync(~0u, peak.argmax, step),
                __shfl_xor_sync(~0u, static_cast<int>(peak.has_nan), step) != 0});
  }
  return peak;
}

__device__ inline double WarpSum(double own) {
  for (int step = 16; step > 0; step /= 2) own += __shfl_xor_sync(~0u, own, step);
  return own;
}

// As ChooseBlock and ChooseInBlock of kernels/sample: the block that holds u, and the part of [0, 1) that is its own; then
// the token in it. Every comparison is with the very number that is reported as a breakpoint.
struct BlockChoice {
  int32_t block = -1;  // -1: the weights add up to nothing, or to no number
  double begin = 0, end = 0;
};

template <typename F>
__device__ BlockChoice ChooseBlock(int32_t n_blocks, double u, F mass) {
  const LaneSums lanes = SumInOrder(n_blocks, mass);
  if (!(lanes.total > 0) || !isfinite(lanes.total)) return {};
  const int32_t per_lane = (n_blocks + 31) / 32;
  BlockChoice mine;
  double running = 0;
  for (int32_t i = 0; i < per_lane && mine.block < 0; ++i) {
    const int32_t b = WarpLane() * per_lane + i;
    if (b >= n_blocks) break;
    const double before = (lanes.before + running) / lanes.total;
    running += mass(b);
    const double after = (lanes.before + running) / lanes.total;
    if (u < after) mine = {b, before, after};
  }
  const unsigned found = __ballot_sync(~0u, mine.block >= 0);
  const int who = found == 0 ? 31 : __ffs(found) - 1;
  return {__shfl_sync(~0u, mine.block, who), __shfl_sync(~0u, mine.begin, who),
          __shfl_sync(~0u, mine.end, who)};
}

// weight(v) for v < n_vocab. Two steps down: to 32 tokens, to one; at each, the running sum at the end of every part.
template <typename F>
__device__ int32_t ChooseInBlock(int32_t n_vocab, const BlockChoice& choice, double u, F weight, double* low,
                                 double* high) {
  const int32_t first = choice.block * kLawBlock;
  double own = 0;
  int32_t last = -1;
  for (int j = 0; j < 32; ++j) {
    const int32_t v = first + WarpLane() * 32 + j;
    const float w = v < n_vocab ? weight(v) : 0;
    own += w;
    if (w > 0) last = v;
  }
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

  // Each lane adds up to its own token in order, as the group's lane did above.
  const int32_t v = first + group * 32 + WarpLane();
  const float w = v < n_vocab ? weight(v) : 0;
  double before = 0, running = 0;
  for (int j = 0; j < 32; ++j) {
    const double next = __shfl_sync(~0u, static_cast<double>(w), j);
    if (j < WarpLane()) before += next;
    if (j <= WarpLane()) running += next;
  }
  const double after = v >= last ? choice.end : breakpoint(before_group + running);
  const unsigned candidates = __ballot_sync(~0u, w > 0 && (u < after || v == last));
  const int who = candidates == 0 ? 31 : __ffs(candidates) - 1;
  *low = __shfl_sync(~0u, breakpoint(before_group + before), who);
  *high = __shfl_sync(~0u, after, who);
  return __shfl_sync(~0u, v, who);
}

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_WARP_CUH_
