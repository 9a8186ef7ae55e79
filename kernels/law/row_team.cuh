// RowTeam: the threads that work on one row over the vocabulary: a thread-block cluster (sm_90 and later), whose blocks
// read each other's shared memory, or one block. What a row needs of the whole vocabulary - sums, the largest value, a
// quantile, a token drawn - costs one pass over it and one or two barriers.
//
// Deterministic, and the same bits for any number of blocks: a warp adds up one block of kLawBlock tokens at a time,
// lane l taking tokens l, l + 32, ..; the blocks' sums are put before every warp of the team, and each adds them up in
// the same fixed order. So every thread has every result, and all of them take the same decisions.
//
// A pass is handed fetch(v), which reads what it needs of token v from memory and is safe for v outside the vocabulary, and
// a function of v and of what was fetched: see ProbOf of law.cuh.
//
// Every thread of the team calls every function, with the same arguments. Arrive() comes first; Await() before anything
// else, for another block's memory may be written only once it runs. The last thing that a team does with that memory
// ends with a barrier (all functions here do), so that a block may end at any time.
#ifndef TANDEM_KERNELS_LAW_ROW_TEAM_CUH_
#define TANDEM_KERNELS_LAW_ROW_TEAM_CUH_

#include <cstdint>

#include "kernels/cuda.cuh"
#include "kernels/law/law.h"
#include "kernels/law/warp.cuh"
#include "runtime/core/launch.cuh"

namespace tandem {

inline constexpr int kTeamThreads = 512;  // of a block
inline constexpr int kTeamWarps = kTeamThreads / 32;
inline constexpr int kMaxTeamBlocks = 8;
inline constexpr int kMaxTeamTerms = 4;  // sums from one pass
inline constexpr int kDigits = 256;
inline constexpr int kAtOnce = 8;  // tokens of a lane whose logits are fetched together

// Shared memory of a team's block: two generations of block sums, and two histograms.
TANDEM_HD inline size_t TeamSharedBytes(int32_t n_vocab) {
  const size_t n_blocks = (n_vocab + kLawBlock - 1) / kLawBlock;
  return (2 * kMaxTeamTerms * n_blocks + 2 * kDigits) * sizeof(double);
}

// The shape of a launch with one team for each of n rows over n_vocab tokens.
// `more_bytes` of shared memory are for the kernel, at RowTeam::more.
inline LaunchShape TeamShape(int64_t n_rows, int32_t n_vocab, bool has_clusters, size_t more_bytes = 0) {
  const int32_t n_blocks = (n_vocab + kLawBlock - 1) / kLawBlock;
  LaunchShape shape;
  while (has_clusters && shape.cluster < kMaxTeamBlocks &&
         static_cast<int32_t>(shape.cluster) * kTeamWarps < n_blocks)
    shape.cluster *= 2;
  shape.grid = dim3(static_cast<unsigned>(n_rows * shape.cluster));
  shape.block = dim3(kTeamThreads);
  shape.shared_bytes = TeamSharedBytes(n_vocab) + more_bytes;
  shape.overlap = true;
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
#ifdef TANDEM_SM90
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size_));
    rank_ = static_cast<int>(ClusterRank());
#endif
  }

  // What a term of a sum returns: N values at once (or Terms<N> of policies/rule.h, which is the same).
  template <int N>
  struct Values {
    float value[N];
  };

  // Which row, of those that the launch has teams for.
  __device__ int32_t row() const {
    return static_cast<int32_t>(blockIdx.x >> (31 - __clz(size_)));  // the size is a power of 2
  }
  __device__ bool leads() const { return rank_ == 0 && threadIdx.x == 0; }
  __device__ bool is_first_warp() const { return rank_ == 0 && threadIdx.x < 32; }
  __device__ int32_t n_vocab() const { return n_vocab_; }

  __device__ void* more() const { return histogram_ + 2 * kDigits; }
  __device__ int warp() const { return rank_ * kTeamWarps + static_cast<int>(threadIdx.x) / 32; }
  __device__ int n_warps() const { return size_ * kTeamWarps; }
  __device__ int size() const { return size_; }

  // This block runs; the team's blocks all do.
  __device__ void Arrive() {
#ifdef TANDEM_SM90
    if (size_ > 1) {
      __syncwarp();
      ClusterArriveRelaxed();
    }
#endif
  }
  __device__ void Await() {
#ifdef TANDEM_SM90
    if (size_ > 1) {
      __syncwarp();
      ClusterWait();
    }
#endif
  }

  // The sums of term(v, fetch(v)), which returns Values<N>, over all tokens v.
  template <int N, typename G, typename F>
  __device__ void Sum(G fetch, F term, double (&total)[N]) {
    SumBlocks<N>(fetch, term);
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] = TotalOf(i);
    Turn();
  }

  // The same, and out[b] = the sum over block b of the first.
  template <typename G, typename F, typename Out>
  __device__ double SumByBlock(G fetch, F term, Out out) {
    SumBlocks<1>(fetch, term);
    const double total = TotalOf(0);
    if (rank_ == 0) {
      for (int32_t block = threadIdx.x; block < n_blocks_; block += kTeamThreads) out(block, sum(0, block));
    }
    Turn();
    return total;
  }

  // All that was written is seen by all.
  __device__ void Barrier() {
#ifdef TANDEM_SM90
    if (size_ > 1) {
      __syncwarp();  // the barrier is one instruction of a whole warp: whoever was alone in a branch has to be back
      ClusterArrive();
      ClusterWait();
      return;
    }
#endif
    __syncthreads();
  }

  // The largest t among the values whose weight, over all tokens with value >= t, reaches `target`; the smallest if none
  // does. value(x), weight(x) of x = fetch(v); weights are whole numbers, which add up exactly in any order. With share in
  // (0, 1], target is that share of all weight, rounded up, and at least 1. No value is NaN.
  template <typename Fetch, typename Value, typename Weight>
  __device__ float Select(Fetch fetch, Value value, Weight weight, uint64_t target, double share) {
    uint64_t* mine = histogram_;
    uint64_t* all = histogram_ + kDigits;
    uint32_t prefix = 0;
    uint64_t above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int i = threadIdx.x; i < kDigits; i += kTeamThreads) mine[i] = 0;
      __syncthreads();
      const int32_t stride = size_ * kTeamThreads;
      const int32_t first_token = rank_ * kTeamThreads + static_cast<int32_t>(threadIdx.x);
      ForTokens<kAtOnce>(first_token, stride, n_vocab_, fetch, [&](int32_t first, const auto& x) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const uint32_t key = KeyOf(value(x[j]));
          const uint64_t w = first + j * stride < n_vocab_ ? weight(x[j]) : 0;
          if (w == 0 || (shift < 24 && (key ^ prefix) >> (shift + 8) != 0)) continue;
          atomicAdd(reinterpret_cast<unsigned long long*>(&mine[key >> shift & 255]),
                    static_cast<unsigned long long>(w));
        }
      });
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

  // The sums of term(v, fetch(v)), which returns Values<N>, over every block, put before every warp of the team: BlockSums and TotalOf
  // tell them until Turn.
  template <int N, typename G, typename F>
  __device__ void SumBlocks(G fetch, F term) {
    static_assert(N <= kMaxTeamTerms);
    for (int32_t block = warp(); block < n_blocks_; block += n_warps()) {
      double own[N] = {};
      const int32_t begin = block * kLawBlock;
      ForTokens<kAtOnce>(begin + lane(), 32, begin + kLawBlock, fetch, [&](int32_t first, const auto& x) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int32_t v = first + 32 * j;
          const auto terms = term(v, x[j]);
#pragma unroll
          for (int i = 0; i < N; ++i) own[i] += v < n_vocab_ ? terms.value[i] : 0;
        }
      });
#pragma unroll
      for (int i = 0; i < N; ++i) own[i] = WarpSum(own[i]);
      Put<N>(block, own);
    }
    Barrier();
  }
  __device__ const double* BlockSums(int term) { return &sum(term, 0); }
  __device__ double TotalOf(int term) {
    return WarpTotal(n_blocks_, [&](int32_t block) { return sum(term, block); });
  }
  // Every thread, when all that it wants of the sums is done.
  __device__ void Turn() { generation_ ^= 1; }

  // One warp of the team's first block: n words, to the same address in the memory of all other blocks.
  __device__ void Spread(uint64_t* mine, int n) const {
    __syncwarp();
    for (int i = lane(); i < (size_ - 1) * n; i += 32) *Remote(mine + i % n, 1 + i / n) = mine[i % n];
  }
  // To the same address in the memory of another block, or of this one.
  template <typename T>
  __device__ T* Remote(T* mine, int rank) const {
#ifdef TANDEM_SM90
    if (size_ > 1) {
      uint64_t address;
      asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(mine), "r"(rank));
      return reinterpret_cast<T*>(address);
    }
#endif
    return mine;
  }
  __device__ bool in_first_block() const { return rank_ == 0; }
  __device__ int32_t n_blocks() const { return n_blocks_; }

 private:
  __device__ int lane() const { return threadIdx.x % 32; }
  // What is put after Turn goes to the other generation: this one may still be read until the barrier after that.
  __device__ double& sum(int term, int32_t block) {
    return sums_[(generation_ * kMaxTeamTerms + term) * n_blocks_ + block];
  }

  // Puts a block's values, which all lanes of the warp have, before every block of the team.
  template <int N>
  __device__ void Put(int32_t block, const double (&value)[N]) {
    if (lane() >= size_) return;
#pragma unroll
    for (int i = 0; i < N; ++i) *Remote(&sum(i, block), lane()) = value[i];
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
