#include "kernels/sample/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "tests/on_device.h"

namespace tandem {
namespace {

using Cells = std::map<int32_t, double>;

// Walks u over [0, 1) from breakpoint to breakpoint; returns every token's measure and checks that the
// intervals join.
template <typename Draw>
Cells Sweep(Draw draw) {
  Cells cells;
  double u = 0;
  while (u < 1) {
    double low = -1, high = -1;
    const int32_t token = draw(u, &low, &high);
    EXPECT_EQ(low, u);
    EXPECT_GT(high, low);
    if (!(high > u)) break;
    // Anywhere inside, and at the last value of the generator inside, the answer is the same.
    const double middle = low + (high - low) / 2;
    if (middle < high) {  // not where the cell is one ulp wide
      EXPECT_EQ(draw(middle, nullptr, nullptr), token);
    }
    EXPECT_EQ(draw(std::nextafter(high, 0.), nullptr, nullptr), token);
    EXPECT_EQ(cells.count(token), 0u);
    cells[token] = high - low;
    u = high;
  }
  EXPECT_EQ(u, 1);
  return cells;
}

TEST(Sample, EveryTokenHasItsMeasure) {
  std::mt19937 rng(1);
  for (int32_t n : {1, 2, 5, 1023, 1024, 1025, 3000}) {
    std::vector<float> weights(n);
    std::exponential_distribution<float> draw(1);
    double total = 0;
    for (float& w : weights) {
      w = rng() % 3 == 0 ? 0 : draw(rng) * std::pow(10.f, static_cast<float>(rng() % 8));
      total += w;
    }
    if (total == 0) total = weights[0] = 1;
    const Cells cells = Sweep([&](double u, double* low, double* high) {
      auto fill = [&](int32_t begin, int32_t end, float* out) {
        std::copy(weights.begin() + begin, weights.begin() + end, out);
      };
      return DrawFromWeights(n, u, fill, low, high);
    });
    for (int32_t v = 0; v < n; ++v) {
      // A running sum of n doubles, divided by the total.
      const double tolerance = 4 * n * std::numeric_limits<double>::epsilon();
      EXPECT_NEAR(cells.count(v) ? cells.at(v) : 0, weights[v] / total, tolerance);
      EXPECT_TRUE(weights[v] > 0 || cells.count(v) == 0);
    }
  }
}

TEST(Sample, NothingToDraw) {
  auto draw = [](float weight) {
    auto fill = [weight](int32_t begin, int32_t end, float* out) {
      std::fill(out, out + (end - begin), weight);
    };
    return DrawFromWeights(1500, 0.5, fill, nullptr, nullptr);
  };
  EXPECT_EQ(draw(0), -1);
  EXPECT_EQ(draw(std::numeric_limits<float>::quiet_NaN()), -1);
  EXPECT_EQ(draw(std::numeric_limits<float>::infinity()), -1);
  EXPECT_GE(draw(1), 0);
}

TEST(Sample, ZeroWeightsAreNeverDrawnAtTheEnds) {
  const std::vector<float> weights = {0, 0, 1, 0, 2, 0};
  auto draw = [&](double u) {
    auto fill = [&](int32_t begin, int32_t end, float* out) {
      std::copy(weights.begin() + begin, weights.begin() + end, out);
    };
    return DrawFromWeights(6, u, fill, nullptr, nullptr);
  };
  EXPECT_EQ(draw(0), 2);
  EXPECT_EQ(draw(1 - 0x1p-53), 4);
}

// Against exp of the logits in double. The last case is peaked: whole blocks have probability 0 in fp32.
TEST(Sample, ALawGivesEveryTokenItsProbability) {
  std::mt19937 rng(2);
  for (int32_t n : {1, 3, 1024, 1025, 5000}) {
    for (const Sampling& sampling : {Sampling{1}, Sampling{0.6f}, Sampling{0.7f, 40}, Sampling{1, 0, 0.9f},
                                     Sampling{1, 0, 1, 0.1f}, Sampling{0.02f}}) {
      std::vector<float> logits(n), scratch(n);
      std::normal_distribution<float> normal(0, 4);
      for (float& x : logits) x = normal(rng);
      if (n > 2) logits[2] = -std::numeric_limits<float>::infinity();
      std::vector<LawRecord> records(1);
      std::vector<LawBlock> blocks(NumLawBlocks(n));
      const LawBuffer laws = {logits.data(), records.data(), blocks.data(), n, n};
      SeqState state;
      state.sampling = sampling;
      int32_t one = 1, zero = 0;
      RowPlan plan;
      plan.n_logits = &one;
      plan.slot = plan.logits_row = plan.logits_out = &zero;
      LawBlocksCpu({&state, plan, laws}, {});
      LawCpu({&state, plan, laws, scratch.data()}, {});
      const Law law = laws.row(0);
      auto weight = [&](int32_t v) {
        const double exponent = (static_cast<double>(logits[v]) - law.record.max) * law.record.inv_t;
        return logits[v] >= law.record.cutoff ? std::exp(exponent) : 0.;
      };
      double total = 0;
      for (int32_t v = 0; v < n; ++v) total += weight(v);
      const Cells cells =
          Sweep([&](double u, double* low, double* high) { return DrawFromLaw(law, u, low, high); });
      for (const auto& [v, measure] : cells) {
        const double p = weight(v) / total;
        // The exponent's roundings and exp's, on both sides of the block's rescaling; and one ulp of a breakpoint.
        const double exponent = std::abs(std::log(p)) + 2 * std::abs(law.record.lse) + 4;
        EXPECT_NEAR(measure, p, 2 * p * exponent * std::numeric_limits<float>::epsilon() + 1e-15)
            << v << " of " << n;
      }
      double missed = 0;
      for (int32_t v = 0; v < n; ++v) missed += cells.count(v) ? 0 : weight(v) / total;
      EXPECT_LT(missed, n * 0x1p-53);
    }
  }
}

// A draft step over two slots: slot 1 stopped before.
struct Fixture {
  Fixture() {
    laws = {logits, records, blocks, 3, 3};
    plan.n_logits = &n_logits;
    plan.slot = slots;
    plan.logits_row = rows;
    plan.logits_out = out;
    proposal.block = 4;
    proposal.wanted = wanted;
    proposal.n_proposed = n_proposed;
    proposal.tokens = tokens;
    proposal.parent = parent;
    proposal.has_law = true;
    proposal.law = laws;
    for (int s = 0; s < 2; ++s) {
      states[s].seed = 9;
      states[s].sequence = 5 + s;
      states[s].length = 12;
      states[s].sampling.temperature = 1;
    }
  }
  void Run(int32_t index) {
    for (int s = 0; s < 2; ++s) {
      out[s] = s * 4 + index;
      for (int v = 0; v < 3; ++v) logits[out[s] * 3 + v] = std::log(weight[v]);
    }
    LawBlocksCpu({states, plan, laws}, {});
    LawCpu({states, plan, laws, scratch}, {});
    SampleCpu({index, states, plan, proposal, uniforms}, {});
  }

  float weight[3] = {1, 2, 1};
  SeqState states[2];
  float logits[8 * 3] = {}, scratch[3];
  LawRecord records[8];
  LawBlock blocks[8];
  LawBuffer laws;
  int32_t n_logits = 2, slots[2] = {0, 1}, rows[2] = {0, 1}, out[2];
  int32_t wanted[2] = {3, 1}, n_proposed[2] = {0, 1}, tokens[8] = {}, parent[8] = {};
  RowPlan plan;
  Proposal proposal;
  Uniforms uniforms;
};

struct Recorder : UniformProbe {
  double Draw(const UniformKey& key) override {
    keys.push_back(key);
    return u;
  }
  void Cell(const UniformKey& key, double low, double high) override {
    EXPECT_EQ(key, keys.back());
    cells.push_back({low, high});
  }
  double u = 0;
  std::vector<UniformKey> keys;
  std::vector<std::pair<double, double>> cells;
};

TEST(Sample, DraftStep) {
  Fixture f;
  Recorder recorder;
  f.uniforms.probe = &recorder;
  recorder.u = 0.5;
  f.Run(1);
  EXPECT_EQ(f.tokens[1], 1);
  EXPECT_EQ(f.parent[1], 0);
  EXPECT_EQ(f.n_proposed[0], 2);
  EXPECT_EQ(f.wanted[0], 3);
  EXPECT_EQ(f.n_proposed[1], 1);  // had stopped
  ASSERT_EQ(recorder.keys.size(), 1u);
  EXPECT_EQ(recorder.keys[0],
            (UniformKey{.seed = 9, .sequence = 5, .base = 12, .offset = 1, .purpose = Purpose::kDraft}));
  EXPECT_NEAR(recorder.cells[0].first, 0.25, 1e-6);
  EXPECT_NEAR(recorder.cells[0].second, 0.75, 1e-6);
}

// A draft step of one sequence on a CUDA device, with a number of the test's.
class DraftOnCuda {
 public:
  explicit DraftOnCuda(int32_t n_vocab)
      : n_vocab_(n_vocab),
        shared_(kCudaDevice, Access::kShared),
        table_(shared_.New<UniformTable>(1)),
        state_(shared_.New<SeqState>(1)),
        runner_(kCudaDevice) {
    const int32_t one = 1;
    plan_.capacity = 1;
    plan_.n_logits = shared_.Copy(&one, 1);
    plan_.slot = shared_.New<int32_t>(1);
    plan_.logits_row = shared_.New<int32_t>(1);
    plan_.logits_out = shared_.New<int32_t>(1);
    proposal_.block = 2;
    proposal_.wanted = shared_.New<int32_t>(1);
    proposal_.n_proposed = shared_.New<int32_t>(1);
    proposal_.tokens = shared_.New<int32_t>(2);
    proposal_.parent = shared_.New<int32_t>(2);
    proposal_.has_law = true;
    proposal_.law = {shared_.New<float>(n_vocab), shared_.New<LawRecord>(1),
                     shared_.New<LawBlock>(NumLawBlocks(n_vocab)), n_vocab, n_vocab};
  }
  Law SetLaw(std::mt19937& rng, float spread, const Sampling& sampling) {
    std::normal_distribution<float> normal(0, spread);
    for (int32_t v = 0; v < n_vocab_; ++v) proposal_.law.logits[v] = normal(rng);
    *state_ = {.seed = 9, .sequence = 5, .length = 12, .sampling = sampling};
    std::vector<float> scratch(n_vocab_);
    LawBlocksCpu({state_, plan_, proposal_.law}, {});
    LawCpu({state_, plan_, proposal_.law, scratch.data()}, {});
    return proposal_.law.row(0);
  }
  int32_t Draw(double u) {
    table_->n_numbers = 1;
    table_->n_cells = 0;
    table_->numbers[0] = {key(), u};
    *proposal_.wanted = 1;
    runner_.RunStep(SampleArgs{0, state_, plan_, proposal_, {.tables = table_}});
    EXPECT_EQ(*proposal_.n_proposed, 1);
    return proposal_.tokens[0];
  }
  static UniformKey key() { return {9, 5, 12, 0, Purpose::kDraft}; }
  int32_t n_cells() const { return table_->n_cells; }
  const UniformTable::Cell& cell() const { return table_->cells[0]; }  // of the last draw

 private:
  int32_t n_vocab_;
  Arena shared_;
  UniformTable* table_;
  SeqState* state_;
  RowPlan plan_;
  Proposal proposal_;
  ProgramRunner runner_;
};

// The same draws on a CUDA device, from the same laws and numbers. Its sums have another order: breakpoints may differ by
// the rounding of n sums in double, and by that of exp in fp32 where this processor has no fused product and sum.
TEST(Sample, ACudaDeviceDrawsTheSameTokens) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  std::mt19937 rng(3);
  for (int32_t n_vocab : {1, 2, 5, 31, 1023, 1024, 1025, 3000, 20000, 128256, 300000}) {
    DraftOnCuda draft(n_vocab);
    std::uniform_real_distribution<double> uniform(0, 1);
    for (const Sampling& sampling : {Sampling{1}, Sampling{0.3f}, Sampling{1.5f, 7}, Sampling{0}}) {
      const Law law = draft.SetLaw(rng, 4, sampling);
      for (int draw = 0; draw < 40; ++draw) {
        const double u = draw == 0 ? 0 : draw == 1 ? 1 - 0x1p-32 : uniform(rng);
        const int32_t drawn = draft.Draw(u);
        double low = 0, high = 1;
        const int32_t token = DrawFromLaw(law, u, &low, &high);
        constexpr double kTolerance = 4 * std::numeric_limits<float>::epsilon();
        const bool near = std::min(u - low, high - u) < kTolerance;
        if (!near) {
          ASSERT_EQ(drawn, token) << n_vocab << " u " << u;
        }
        if (sampling.greedy()) {
          EXPECT_EQ(draft.n_cells(), 0);
          continue;
        }
        ASSERT_EQ(draft.n_cells(), 1);
        const UniformTable::Cell& cell = draft.cell();
        EXPECT_EQ(cell.key, draft.key());
        EXPECT_LE(cell.low, u);
        EXPECT_GT(cell.high, u);
        if (near) continue;
        EXPECT_NEAR(cell.low, low, kTolerance);
        EXPECT_NEAR(cell.high, high, kTolerance);
      }
    }
  }
}

// A device's sums are made of other sums, and must rise from token to token all the same. The last law is peaked: most
// tokens have no probability in fp32, and whole blocks have none.
TEST(Sample, TheIntervalsOfACudaDeviceJoin) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  std::mt19937 rng(4);
  for (int32_t n_vocab : {3, 1025, 5000, 70000}) {
    DraftOnCuda draft(n_vocab);
    for (const Sampling& sampling : {Sampling{1}, Sampling{1, 40}, Sampling{0.02f}}) {
      if (n_vocab > 5000 && !sampling.cuts()) continue;
      const Law law = draft.SetLaw(rng, 4, sampling);
      const Cells cells = Sweep([&](double u, double* low, double* high) {
        const int32_t token = draft.Draw(u);
        if (low != nullptr) *low = draft.cell().low;
        if (high != nullptr) *high = draft.cell().high;
        return token;
      });
      double missed = 0;
      for (int32_t v = 0; v < n_vocab; ++v) missed += cells.count(v) ? 0 : law.prob(v);
      EXPECT_LT(missed, n_vocab * 0x1p-53);
    }
  }
}

TEST(Sample, StopsUnderConfidence) {
  Fixture f;
  f.states[0].confidence_min = 0.45f;
  Recorder recorder;
  f.uniforms.probe = &recorder;
  recorder.u = 0.5;
  f.Run(0);
  EXPECT_EQ(f.wanted[0], 3);  // q = 0.5
  recorder.u = 0.1;
  f.Run(1);
  EXPECT_EQ(f.wanted[0], 2);  // q = 0.25: proposed still, and the last
  EXPECT_EQ(f.n_proposed[0], 2);
  EXPECT_EQ(f.tokens[1], 0);
}

TEST(Sample, GreedyDrawsNoUniformAndIsConfidentAtTemperatureOne) {
  Fixture f;
  f.states[0].sampling.temperature = 0;
  Recorder recorder;
  f.uniforms.probe = &recorder;
  f.Run(0);
  EXPECT_EQ(f.tokens[0], 1);
  EXPECT_TRUE(recorder.keys.size() <= 1);  // slot 1 alone
  EXPECT_EQ(f.wanted[0], 3);
  f.states[0].confidence_min = 0.51f;
  f.Run(1);
  EXPECT_EQ(f.wanted[0], 2);
}

TEST(Sample, ALawThatIsNotFiniteStopsTheDraft) {
  Fixture f;
  f.weight[2] = std::numeric_limits<float>::quiet_NaN();
  f.Run(0);
  EXPECT_EQ(f.tokens[0], 0);
  EXPECT_EQ(f.n_proposed[0], 1);
  EXPECT_EQ(f.wanted[0], 1);
}

}  // namespace
}  // namespace tandem
