// Every rule's verdicts on a CUDA device against the CPU's, from the same laws and numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/law/law.h"
#include "kernels/sample/sample.h"
#include "kernels/total_variation/total_variation.h"
#include "tests/on_device.h"
#include "tests/policies/sweep.h"

namespace tandem {
namespace {

// Rounds of a few slots in memory that both sides see, judged by a policy recorded for either.
class Rounds {
 public:
  Rounds(const Combination& combination, int32_t n_vocab, int32_t gamma = 4, int32_t n_slots = 3)
      : n_vocab_(n_vocab),
        gamma_(gamma),
        block_(gamma + 1),
        n_slots_(n_slots),
        arena_(kCudaDevice, Access::kShared),
        table_(arena_.New<UniformTable>(1)),
        states_(arena_.New<SeqState>(n_slots_)),
        on_cpu_(MustCreate(combination)),
        on_cuda_(MustCreate(combination)) {
    proposal_.block = block_;
    proposal_.n_proposed = arena_.New<int32_t>(n_slots_);
    proposal_.tokens = arena_.New<int32_t>(n_slots_ * block_);
    proposal_.has_law = proposal_.has_bonus_law = combination.draft_has_law;
    if (combination.draft_has_law) proposal_.law = NewLaws();
    scores_ = {.block = block_, .law = NewLaws()};
    Batch batch{.n_slots = n_slots_, .gamma = gamma_, .states = states_, .uniforms = {.tables = table_}};
    cpu_verdicts_ = on_cpu_->judge(cpu_, batch, proposal_, scores_);
    batch.device = kCudaDevice;
    on_device_ = on_cuda_->judge(cuda_, batch, proposal_, scores_);
  }

  // Laws that differ, tokens from q, and numbers for every key that a slot may ask for. One slot is not live.
  void Randomize(std::mt19937& rng, const Sampling& sampling, float spread, float difference) {
    std::normal_distribution<float> normal(0, 1);
    std::uniform_real_distribution<double> uniform(0, 1);
    table_->n_numbers = 0;
    for (int32_t slot = 0; slot < n_slots_; ++slot) {
      states_[slot] = {.live = slot != 1,
                       .seed = 7,
                       .sequence = static_cast<uint64_t>(slot),
                       .length = 20 + slot,
                       .sampling = sampling};
      proposal_.n_proposed[slot] = slot == 2 ? static_cast<int32_t>(rng() % block_) : gamma_;
      for (int32_t i = 0; i < block_; ++i) {
        const int64_t row = slot * block_ + i;
        for (int32_t v = 0; v < n_vocab_; ++v) {
          const float p = spread * normal(rng);
          scores_.law.logits[row * n_vocab_ + v] = p;
          if (proposal_.has_law) proposal_.law.logits[row * n_vocab_ + v] = p + difference * normal(rng);
        }
        SetRecord(scores_.law, slot, row);
        if (proposal_.has_law) SetRecord(proposal_.law, slot, row);
        const Law drawn_from = proposal_.has_law ? proposal_.law.row(row) : scores_.law.row(row);
        double low, high;
        proposal_.tokens[row] = DrawFromLaw(drawn_from, uniform(rng), &low, &high);
        if (slot == 1) continue;
        for (const Purpose purpose : {Purpose::kDraft, Purpose::kKeep, Purpose::kReplace}) {
          ASSERT_LT(table_->n_numbers, UniformTable::kCapacity);
          table_->numbers[table_->n_numbers++] = {{7, static_cast<uint64_t>(slot), 20 + slot, i, purpose},
                                                  uniform(rng)};
        }
      }
    }
  }

  // Runs both. Returns the number of slots that were judged differently, each of which must have met a tie: a number that
  // is as near to a breakpoint as the two sides' figures may differ.
  int Compare(ProgramRunner& runner) {
    table_->n_cells = 0;
    for (const Step& step : cpu_.steps()) {
      if (step.op == Op::kTotalVariation) TotalVariationCpu(cpu_.args_as<TotalVariationArgs>(step), {});
      if (step.op == Op::kJudge) JudgeCpu(cpu_.args_as<JudgeArgs>(step), {});
    }
    const std::vector<UniformTable::Cell> expected(table_->cells, table_->cells + table_->n_cells);
    int n_different = 0;
    for (int32_t only = 0; only < n_slots_; ++only) {  // one live slot at a time: they share the table
      const std::vector<SeqState> kept(states_, states_ + n_slots_);
      for (int32_t slot = 0; slot < n_slots_; ++slot) states_[slot].live &= slot == only;
      table_->n_cells = 0;
      runner.Run(cuda_);
      std::copy(kept.begin(), kept.end(), states_);
      Download();
      n_different += Same(only, expected) ? 0 : 1;
    }
    return n_different;
  }

  int32_t n_keep(int32_t slot) const { return n_keep_[slot]; }

 private:
  LawBuffer NewLaws() {
    return {.logits = arena_.New<float>(static_cast<size_t>(n_slots_) * block_ * n_vocab_),
            .records = arena_.New<LawRecord>(n_slots_ * block_),
            .blocks = arena_.New<LawBlock>(static_cast<size_t>(n_slots_) * block_ * NumLawBlocks(n_vocab_)),
            .stride = n_vocab_,
            .n_vocab = n_vocab_};
  }
  void SetRecord(const LawBuffer& laws, int32_t slot, int64_t row) {
    int32_t one = 1, zero = 0, out = static_cast<int32_t>(row);
    RowPlan plan;
    plan.n_logits = &one;
    plan.slot = &slot;
    plan.logits_row = &zero;
    plan.logits_out = &out;
    std::vector<float> scratch(n_vocab_);
    LawBlocksCpu({states_, plan, laws}, {});
    LawCpu({states_, plan, laws, scratch.data()}, {});
  }

  void Download() {
    const auto get = [](auto& to, const auto* from, int32_t n) {
      to.resize(n);
      cuda::Download(kCudaDevice, to.data(), from, n * sizeof(to[0]));
    };
    get(n_keep_, on_device_.n_keep, n_slots_);
    get(next_, on_device_.next, n_slots_);
    get(n_judged_, on_device_.n_judged, n_slots_);
    get(deferred_, on_device_.deferred, n_slots_ * block_);
    get(fault_, on_device_.fault, n_slots_);
  }

  bool Same(int32_t slot, const std::vector<UniformTable::Cell>& expected) {
    // Figures of exp and log in fp32, and sums of n terms of them.
    constexpr double kTolerance = 1e-5;
    std::vector<UniformTable::Cell> mine;
    for (const auto& cell : expected) {
      if (cell.key.sequence == static_cast<uint64_t>(slot)) mine.push_back(cell);
    }
    const bool same =
        n_keep_[slot] == cpu_verdicts_.n_keep[slot] && next_[slot] == cpu_verdicts_.next[slot] &&
        n_judged_[slot] == cpu_verdicts_.n_judged[slot] && fault_[slot] == cpu_verdicts_.fault[slot] &&
        std::equal(cpu_verdicts_.deferred + slot * block_,
                   cpu_verdicts_.deferred + slot * block_ + cpu_verdicts_.n_judged[slot],
                   deferred_.begin() + slot * block_);
    bool tie = false;
    for (const auto& cell : mine) {
      const double u = Value(cell.key);
      tie |= std::min(u - cell.low, cell.high - u) < kTolerance;
    }
    EXPECT_TRUE(same || tie) << "slot " << slot << ": keeps " << n_keep_[slot] << ", not "
                             << cpu_verdicts_.n_keep[slot] << "; next " << next_[slot] << ", not "
                             << cpu_verdicts_.next[slot] << "; fault " << static_cast<int>(fault_[slot]);
    if (!same) return false;
    EXPECT_EQ(table_->n_cells, static_cast<int32_t>(mine.size()));
    for (size_t i = 0; i < mine.size() && table_->n_cells == static_cast<int32_t>(mine.size()); ++i) {
      EXPECT_EQ(table_->cells[i].key, mine[i].key);
      EXPECT_NEAR(table_->cells[i].low, mine[i].low, kTolerance);
      EXPECT_NEAR(table_->cells[i].high, mine[i].high, kTolerance);
    }
    return true;
  }
  double Value(const UniformKey& key) const { return Uniforms{.tables = table_}.Draw(key); }

  int32_t n_vocab_, gamma_, block_, n_slots_;
  Arena arena_;
  UniformTable* table_;
  SeqState* states_;
  std::unique_ptr<Policy> on_cpu_, on_cuda_;
  Proposal proposal_;
  Scores scores_;
  Program cpu_, cuda_;
  Verdicts cpu_verdicts_, on_device_;
  std::vector<int32_t> n_keep_, next_, n_judged_;  // the device's
  std::vector<uint8_t> deferred_;
  std::vector<Fault> fault_;
};

TEST(JudgeCuda, GivesTheVerdictsOfTheCpu) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  ProgramRunner runner(kCudaDevice);
  std::mt19937 rng(5);
  int n_rounds = 0, n_different = 0;
  for (const Combination& combination : AllCombinations()) {
    for (const int32_t n_vocab : {3, 50, 20000}) {
      SCOPED_TRACE(combination.name + " over " + std::to_string(n_vocab));
      Rounds rounds(combination, n_vocab);
      for (const Sampling& sampling : {Sampling{1}, Sampling{0.6f, 40}, Sampling{0}}) {
        const int n_draws = n_vocab > 1000 ? 1 : 3;
        for (int draw = 0; draw < n_draws; ++draw) {
          rounds.Randomize(rng, sampling, 2, draw == 0 ? 0.3f : 1.5f);
          n_different += rounds.Compare(runner);
          ++n_rounds;
        }
      }
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(n_rounds, 1000);
  EXPECT_LT(n_different, n_rounds / 100);
}

// More positions than a thread block has warps, and laws so near to each other that most tokens stay.
TEST(JudgeCuda, GivesTheVerdictsOfTheCpuOnLongBlocks) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  constexpr int32_t kGamma = 20;
  ProgramRunner runner(kCudaDevice);
  std::mt19937 rng(6);
  int n_different = 0, longest = 0;
  for (const Combination& combination : AllCombinations()) {
    SCOPED_TRACE(combination.name);
    Rounds rounds(combination, 2000, kGamma, 1);
    for (const Sampling& sampling : {Sampling{1}, Sampling{0}}) {
      rounds.Randomize(rng, sampling, 2, 0.02f);
      n_different += rounds.Compare(runner);
      longest = std::max(longest, rounds.n_keep(0));
    }
    if (HasFailure()) return;
  }
  EXPECT_LT(n_different, 5);
  EXPECT_EQ(longest, kGamma);
}

}  // namespace
}  // namespace tandem
