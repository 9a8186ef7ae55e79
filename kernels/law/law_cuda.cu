#include "kernels/law/law.cuh"
#include "kernels/law/law.h"
#include "kernels/law/row_team.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A warp takes a block of a row, and keeps its logits.
__global__ void __launch_bounds__(kThreads) LawBlocksKernel(const LawBlocksArgs args) {
  constexpr int kPerLane = kLawBlock / 32;
  const int32_t n_vocab = args.laws.n_vocab;
  const int32_t b = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / 32);
  const int32_t i = static_cast<int32_t>(blockIdx.y);
  if (i >= *args.rows.n_logits || b >= NumLawBlocks(n_vocab)) return;
  const int64_t out = args.rows.logits_out[i];
  const Sampling sampling = args.states[args.rows.slot[args.rows.logits_row[i]]].sampling;
  const float* logits = args.laws.logits + out * args.laws.stride;
  const int32_t first = b * kLawBlock + WarpLane();
  float x[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) x[j] = first + 32 * j < n_vocab ? logits[first + 32 * j] : -INFINITY;
  Peak peak;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) peak.Merge({x[j], first + 32 * j, false});
  peak = WarpPeak(peak);
  LawBlock block;
  block.max = peak.max;
  block.argmax = peak.argmax;
  if (peak.has_nan) {
    block.max = NAN;
    block.mass1 = NAN;
  } else if (peak.max > -INFINITY) {
    LawRecord record;
    record.max = peak.max;
    const auto mass = [&](float inv_t) {
      double own = 0;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) own += ExpNegative(LawExponent(record, x[j], inv_t, 0));
      return WarpSum(own);
    };
    block.mass1 = mass(1);
    block.mass = block.mass1;
    if (!sampling.greedy() && !sampling.cuts() && sampling.temperature != 1)
      block.mass = mass(1 / sampling.temperature);
  }
  if (WarpLane() == 0) args.laws.blocks_of(out)[b] = block;
}

// Weights in whole numbers, which add up exactly in any order: the largest is 2^40, and 2^20 of them fit 64 bits.
__device__ uint64_t WholeWeight(float weight) { return static_cast<uint64_t>(weight * 1099511627776.f); }

// The highest cutoff of those that are on.
__device__ float CutoffOf(RowTeam& team, const float* logits, const LawRecord& record,
                          const Sampling& sampling) {
  const auto logit = [&](int32_t v) { return logits[v]; };
  float cutoff = -INFINITY;
  if (sampling.top_k > 0 && sampling.top_k < team.n_vocab()) {
    const auto one = [](int32_t) { return uint64_t{1}; };
    cutoff = team.Select(logit, one, static_cast<uint64_t>(sampling.top_k), 0);
  }
  if (sampling.top_p < 1) {
    const auto weight = [&](int32_t v) {
      const float x = logits[v];
      return x >= cutoff ? WholeWeight(ExpNegative(LawExponent(record, x, record.inv_t, 0))) : uint64_t{0};
    };
    cutoff = fmaxf(cutoff, team.Select(logit, weight, 0, sampling.top_p));
  }
  if (sampling.min_p > 0) {
    const auto log_min_p = static_cast<float>(log(static_cast<double>(sampling.min_p)));
    cutoff = fmaxf(cutoff, record.max + log_min_p / record.inv_t);
  }
  return cutoff;
}

// As RecordOf of law_cpu.cc. Where nothing is cut off, it is one warp's work.
__device__ LawRecord RecordOf(RowTeam& team, const float* logits, const Sampling& sampling,
                              LawBlock* blocks) {
  const int32_t n_blocks = NumLawBlocks(team.n_vocab());
  LawRecord record;
  record.inv_t = sampling.greedy() ? 0 : 1 / sampling.temperature;
  record.cutoff = -INFINITY;
  Peak peak;
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) peak.Merge({blocks[b].max, blocks[b].argmax, false});
  peak = WarpPeak(peak);
  record.max = peak.max;
  record.argmax = peak.argmax;
  if (peak.has_nan || !isfinite(peak.max)) {
    record.max = -INFINITY;
    record.lse = record.lse1 = NAN;
    record.argmax = 0;
    return record;
  }
  // How much less than the row's is a block's largest weight.
  const auto scale = [&](const LawBlock& block, float inv_t) {
    return exp((static_cast<double>(block.max) - record.max) * inv_t);
  };
  const auto mass1 = [&](int32_t b) {
    const LawBlock block = blocks[b];
    return block.mass1 == 0 ? 0 : block.mass1 * scale(block, 1);
  };
  const auto mass = [&](int32_t b) {
    const LawBlock block = blocks[b];
    return block.mass1 == 0 ? 0 : block.mass * scale(block, record.inv_t);
  };
  record.lse1 = static_cast<float>(log(SumInOrder(n_blocks, mass1).total));
  if (sampling.greedy()) return record;

  // Where the likeliest token's p is 0 in fp32, or nearly so, there is nothing to draw.
  const auto put = [&](int32_t b, double value) {
    const bool any = (blocks[b].max - record.max) * record.inv_t - record.lse > -86;
    blocks[b].mass = any ? value : 0;
  };
  if (sampling.cuts()) {
    team.Barrier();  // a block's memory may be written from the others once it runs
    record.cutoff = CutoffOf(team, logits, record, sampling);
    const auto weight = [&](int32_t v) {
      const float x = logits[v];
      return RowTeam::Values<1>{
          {x >= record.cutoff ? ExpNegative(LawExponent(record, x, record.inv_t, 0)) : 0.f}};
    };
    // `put` looks at lse, which comes of the sum: blocks are written in a second go.
    const double total = team.SumByBlock(weight, [&](int32_t b, double value) { blocks[b].mass = value; });
    record.lse = static_cast<float>(log(total));
    team.Barrier();
    if (team.is_first_warp()) {
      for (int32_t b = WarpLane(); b < n_blocks; b += 32) put(b, blocks[b].mass);
    }
    return record;
  }
  record.lse = static_cast<float>(log(SumInOrder(n_blocks, mass).total));
  for (int32_t b = WarpLane(); b < n_blocks; b += 32) put(b, mass(b));
  return record;
}

__global__ void __launch_bounds__(kTeamThreads) LawKernel(const LawArgs args) {
  RowTeam team(args.laws.n_vocab);
  const int32_t i = team.row();
  if (i >= *args.rows.n_logits) return;
  const int64_t out = args.rows.logits_out[i];
  const Sampling sampling = args.states[args.rows.slot[args.rows.logits_row[i]]].sampling;
  if (team.is_first_warp() || (!sampling.greedy() && sampling.cuts())) {
    const LawRecord record =
        RecordOf(team, args.laws.logits + out * args.laws.stride, sampling, args.laws.blocks_of(out));
    if (team.leads()) args.laws.records[out] = record;
  }
  team.Leave();
}

}  // namespace

void LawBlocksCuda(const LawBlocksArgs& args, CudaStream stream) {
  const LaunchShape shape = {.grid = dim3(BlocksFor(NumLawBlocks(args.laws.n_vocab), kWarps),
                                          static_cast<unsigned>(args.rows.capacity)),
                             .block = kThreads};
  Launch(LawBlocksKernel, shape, stream, args);
}

void LawCuda(const LawArgs& args, CudaStream stream) {
  const LaunchShape shape = TeamShape(args.rows.capacity, args.laws.n_vocab, HasClusters(LawKernel));
  Launch(LawKernel, shape, stream, args);
}

}  // namespace tandem
