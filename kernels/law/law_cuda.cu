#include "kernels/law/law.cuh"
#include "kernels/law/law.h"
#include "kernels/law/row_team.cuh"

namespace tandem {
namespace {

constexpr int kPerLane = kLawBlock / 32;

// A lane's share of a block: the tokens lane, lane + 32, ..
__device__ void FetchBlock(const float* logits, int32_t n_vocab, int32_t b, float (&x)[kPerLane]) {
  const int32_t first = b * kLawBlock + WarpLane();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) x[j] = first + 32 * j < n_vocab ? logits[first + 32 * j] : -INFINITY;
}

// Sum of exp((x - max) * inv_t) over a block, by a warp. As on a CPU: four in fp32, then in double.
__device__ double BlockMass(const float (&x)[kPerLane], float max, float inv_t) {
  LawRecord record;
  record.max = max;
  double own = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; j += 4) {
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = ExpNegative(LawExponent(record, x[j + i], inv_t, 0));
    own += (four[0] + four[1]) + (four[2] + four[3]);
  }
  return WarpSum(own);
}

__device__ LawBlock BlockOf(const float (&x)[kPerLane], int32_t b, const Sampling& sampling) {
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
    block.mass1 = BlockMass(x, max, 1);
    block.mass = block.mass1;
    if (!sampling.greedy() && !sampling.cuts() && sampling.temperature != 1)
      block.mass = BlockMass(x, max, 1 / sampling.temperature);
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

// As RecordOf of law_cpu.cc. Where nothing is cut off, it is the first warp's work, else the team's. `blocks`: of the row,
// in the block's own memory; masses out in the team's first block.
__device__ LawRecord RecordOf(RowTeam& team, const float* logits, const Sampling& sampling,
                              LawBlock* blocks) {
  const int32_t n_blocks = NumLawBlocks(team.n_vocab());
  LawRecord record;
  record.inv_t = sampling.greedy() ? 0 : 1 / sampling.temperature;
  record.cutoff = -INFINITY;
  float max = -INFINITY;
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) max = MaxOrNan(max, blocks[b].max);
  max = WarpMaxOrNan(max);
  int32_t argmax = INT32_MAX;
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) {
    if (blocks[b].max == max) argmax = min(argmax, blocks[b].argmax);
  }
  record.max = max;
  record.argmax = __reduce_min_sync(~0u, argmax);
  if (!isfinite(max)) {
    record.max = -INFINITY;
    record.lse = record.lse1 = NAN;
    record.argmax = 0;
    return record;
  }
  const bool cuts = !sampling.greedy() && sampling.cuts();
  double own1 = 0, own = 0;
#pragma unroll 4
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) {
    const LawBlock block = blocks[b];
    // How much less than the row's is a block's largest weight.
    const double below = static_cast<double>(block.max) - record.max;
    const double scale1 = exp(below);
    own1 += block.mass1 == 0 ? 0 : block.mass1 * scale1;
    if (sampling.greedy() || cuts) continue;
    const double scale = record.inv_t == 1 ? scale1 : exp(below * record.inv_t);
    const double mass = block.mass1 == 0 ? 0 : block.mass * scale;
    blocks[b].mass = mass;
    own += mass;
  }
  record.lse1 = static_cast<float>(log(WarpSum(own1)));
  if (sampling.greedy()) return record;

  double total = 0;
  if (cuts) {
    record.cutoff = CutoffOf(team, logits, record, sampling);
    const auto fetch = [&](int32_t v) { return v < team.n_vocab() ? logits[v] : -INFINITY; };
    const auto weight = [&](int32_t, float x) {
      const float kept = ExpNegative(LawExponent(record, x, record.inv_t, 0));
      return RowTeam::Values<1>{{x >= record.cutoff ? kept : 0.f}};
    };
    total = team.SumByBlock(fetch, weight, [&](int32_t b, double value) { blocks[b].mass = value; });
    __syncthreads();
  } else {
    total = WarpSum(own);
  }
  record.lse = static_cast<float>(log(total));
  // Where the likeliest token's p is 0 in fp32, or nearly so, there is nothing to draw.
  if (!team.is_first_warp()) return record;
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) {
    const bool any = (blocks[b].max - record.max) * record.inv_t - record.lse > -86;
    if (!any) blocks[b].mass = 0;
  }
  return record;
}

// A team takes a row, one of its warps a block of it; the blocks meet in shared memory.
__global__ void __launch_bounds__(kTeamThreads) LawKernel(const __grid_constant__ LawArgs args) {
  WaitForPrevious();
  LetNextStart();
  RowTeam team(args.laws.n_vocab);
  const int32_t i = team.row();
  const int32_t n_logits = *args.rows.n_logits;
  const int64_t out = args.rows.logits_out[i];
  const int32_t row = args.rows.logits_row[i];
  if (i >= n_logits) return;
  team.Arrive();
  const float* logits = args.laws.logits + out * args.laws.stride;
  const int32_t n_blocks = NumLawBlocks(args.laws.n_vocab);
  int32_t b = team.warp();
  float x[kPerLane];
  FetchBlock(logits, args.laws.n_vocab, b, x);
  const Sampling sampling = args.states[args.rows.slot[row]].sampling;
  const bool cuts = !sampling.greedy() && sampling.cuts();
  auto* blocks = static_cast<LawBlock*>(team.more());
  bool all_run = false;
  while (b < n_blocks) {
    const LawBlock block = BlockOf(x, b, sampling);
    if (!all_run) team.Await();
    all_run = true;
    if (WarpLane() < (cuts ? team.size() : 1)) *team.Remote(&blocks[b], WarpLane()) = block;
    b += team.n_warps();
    if (b < n_blocks) FetchBlock(logits, args.laws.n_vocab, b, x);
  }
  if (!all_run) team.Await();
  team.Barrier();
  if (!team.is_first_warp() && !cuts) return;
  const LawRecord record = RecordOf(team, logits, sampling, blocks);
  if (!team.is_first_warp()) return;
  if (team.leads()) args.laws.records[out] = record;
  __syncwarp();
  static_assert(sizeof(LawBlock) % sizeof(uint64_t) == 0);
  const auto* from = reinterpret_cast<const uint64_t*>(blocks);
  auto* to = reinterpret_cast<uint64_t*>(args.laws.blocks_of(out));
  const auto n_words = static_cast<int32_t>(n_blocks * sizeof(LawBlock) / sizeof(uint64_t));
#pragma unroll 4
  for (int32_t word = WarpLane(); word < n_words; word += 32) to[word] = from[word];
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
