#include "kernels/law/law.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hwy/highway.h"
#include "hwy/targets.h"
#include "runtime/core/buffer.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

constexpr float kEps = std::numeric_limits<float>::epsilon();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t kCuda = -1;  // in place of an instruction set

std::vector<int64_t> Ways() {
  std::vector<int64_t> ways = hwy::SupportedAndGeneratedTargets();
  ways.push_back(kCuda);
  return ways;
}
std::string NameOf(const testing::TestParamInfo<int64_t>& info) {
  return info.param == kCuda ? std::string("CUDA") : std::string(hwy::TargetName(info.param));
}

// Every test runs on each instruction set that this machine has and the kernels are compiled for, and on a CUDA device.
class Laws : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    if (GetParam() == kCuda) TANDEM_SKIP_WITHOUT(kCudaDevice);
    Use(GetParam() == kCuda ? 0 : GetParam());
  }
  void TearDown() override { Use(0); }
  Device device() const { return GetParam() == kCuda ? kCudaDevice : kCpuDevice; }

 private:
  static void Use(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};
INSTANTIATE_TEST_SUITE_P(Targets, Laws, testing::ValuesIn(Ways()), NameOf);

// Functions that a device has in code of its own, which the steps' tests reach.
class CpuLawFunctions : public Laws {};
INSTANTIATE_TEST_SUITE_P(Targets, CpuLawFunctions, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         NameOf);

// One law step over `n_rows` rows that all belong to slot 0.
struct Fixture {
  Fixture(Device device, int32_t n_rows, int32_t n_vocab, int32_t stride)
      : arena(device, Access::kShared),
        runner(device),
        n_rows(n_rows),
        state(arena.New<SeqState>(1)),
        logits(arena.New<float>(n_rows * stride), static_cast<size_t>(n_rows) * stride) {
    std::fill(logits.begin(), logits.end(), 77.f);
    auto* rows = arena.New<int32_t>(n_rows);
    std::iota(rows, rows + n_rows, 0);
    plan.capacity = n_rows;
    plan.n_logits = arena.Copy(&n_rows, 1);
    plan.slot = arena.New<int32_t>(n_rows);
    plan.logits_row = plan.logits_out = rows;
    laws = {logits.data(), arena.New<LawRecord>(n_rows), arena.New<LawBlock>(n_rows * NumLawBlocks(n_vocab)),
            stride, n_vocab};
    scratch = arena.New<float>(4 * stride);
  }
  void Set(const std::vector<float>& values) { std::copy(values.begin(), values.end(), logits.begin()); }
  LawArgs args() { return {state, plan, laws, scratch}; }
  Law Run(const Sampling& sampling) {
    state->sampling = sampling;
    runner.RunStep(LawBlocksArgs{state, plan, laws});
    runner.RunStep(args());
    return laws.row(0);
  }
  Law RunReference(const Sampling& sampling) {
    state->sampling = sampling;
    LawReference(args());
    return laws.row(0);
  }

  Arena arena;
  ProgramRunner runner;
  int32_t n_rows;
  SeqState* state;
  std::span<float> logits;
  float* scratch;
  RowPlan plan;
  LawBuffer laws;
};

// Exponents (x - max) * inv_t - lse carry three roundings of numbers no larger than they are; exp adds 1.5
// ulp.
double ProbTolerance(const Law& law, double exponent) {
  return (2 + std::abs(exponent) + 2 * std::abs(law.record.lse)) * kEps;
}

TEST_P(Laws, AgreesWithTheReference) {
  std::mt19937 rng(1);
  for (int32_t n_vocab : {1, 2, 3, 5, 16, 31, 33, 307, 1023, 1024, 1025, 8192, 20000}) {
    for (float spread : {0.f, 0.5f, 3.f, 30.f}) {
      for (const Sampling& sampling :
           {Sampling{0}, Sampling{1}, Sampling{0.7f}, Sampling{0.1f}, Sampling{3.f, 0, 1, 0.05f},
            Sampling{0.7f, 5}, Sampling{1, 50}, Sampling{1, 100000}, Sampling{0.7f, 20, 1, 0.1f}}) {
        Fixture fixture(device(), 1, n_vocab, n_vocab + 3);
        std::normal_distribution<float> normal(1, spread + 1e-9f);
        for (int32_t v = 0; v < n_vocab; ++v) fixture.logits[v] = spread == 0 ? 2.f : normal(rng);
        const LawRecord want = fixture.RunReference(sampling).record;
        const LawRecord got = fixture.Run(sampling).record;
        EXPECT_EQ(got.inv_t, want.inv_t);
        EXPECT_EQ(got.cutoff, want.cutoff);  // top-k is exact; min-p is the same expression
        EXPECT_EQ(got.max, want.max);
        EXPECT_EQ(got.argmax, want.argmax);
        EXPECT_NEAR(got.lse, want.lse, 4 * kEps * (1 + want.lse));
        EXPECT_NEAR(got.lse1, want.lse1, 4 * kEps * (1 + want.lse1));
      }
    }
  }
}

// What top-p means, checked as such: the kept set reaches top_p of the mass after top-k, and without its
// smallest value it would not. Mass is summed in double here; the kernel's weights are off by a few fp32 ulp
// each.
TEST_P(Laws, TopPIsTheSmallestSetThatReachesIt) {
  std::mt19937 rng(2);
  for (int32_t n_vocab : {1, 2, 5, 40, 307, 8192}) {
    for (float spread : {0.f, 0.01f, 1.f, 3.f, 20.f}) {
      for (float top_p : {1e-6f, 0.1f, 0.5f, 0.9f, 0.99f, 0.999999f}) {
        for (int32_t top_k : {0, 7}) {
          for (float temperature : {0.3f, 1.f, 2.f}) {
            Fixture fixture(device(), 1, n_vocab, n_vocab);
            std::normal_distribution<float> normal(0, 1);
            // A coarse grid makes ties.
            for (float& x : fixture.logits) x = std::round(8 * spread * normal(rng)) / 8;
            const Law law = fixture.Run({temperature, top_k, top_p, 0});
            const LawRecord top_k_only = fixture.RunReference({temperature, top_k, 1, 0}).record;
            double all = 0, kept = 0, above = 0;
            for (float x : fixture.logits) {
              const double weight = std::exp((static_cast<double>(x) - law.record.max) * law.record.inv_t);
              if (x >= top_k_only.cutoff) all += weight;
              if (x >= law.record.cutoff) kept += weight;
              if (x > law.record.cutoff) above += weight;
            }
            const double slack = 8 * kEps;
            EXPECT_GE(kept / all, top_p - slack);
            EXPECT_LT(above / all, top_p + slack);
            EXPECT_GE(law.record.cutoff, top_k_only.cutoff);
            EXPECT_NEAR(law.record.lse, std::log(kept), 4 * kEps * (1 + std::log(kept)));
            if (spread > 0) {
              EXPECT_EQ(std::count(fixture.logits.begin(), fixture.logits.end(), law.record.cutoff) > 0,
                        true);
            }
          }
        }
      }
    }
  }
}

TEST_P(Laws, ProbabilitiesAgreeWithDouble) {
  std::mt19937 rng(3);
  for (int32_t n_vocab : {1, 3, 17, 1000, 3000}) {
    for (const Sampling& sampling :
         {Sampling{1}, Sampling{0.1f}, Sampling{1.5f, 10}, Sampling{0.8f, 0, 0.9f}}) {
      Fixture fixture(device(), 1, n_vocab, n_vocab);
      std::normal_distribution<float> normal(20, 4);
      for (float& x : fixture.logits) x = normal(rng);
      const Law law = fixture.Run(sampling);
      std::vector<float> p(n_vocab), p1(n_vocab);
      LawProbs(law, 0, n_vocab, p.data());
      LawProbs1(law, 0, n_vocab, p1.data());
      double mass = 0, mass1 = 0, entropy = 0, entropy1 = 0;
      for (float x : fixture.logits) {
        if (x >= law.record.cutoff)
          mass += std::exp((static_cast<double>(x) - law.record.max) * law.record.inv_t);
        mass1 += std::exp(static_cast<double>(x) - law.record.max);
      }
      for (int32_t v = 0; v < n_vocab; ++v) {
        const double x = fixture.logits[v];
        const double exponent = (x - law.record.max) * law.record.inv_t - std::log(mass);
        const double exponent1 = x - law.record.max - std::log(mass1);
        const double want = x >= law.record.cutoff ? std::exp(exponent) : 0;
        EXPECT_NEAR(p[v], want, ProbTolerance(law, exponent));
        EXPECT_NEAR(p1[v], std::exp(exponent1), ProbTolerance(law, exponent1));
        EXPECT_NEAR(law.prob(v), p[v], ProbTolerance(law, exponent));
        EXPECT_NEAR(law.prob1(v), p1[v], ProbTolerance(law, exponent1));
        if (want > 0) entropy -= want * exponent;
        entropy1 -= std::exp(exponent1) * exponent1;
      }
      // Each term p log p is off by p's own relative error, a few eps of terms that sum to the entropy.
      EXPECT_NEAR(LawEntropy(law), entropy, 64 * kEps * (1 + entropy));
      EXPECT_NEAR(LawEntropy1(law), entropy1, 64 * kEps * (1 + entropy1));
    }
  }
}

// The tolerance of exp itself, over all it is used for.
TEST_P(Laws, WeightsOfEverySize) {
  const int32_t n_vocab = 4000;
  Fixture fixture(device(), 1, n_vocab, n_vocab);
  for (int32_t v = 0; v < n_vocab; ++v) fixture.logits[v] = -0.03f * v;
  const Law law = fixture.Run({1});
  std::vector<float> p(n_vocab);
  LawProbs(law, 0, n_vocab, p.data());
  for (int32_t v = 0; v < n_vocab; ++v) {
    const double exponent = (static_cast<double>(fixture.logits[v]) - law.record.max) - law.record.lse;
    if (exponent > -86.9) {
      EXPECT_NEAR(p[v], std::exp(exponent), std::exp(exponent) * (2 + std::abs(exponent)) * kEps) << exponent;
    } else {
      EXPECT_LE(p[v], 2e-38f);
    }
  }
}

TEST_P(CpuLawFunctions, AProbabilityHasTheSameBitsInEveryCall) {
  const int32_t n_vocab = 1500;
  Fixture fixture(device(), 1, n_vocab, n_vocab);
  std::mt19937 rng(4);
  std::normal_distribution<float> normal(0, 3);
  for (float& x : fixture.logits) x = normal(rng);
  const Law law = fixture.Run({0.8f, 0, 0.95f});
  std::vector<float> all(n_vocab), some(n_vocab);
  LawProbs(law, 0, n_vocab, all.data());
  for (int32_t begin : {0, 1, 5, 900, 1499}) {
    for (int32_t end : {begin + 1, begin + 7, n_vocab}) {
      if (end > n_vocab) continue;
      LawProbs(law, begin, end, some.data());
      for (int32_t v = begin; v < end; ++v) ASSERT_EQ(some[v - begin], all[v]);
    }
  }
  // Outside the vocabulary there is nothing.
  LawProbs(law, -3, 2, some.data());
  EXPECT_EQ(std::vector<float>(some.begin(), some.begin() + 5),
            (std::vector<float>{0, 0, 0, all[0], all[1]}));
  LawProbs(law, n_vocab - 1, n_vocab + 2, some.data());
  EXPECT_EQ(std::vector<float>(some.begin(), some.begin() + 3), (std::vector<float>{all[n_vocab - 1], 0, 0}));
  LawProbs1(law, n_vocab + 5, n_vocab + 7, some.data());
  EXPECT_EQ(some[0], 0);
  EXPECT_EQ(some[1], 0);
}

TEST_P(Laws, GreedyIsOneHotAtTheLowestOfEquals) {
  Fixture fixture(device(), 1, 5, 5);
  fixture.Set({1, 3, 2, 3, 3});
  const Law law = fixture.Run({0});
  EXPECT_EQ(law.record.argmax, 1);
  std::vector<float> p(5);
  LawProbs(law, 0, 5, p.data());
  EXPECT_EQ(p, (std::vector<float>{0, 1, 0, 0, 0}));
  EXPECT_EQ(LawEntropy(law), 0);
  EXPECT_GT(LawEntropy1(law), 1);
}

TEST_P(Laws, TiesAtTheCutoffStay) {
  Fixture fixture(device(), 1, 6, 6);
  fixture.Set({2, 1, 1, 0, 1, -1});
  EXPECT_EQ(fixture.Run({1, 2}).record.cutoff, 1);
  EXPECT_EQ(fixture.Run({1, 0, 0.6f}).record.cutoff, 1);
  EXPECT_EQ(fixture.Run({1, 0, 1, 1}).record.cutoff, 2);
}

TEST_P(Laws, MaskedTokensAndNoLaw) {
  Fixture fixture(device(), 1, 40, 40);
  std::fill(fixture.logits.begin(), fixture.logits.end(), -kInfinity);
  for (const Sampling& sampling :
       {Sampling{1}, Sampling{1, 3}, Sampling{1, 0, 0.9f}, Sampling{0}, Sampling{1, 39}}) {
    EXPECT_FALSE(fixture.Run(sampling).finite());
    fixture.logits[7] = 1;
    fixture.logits[39] = 1;
    const Law law = fixture.Run(sampling);
    ASSERT_TRUE(law.finite());
    std::vector<float> p(40);
    LawProbs(law, 0, 40, p.data());
    EXPECT_EQ(p[0], 0);
    EXPECT_EQ(p[7], sampling.greedy() ? 1 : 0.5f);
    EXPECT_NEAR(LawEntropy(law), sampling.greedy() ? 0 : std::log(2), 4 * kEps);
    for (float bad : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      fixture.logits[38] = bad;
      EXPECT_FALSE(fixture.Run(sampling).finite());
      EXPECT_EQ(fixture.Run(sampling).record.argmax, 0);
      fixture.logits[38] = -kInfinity;
    }
    fixture.logits[7] = fixture.logits[39] = -kInfinity;
  }
}

TEST_P(Laws, ANaNIsSeenWhereverItIs) {
  for (int32_t n : {1, 37, 130}) {
    for (int32_t at = 0; at < n; ++at) {
      Fixture fixture(device(), 1, n, n);
      std::fill(fixture.logits.begin(), fixture.logits.end(), 1.f);
      fixture.logits[at] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_FALSE(fixture.Run({0.7f, 0, 0.9f}).finite()) << at << " of " << n;
    }
  }
}

// Spans on which halving makes slow progress must still end, with the right answer.
TEST_P(Laws, HostileSpans) {
  Fixture fixture(device(), 1, 300, 300);
  for (int i = 0; i < 300; ++i) fixture.logits[i] = i < 150 ? std::ldexp(1.f, -i) : -std::ldexp(1.f, i - 173);
  std::vector<float> sorted(fixture.logits.begin(), fixture.logits.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (int k : {1, 2, 40, 150, 299}) EXPECT_EQ(fixture.Run({1, k}).record.cutoff, sorted[k - 1]) << k;
  fixture.logits[0] = std::numeric_limits<float>::max();
  fixture.logits[1] = -std::numeric_limits<float>::max();
  EXPECT_EQ(fixture.Run({1, 1}).record.cutoff, fixture.logits[0]);
  EXPECT_EQ(fixture.Run({1, 0, 0.5f}).record.cutoff, fixture.logits[0]);
}

TEST_P(CpuLawFunctions, KthLargest) {
  std::vector<float> values = {0, 3, 1, 3, -kInfinity, 2}, scratch(6);
  for (auto [k, want] : {std::pair{1, 3.f}, {2, 3.f}, {3, 2.f}, {5, 0.f}, {6, -kInfinity}, {9, -kInfinity}}) {
    EXPECT_EQ(KthLargest(values.data(), 6, k, scratch.data()), want) << k;
  }
}

TEST_P(CpuLawFunctions, SumsAreExactForWeightsOfOneScale) {
  std::vector<float> weights(2049);
  for (int i = 0; i < 2049; ++i) weights[i] = (i % 7) * 0.25f;
  EXPECT_EQ(SumWeights(weights.data(), 2049), std::accumulate(weights.begin(), weights.end(), 0.0));
}

// By whatever workers, and beside whatever rows.
TEST_P(Laws, ARowHasTheSameBitsInAnyCompany) {
  constexpr int kRows = 11;
  for (int32_t n_vocab : {307, 5000, 40000}) {  // on a device: one block, and clusters
    for (const Sampling& sampling : {Sampling{0.7f, 0, 0.9f}, Sampling{0.7f}}) {
      Fixture fixture(device(), kRows, n_vocab, n_vocab + 13);
      std::mt19937 rng(5);
      std::normal_distribution<float> normal(0, 3);
      for (float& x : fixture.logits) x = normal(rng);
      fixture.Run(sampling);
      const int32_t n_blocks = NumLawBlocks(n_vocab);
      const std::vector<LawRecord> records(fixture.laws.records, fixture.laws.records + kRows);
      const std::vector<LawBlock> blocks(fixture.laws.blocks, fixture.laws.blocks + kRows * n_blocks);
      const auto same = [&](int row, const LawRecord& record, const LawBlock* of) {
        EXPECT_EQ(record.lse, records[row].lse);
        EXPECT_EQ(record.cutoff, records[row].cutoff);
        for (int b = 0; b < n_blocks; ++b)
          EXPECT_EQ(of[b].mass, blocks[row * n_blocks + b].mass) << row << " " << b;
      };
      for (int row : {0, 3, kRows - 1}) {
        Fixture alone(device(), 1, n_vocab, n_vocab);
        std::copy_n(fixture.logits.begin() + row * fixture.laws.stride, n_vocab, alone.logits.begin());
        same(row, alone.Run(sampling).record, alone.laws.blocks);
      }
      if (device().is_cuda()) continue;
      std::fill_n(fixture.laws.records, kRows, LawRecord());
      std::fill_n(fixture.laws.blocks, kRows * n_blocks, LawBlock());
      for (int worker = 0; worker < 4; ++worker)
        LawBlocksCpu({fixture.state, fixture.plan, fixture.laws}, {worker, 4});
      for (int worker = 0; worker < 4; ++worker) LawCpu(fixture.args(), {worker, 4});
      for (int row = 0; row < kRows; ++row) same(row, fixture.laws.records[row], fixture.laws.blocks_of(row));
    }
  }
}

}  // namespace
}  // namespace tandem
