#include <cstring>

#include "kernels/law/law.cuh"
#include "kernels/law/law.h"
#include "kernels/law/row_team.cuh"

namespace tandem {
namespace {

constexpr int kPerLane = kLawBlock / 32;

// A lane's share of a block: the tokens lane, lane + 32, ..
__device__ void FetchBlock(const float* logits, int32_t n_vocab, int32_t b, float (&x)[kPerLane]) {
  const int32_t first = b * kLawBlock + WarpLane();
  if ((b + 1) * kLawBlock <= n_vocab) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) x[j] = logits[first + 32 * j];
    return;
  }
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) x[j] = first + 32 * j < n_vocab ? logits[first + 32 * j] : -INFINITY;
}

// Sum of exp(exponent(x)) over a block, by a warp. As on a CPU: four in fp32, then in double; the largest is 1, and so what is
// under exp(-87) makes no difference.
template <typename F>
__device__ double BlockMass(const float (&x)[kPerLane], F exponent) {
  double own = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; j += 4) {
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = ExpInRange(fmaxf(exponent(x[j + i]), -87.f));
    own += (four[0] + four[1]) + (four[2] + four[3]);
  }
  return WarpSum(own);
}

// Nothing that is computed from it moves before this, so that nothing before this waits for it.
__device__ void UseFromHere(Sampling& sampling) {
  asm volatile(""
               : "+f"(sampling.temperature), "+r"(sampling.top_k), "+f"(sampling.top_p),
                 "+f"(sampling.min_p));
}

__device__ LawBlock BlockOf(const float (&x)[kPerLane], int32_t b, Sampling& sampling) {
  float max = x[0];
#pragma unroll
  for (int j = 1; j < kPerLane; ++j) max = MaxOrNan(max, x[j]);
  max = WarpMaxOrNan(max);
  int first = kPerLane;  // the lane's first token that has it
#pragma unroll
  for (int j = kPerLane - 1; j >= 0; --j) first = x[j] == max ? j : first;
  LawBlock block;
  block.max = max;
  block.argmax = b * kLawBlock + __reduce_min_sync(~0u, first * 32 + WarpLane());
  if (isnan(max)) {
    block.mass1 = NAN;
  } else if (max > -INFINITY) {
    block.mass1 = BlockMass(x, [max](float of) { return of - max; });
    block.mass = block.mass1;
    UseFromHere(sampling);
    if (!sampling.greedy() && !sampling.cuts() && sampling.temperature != 1)
      block.mass =
          BlockMass(x, [max, inv_t = 1 / sampling.temperature](float of) { return (of - max) * inv_t; });
  }
  return block;
}

// Weights in whole numbers, which add up exactly in any order: the largest is 2^40, and 2^20 of them fit 64 bits.
__device__ uint64_t WholeWeight(float weight) { return static_cast<uint64_t>(weight * 1099511627776.f); }

// The highest cutoff of those that are on.
__device__ float CutoffOf(RowTeam& team, const float* logits, const LawRecord& record,
                          const Sampling& sampling) {
  const auto fetch = [&](int32_t v) { return v < team.n_vocab() ? logits[v] : -INFINITY; };
  const auto itself = [](float x) { return x; };
  float cutoff = -INFINITY;
  if (sampling.top_k > 0 && sampling.top_k < team.n_vocab()) {
    const auto one = [](float) { return uint64_t{1}; };
    cutoff = team.Select(fetch, itself, one, static_cast<uint64_t>(sampling.top_k), 0);
  }
  if (sampling.top_p < 1) {
    const auto weight = [&](float x) {
      return x >= cutoff ? WholeWeight(ExpNegative(LawExponent(record, x, record.inv_t, 0))) : uint64_t{0};
    };
    cutoff = fmaxf(cutoff, team.Select(fetch, itself, weight, 0, sampling.top_p));
  }
  if (sampling.min_p > 0) {
    const auto log_min_p = static_cast<float>(log(static_cast<double>(sampling.min_p)));
    cutoff = fmaxf(cutoff, record.max + log_min_p / record.inv_t);
  }
  return cutoff;
}

// What the warps of a block have found.
struct WarpSums {
  double mass1[kTeamWarps], mass[kTeamWarps];
};

// As RecordOf of law_cpu.cc, by the team's first block; where something is cut off, by the team. `blocks`: of the row, in the
// block's own memory; thread t has t, t + kTeamThreads, ... Masses out in the team's first block, each its thread's.
__device__ LawRecord RecordOf(RowTeam& team, const float* logits, const Sampling& sampling, LawBlock* blocks,
                              WarpSums& sums) {
  const int32_t n_blocks = NumLawBlocks(team.n_vocab());
  const auto thread = static_cast<int32_t>(threadIdx.x);
  LawRecord record;
  record.inv_t = sampling.greedy() ? 0 : 1 / sampling.temperature;
  record.cutoff = -INFINITY;
  float max = -INFINITY;
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) max = MaxOrNan(max, blocks[b].max);
  max = WarpMaxOrNan(max);
  record.max = max;
  if (thread < 32) {  // who writes the record
    int32_t argmax = INT32_MAX;
    for (int32_t b = WarpLane(); b < n_blocks; b += 32) {
      if (blocks[b].max == max) argmax = min(argmax, blocks[b].argmax);
    }
    record.argmax = __reduce_min_sync(~0u, argmax);
  }
  if (!isfinite(max)) {
    record.max = -INFINITY;
    record.lse = record.lse1 = NAN;
    record.argmax = 0;
    return record;
  }
  const bool cuts = !sampling.greedy() && sampling.cuts();
  const bool same = record.inv_t == 1 && !cuts;  // p is p1
  double own1 = 0, own = 0;
  for (int32_t b = thread; b < n_blocks; b += kTeamThreads) {
    const LawBlock block = blocks[b];
    // How much less than the row's is a block's largest weight.
    const double below = static_cast<double>(block.max) - record.max;
    const double scale1 = exp(below);
    const double mass1 = block.mass1 == 0 ? 0 : block.mass1 * scale1;
    own1 += mass1;
    if (sampling.greedy() || cuts) continue;
    const double mass = same || block.mass1 == 0 ? mass1 : block.mass * exp(below * record.inv_t);
    blocks[b].mass = mass;
    own += mass;
  }
  const int32_t n_warps = min(kTeamWarps, (n_blocks + 31) / 32);  // that have blocks
  if (thread / 32 < n_warps) {
    own1 = WarpSum(own1);
    if (!same) own = WarpSum(own);
    if (WarpLane() == 0) {
      sums.mass1[thread / 32] = own1;
      sums.mass[thread / 32] = own;
    }
  }
  __syncthreads();
  double total1 = 0, total = 0;
  for (int32_t warp = 0; warp < n_warps; ++warp) {
    total1 += sums.mass1[warp];
    total += sums.mass[warp];
  }
  record.lse1 = static_cast<float>(log(total1));
  if (sampling.greedy()) return record;

  if (cuts) {
    record.cutoff = CutoffOf(team, logits, record, sampling);
    const auto fetch = [&](int32_t v) { return v < team.n_vocab() ? logits[v] : -INFINITY; };
    const auto weight = [&](int32_t, float x) {
      const float kept = ExpNegative(LawExponent(record, x, record.inv_t, 0));
      return RowTeam::Values<1>{{x >= record.cutoff ? kept : 0.f}};
    };
    total = team.SumByBlock(fetch, weight, [&](int32_t b, double value) { blocks[b].mass = value; });
  }
  record.lse = same ? record.lse1 : static_cast<float>(log(total));
  // Where the likeliest token's p is 0 in fp32, or nearly so, there is nothing to draw.
  for (int32_t b = thread; b < n_blocks; b += kTeamThreads) {
    const bool any = (blocks[b].max - record.max) * record.inv_t - record.lse > -86;
    if (!any) blocks[b].mass = 0;
  }
  return record;
}

// A warp's finding to where the record is made: in the first block of the team or, to be read by all, in every one.
__device__ void Put(const RowTeam& team, const LawBlock& block, LawBlock* to, uint64_t* arrived,
                    bool to_all) {
  constexpr int kWords = sizeof(LawBlock) / sizeof(uint64_t);
  static_assert(sizeof(LawBlock) % sizeof(uint64_t) == 0 && kMaxTeamBlocks * kWords <= 32);
  const int n = to_all ? team.size() : 1;
#ifdef TANDEM_SM90
  if (team.size() > 1) {
    // A word a lane; whoever waits for `arrived` waits for nothing else.
    uint64_t words[kWords];
    std::memcpy(words, &block, sizeof(block));
    const int rank = WarpLane() / kWords, word = WarpLane() % kWords;
    const uint64_t mine = word == 0 ? words[0] : word == 1 ? words[1] : words[2];
    if (rank < n) {
      StoreAsync(InBlock(SharedAddress(reinterpret_cast<uint64_t*>(to) + word), rank), mine,
                 InBlock(SharedAddress(arrived), rank));
    }
    return;
  }
#endif
  if (WarpLane() < n) *to = block;
}

// A team takes a row, one of its warps a block of it; the blocks meet in shared memory.
__global__ void __launch_bounds__(kTeamThreads) LawKernel(const __grid_constant__ LawArgs args) {
  __shared__ WarpSums sums;
  __shared__ uint64_t arrived;  // a barrier that counts the bytes of all blocks
  RowTeam team(args.laws.n_vocab);
  const int32_t n_blocks = NumLawBlocks(args.laws.n_vocab);
#ifdef TANDEM_SM90
  if (team.size() > 1 && threadIdx.x == 0) {
    InitBarrier(SharedAddress(&arrived), 1);
    PublishBarriers();
    ExpectBytes(SharedAddress(&arrived), static_cast<uint32_t>(n_blocks * sizeof(LawBlock)));
  }
#endif
  WaitForPrevious();
  LetNextStart();
  const int32_t i = team.row();
  const int32_t n_logits = *args.rows.n_logits;
  const int64_t out = args.rows.logits_out[i];
  const int32_t row = args.rows.logits_row[i];
  __syncthreads();  // all three loads are on their way before one is waited for
  if (i >= n_logits) return;
  team.Arrive();
  const float* logits = args.laws.logits + out * args.laws.stride;
  const int32_t slot = args.rows.slot[row];
  int32_t b = team.warp();
  float x[kPerLane];
  __syncthreads();  // before the logits
  FetchBlock(logits, args.laws.n_vocab, b, x);
  Sampling sampling = args.states[slot].sampling;
  const auto cuts = [&] { return !sampling.greedy() && sampling.cuts(); };
  auto* blocks = static_cast<LawBlock*>(team.more());
  bool all_run = false;
  while (b < n_blocks) {
    const LawBlock block = BlockOf(x, b, sampling);
    UseFromHere(sampling);
    if (!all_run) team.Await();
    all_run = true;
    Put(team, block, &blocks[b], &arrived, cuts());
    b += team.n_warps();
    if (b < n_blocks) FetchBlock(logits, args.laws.n_vocab, b, x);
  }
  if (!all_run) team.Await();
  if (!team.in_first_block() && !cuts()) return;
#ifdef TANDEM_SM90
  if (team.size() > 1) WaitBarrier(SharedAddress(&arrived), 0);
#endif
  __syncthreads();
  const LawRecord record = RecordOf(team, logits, sampling, blocks, sums);
  if (!team.in_first_block()) return;
  if (team.leads()) args.laws.records[out] = record;
  LawBlock* to = args.laws.blocks_of(out);
  for (int32_t block = static_cast<int32_t>(threadIdx.x); block < n_blocks; block += kTeamThreads)
    to[block] = blocks[block];
}

}  // namespace

// A row's blocks are the beginning of its law step: what one multiprocessor has found reaches the next sooner than a step
// that comes after.
void LawBlocksCuda(const LawBlocksArgs&, CudaStream) {}

void LawCuda(const LawArgs& args, CudaStream stream) {
  const int32_t n_vocab = args.laws.n_vocab;
  const size_t blocks_bytes = NumLawBlocks(n_vocab) * sizeof(LawBlock);
  Launch(LawKernel, TeamShape(args.rows.capacity, n_vocab, HasClusters(LawKernel), blocks_bytes), stream,
         args);
}

}  // namespace tandem
