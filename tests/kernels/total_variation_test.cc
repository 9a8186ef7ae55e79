#include "kernels/total_variation/total_variation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "kernels/law/law.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

// Two slots, gamma 2. The draft's vocabulary may be the smaller: its padding counts as probability 0.
struct Fixture {
  Fixture(Device device, int32_t n_draft, int32_t n_target)
      : arena(device, Access::kShared),
        runner(device),
        n_blocks(NumLawBlocks(std::max(n_draft, n_target))),
        out(arena.New<double>(6 * n_blocks), 6 * n_blocks),
        states(arena.New<SeqState>(2)) {
    std::fill(out.begin(), out.end(), -1.);
    for (int slot : {0, 1}) {
      states[slot].live = true;
      states[slot].sampling.temperature = 0.8f;
    }
    const int32_t n_proposed[2] = {2, 1};
    proposal.block = scores.block = 3;
    proposal.n_proposed = arena.Copy(n_proposed, 2);
    proposal.has_law = true;
    proposal.law = NewLaws(n_draft, 1);
    scores.law = NewLaws(n_target, 2);
  }
  LawBuffer NewLaws(int32_t n_vocab, int seed) {
    const LawBuffer laws = {arena.New<float>(6 * n_vocab), arena.New<LawRecord>(6),
                            arena.New<LawBlock>(6 * NumLawBlocks(n_vocab)), n_vocab, n_vocab};
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0, 3);
    std::generate_n(laws.logits, 6 * n_vocab, [&] { return normal(rng); });
    int32_t n = 6, slot[6] = {0, 0, 0, 1, 1, 1}, row[6] = {0, 1, 2, 3, 4, 5};
    RowPlan plan;
    plan.n_logits = &n;
    plan.slot = slot;
    plan.logits_row = plan.logits_out = row;
    std::vector<float> scratch(n_vocab);
    LawBlocksCpu({states, plan, laws}, {});
    LawCpu({states, plan, laws, scratch.data()}, {});
    return laws;
  }
  TotalVariationArgs args() { return {2, states, proposal, scores, out.data()}; }
  void Run() { runner.RunStep(args()); }
  double got(int32_t row) const {
    return std::accumulate(out.begin() + row * n_blocks, out.begin() + (row + 1) * n_blocks, 0.0);
  }
  double want(int32_t row) const {
    const int32_t n = std::max(proposal.law.n_vocab, scores.law.n_vocab);
    auto probs = [&](const LawBuffer& laws) {
      std::vector<double> p(n, 0);
      double total = 0;
      for (int32_t v = 0; v < laws.n_vocab; ++v) {
        total += p[v] = std::exp(static_cast<double>(laws.logits[row * laws.stride + v]) / 0.8);
      }
      for (double& x : p) x /= total;
      return p;
    };
    const std::vector<double> q = probs(proposal.law), p = probs(scores.law);
    double sum = 0;
    for (int32_t v = 0; v < n; ++v) sum += std::max(0.0, q[v] - p[v]);
    return sum;
  }

  Arena arena;
  ProgramRunner runner;
  int32_t n_blocks;
  std::span<double> out;
  SeqState* states;
  Proposal proposal;
  Scores scores;
};

class TotalVariation : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, TotalVariation, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

TEST_P(TotalVariation, AgreesWithDoubleAtEveryProposedPosition) {
  for (auto [n_draft, n_target] : {std::pair{5, 5}, {300, 307}, {1025, 1024}, {5000, 5003}}) {
    Fixture fixture(GetParam(), n_draft, n_target);
    if (GetParam().is_cuda()) {
      fixture.Run();
    } else {
      for (int worker = 0; worker < 3; ++worker) TotalVariationCpu(fixture.args(), {worker, 3});
    }
    // A sum of terms each off by a few ulp of an exponent of at most 40, all of which add up to 1.
    for (int32_t row : {0, 1, 3}) EXPECT_NEAR(fixture.got(row), fixture.want(row), 40 * 0x1p-23);
    for (int32_t row : {2, 4, 5}) EXPECT_EQ(fixture.out[row * fixture.n_blocks], -1) << "not asked for";
  }
}

TEST_P(TotalVariation, TheBonusPositionIfItsDraftLawIsKnown) {
  Fixture fixture(GetParam(), 2000, 2000);
  fixture.proposal.has_bonus_law = true;
  fixture.Run();
  for (int32_t row : {0, 1, 2, 3, 4}) EXPECT_NEAR(fixture.got(row), fixture.want(row), 40 * 0x1p-23);
  EXPECT_EQ(fixture.out[5 * fixture.n_blocks], -1);
}

TEST_P(TotalVariation, LeavesGreedyAbsentAndBrokenRowsAlone) {
  Fixture fixture(GetParam(), 100, 100);
  fixture.states[0].live = false;
  fixture.scores.law.records[3].lse = std::numeric_limits<float>::quiet_NaN();
  fixture.Run();
  for (double x : fixture.out) EXPECT_EQ(x, -1);
  fixture.states[0].live = true;
  fixture.states[0].sampling.temperature = 0;
  fixture.Run();
  for (double x : fixture.out) EXPECT_EQ(x, -1);
}

}  // namespace
}  // namespace tandem
