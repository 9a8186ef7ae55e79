// RowTeam: the threads that work on one row over the vocabulary: a thread-block cluster (sm_90 and later), whose blocks
// read each other's shared memory, or one block. What a row needs of the whole vocabulary - sums, the largest value, a
// quantile, a token drawn - costs one pass over it and one or two barriers.
//
// Deterministic, and the same bits for any number of blocks: a warp adds up one block of kLawBlock tokens at a time,
// lane l taking tokens l, l + 32, ..; the blocks' sums are put before every warp of the team, and each adds them up in
// the same fixed order. So every thread has every result, and all of them take the same decisions.
//
// Every thread of the team calls every function, with the same arguments. Leave() comes last.
#ifndef TANDEM_KERNELS_LAW_ROW_TEAM_CUH_
#define TANDEM_KERNELS_LAW_ROW_TEAM_CUH_

#include <cooperative_groups.h>

#include <cstdint>

#include "kernels/law/law.h"
#include "kernels/law/warp.cuh"
#include "runtime/core/launch.cuh"

namespace tandem {

inline constexpr int kTeamThreads = 512;  // of a block
inline constexpr int kTeamWarps = kTeamThreads / 32;
inline constexpr int kMaxTeamBlocks = 8;
inline constexpr int kMaxTeamTerms = 4;  // sums from one pass
inline constexpr int kDigits = 256;

// Shared memory of a team's block: two generations of block sums, and two histograms.
inline size_t TeamSharedBytes(int32_t n_vocab) {
  const size_t n_blocks = (n_vocab + kLawBlock - 1) / kLawBlock;
  return (2 * kMaxTeamTerms * n_blocks + 2 * kDigits) * sizeof(double);
}

// The shape of a launch with one team for each of n rows over n_vocab tokens.
inline LaunchShape TeamShape(int64_t n_rows, int32_t n_vocab, bool has_clusters) {
  const int32_t n_blocks = (n_vocab + kLawBlock - 1) / kLawBlock;
  LaunchShape shape;
  while (has_clusters && shape.cluster < kMaxTeamBlocks &&
         static_cast<int32_t>(shape.cluster) * kTeamWarps < n_blocks)
    shape.cluster *= 2;
  shape.grid = dim3(static_cast<unsigned>(n_rows * shape.cluster));
  shape.block = dim3(kTeamThreads);
  shape.shared_bytes = TeamSharedBytes(n_vocab);
  return shape;
}

class RowTeam {
 public:
  // Of a kernel that was launched with TeamShape(.., n_vocab, ..).
  __device__ explicit RowTeam(int32_t n_vocab)
      : n_vocab_(n_vocab), n_blocks_((n_vocab + kLawBlock - 1) / kLawBlock) {
    extern __shared__ double team_shared[];
    sums_ = team_shared;
    histogram_ = reinterpret_cast<uint64_t*>(team_shared + 2 * kMaxTeamTerms * n_blocks_);
#if __CUDA_ARCH__ >= 900
    size_ = static_cast<int>(cooperative_groups::this_cluster().num_blocks());
    rank_ = static_cast<int>(cooperative_groups::this_cluster().block_rank());
#endif
  }

  // What a term of a sum returns: N values at once (or Terms<N> of policies/rule.h, which is the same).
  template <int N>
  struct Values {
    float value[N];
  };

  // Which row, of those that the launch has teams for.
  __device__ int32_t row() const { return static_cast<int32_t>(blockIdx.x) / size_; }
  __device__ bool leads() const { return rank_ == 0 && threadIdx.x == 0; }
  __device__ bool is_first_warp() const { return rank_ == 0 && threadIdx.x < 32; }
  __device__ int32_t n_vocab() const { return n_vocab_; }

  // A block must not end while another may still look at its memory.
  __device__ void Leave() { Barrier(); }

  // The sums of term(v), which returns Values<N>, over all tokens v.
  template <int N, typename F>
  __device__ void Sum(F term, double (&total)[N]) {
    SumBlocks<N>(term);
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] = TotalOf(i);
    Turn();
  }

  // The same, and out[b] = the sum over block b of the first.
  template <typename F, typename Out>
  __device__ double SumByBlock(F term, Out out) {
    SumBlocks<1>(term);
    const double total = TotalOf(0);
    if (rank_ == 0) {
      for (int32_t block = threadIdx.x; block < n_blocks_; block += kTeamThreads) out(block, sum(0, block));
    }
    Turn();
    return total;
  }

  // All that was written is seen by all.
  __device__ void Barrier() {
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) return cooperative_groups::this_cluster().sync();
#endif
    __syncthreads();
  }

  // The largest t among the values whose weight, over all tokens with value >= t, reaches `target`; the smallest if none
  // does. weight(v): whole numbers, which add up exactly in any order. With share in (0, 1], target is that share of
  // all weight, rounded up, and at least 1. No value is NaN.
  template <typename Value, typename Weight>
  __device__ float Select(Value value, Weight weight, uint64_t target, double share) {
    uint64_t* mine = histogram_;
    uint64_t* all = histogram_ + kDigits;
    uint32_t prefix = 0;
    uint64_t above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int i = threadIdx.x; i < kDigits; i += kTeamThreads) mine[i] = 0;
      __syncthreads();
      for (int32_t v = rank_ * kTeamThreads + threadIdx.x; v < n_vocab_; v += size_ * kTeamThreads) {
        const uint32_t key = KeyOf(value(v));
        const uint64_t w = weight(v);
        if (w == 0 || (shift < 24 && (key ^ prefix) >> (shift + 8) != 0)) continue;
        atomicAdd(reinterpret_cast<unsigned long long*>(&mine[key >> shift & 255]),
                  static_cast<unsigned long long>(w));
      }
      Barrier();
      for (int i = threadIdx.x; i < kDigits; i += kTeamThreads) {
        uint64_t sum = 0;
        for (int r = 0; r < size_; ++r) sum += *Remote(&mine[i], r);
        all[i] = sum;
      }
      Barrier();
      // 8 digits a lane, from the highest down.
      uint64_t digit[8], own = 0;
      for (int i = 0; i < 8; ++i) own += digit[i] = all[kDigits - 1 - (lane() * 8 + i)];
      uint64_t before = own;
      for (int step = 1; step < 32; step *= 2) {
        const uint64_t other = __shfl_up_sync(~0u, before, step);
        if (lane() >= step) before += other;
      }
      const uint64_t sum = __shfl_sync(~0u, before, 31);
      before -= own;
      if (shift == 24 && share > 0) {
        const double wanted = ceil(share * static_cast<double>(sum));
        target = wanted > 1 ? static_cast<uint64_t>(wanted) : 1;
        if (target > sum) target = sum;
      }
      int found = -1, lowest = -1;
      uint64_t running = before, at_found = before;
      for (int i = 0; i < 8; ++i) {
        if (digit[i] != 0) lowest = i;
        if (found < 0 && digit[i] != 0 && above + running + digit[i] >= target) found = i, at_found = running;
        running += digit[i];
      }
      const unsigned finders = __ballot_sync(~0u, found >= 0);
      const unsigned holders = __ballot_sync(~0u, lowest >= 0);
      // Nothing has weight, or the weight does not reach: the smallest value there is.
      const int who = finders != 0 ? __ffs(finders) - 1 : holders != 0 ? 31 - __clz(holders) : 31;
      const int i = __shfl_sync(~0u, finders != 0 ? found : lowest >= 0 ? lowest : 7, who);
      above += __shfl_sync(~0u, finders != 0 ? at_found : 0, who);
      prefix |= static_cast<uint32_t>(kDigits - 1 - (who * 8 + i)) << shift;
    }
    Barrier();
    return ValueOf(prefix);
  }

  // The sums of term(v), which returns Values<N>, over every block, put before every warp of the team: BlockSum and TotalOf
  // tell them until Turn.
  template <int N, typename F>
  __device__ void SumBlocks(F term) {
    static_assert(N <= kMaxTeamTerms);
    for (int32_t block = warp(); block < n_blocks_; block += n_warps()) {
      double own[N] = {};
      ForBlock(block, [&](int32_t v) {
        const auto terms = term(v);
#pragma unroll
        for (int i = 0; i < N; ++i) own[i] += terms.value[i];
      });
#pragma unroll
      for (int i = 0; i < N; ++i) own[i] = WarpSum(own[i]);
      Put<N>(block, own);
    }
    Barrier();
  }
  __device__ double BlockSum(int term, int32_t block) { return sum(term, block); }
  __device__ double TotalOf(int term) {
    return SumInOrder(n_blocks_, [&](int32_t block) { return sum(term, block); }).total;
  }
  // Every thread, when all that it wants of the sums is done.
  __device__ void Turn() { generation_ ^= 1; }

  // The same address in the memory of the team's first block.
  template <typename T>
  __device__ T* InFirst(T* mine) const {
    return Remote(mine, 0);
  }
  __device__ bool in_first_block() const { return rank_ == 0; }
  __device__ int32_t n_blocks() const { return n_blocks_; }

 private:
  __device__ int lane() const { return threadIdx.x % 32; }
  __device__ int warp() const { return rank_ * kTeamWarps + static_cast<int>(threadIdx.x) / 32; }
  __device__ int n_warps() const { return size_ * kTeamWarps; }

  template <typename T>
  __device__ T* Remote(T* mine, int rank) const {
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
#endif
    return mine;
  }

  // What is put after Turn goes to the other generation: this one may still be read until the barrier after that.
  __device__ double& sum(int term, int32_t block) {
    return sums_[(generation_ * kMaxTeamTerms + term) * n_blocks_ + block];
  }

  // f(v) for this lane's tokens of a block.
  template <typename F>
  __device__ void ForBlock(int32_t block, F f) const {
    const int32_t begin = block * kLawBlock;
    if (begin + kLawBlock <= n_vocab_) {
#pragma unroll 8
      for (int32_t i = 0; i < kLawBlock; i += 32) f(begin + i + lane());
    } else {
      for (int32_t v = begin + lane(); v < n_vocab_; v += 32) f(v);
    }
  }

  // Puts a block's values, which all lanes of the warp have, before every block of the team.
  template <int N>
  __device__ void Put(int32_t block, const double (&value)[N]) {
    for (int i = 0; i < N; ++i) {
      if (lane() < size_) *Remote(&sum(i, block), lane()) = value[i];
    }
  }

  // Keys order as the values do.
  static __device__ uint32_t KeyOf(float value) {
    const uint32_t bits = __float_as_uint(value);
    return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  }
  static __device__ float ValueOf(uint32_t key) {
    return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
  }

  int32_t n_vocab_, n_blocks_;
  int size_ = 1, rank_ = 0;
  int generation_ = 0;
  double* sums_;         // [2][kMaxTeamTerms][n_blocks]
  uint64_t* histogram_;  // [2][kDigits]
};

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_ROW_TEAM_CUH_
