// The test of a token cascade, rule by rule, against its definition in double.
#include "policies/defer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "kernels/law/law.h"
#include "policies/policy.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

constexpr int32_t kSlots = 7;
constexpr int32_t kAbsent = 2;  // a slot that is not planned
constexpr int32_t kBlock = 2;

// Slots whose draft is the surer the higher their number; their rows stand in falling order, behind rows of no logits.
class Slots {
 public:
  Slots(Device device, int32_t n_vocab, const Sampling& sampling)
      : runner_(device), n_vocab_(n_vocab), arena_(device, Access::kShared) {
    states_ = arena_.New<SeqState>(kSlots);
    rows_.capacity = 2 * kSlots;
    rows_.n_rows = arena_.New<int32_t>(1);
    rows_.slot = arena_.New<int32_t>(rows_.capacity);
    rows_.n_logits = arena_.New<int32_t>(1);
    rows_.logits_row = arena_.New<int32_t>(rows_.capacity);
    rows_.logits_out = arena_.New<int32_t>(rows_.capacity);
    proposal_.block = kBlock;
    proposal_.wanted = arena_.New<int32_t>(kSlots);
    proposal_.fault = arena_.New<Fault>(kSlots);
    const size_t n_rows = kSlots * kBlock;
    proposal_.law = {.logits = arena_.New<float>(n_rows * n_vocab),
                     .records = arena_.New<LawRecord>(n_rows),
                     .blocks = arena_.New<LawBlock>(n_rows * NumLawBlocks(n_vocab)),
                     .stride = n_vocab,
                     .n_vocab = n_vocab};
    std::mt19937 rng(n_vocab);
    std::normal_distribution<float> normal(0, 1);
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      states_[slot] = {.live = true, .sampling = sampling};
      for (float& logit : logits(slot)) logit = (1 + slot) * normal(rng);
    }
    for (int32_t slot = kSlots - 1; slot >= 0; --slot) {
      if (slot == kAbsent) continue;
      for (int i = 0; i < 2; ++i) rows_.slot[(*rows_.n_rows)++] = slot;
      rows_.logits_row[*rows_.n_logits] = *rows_.n_rows - 1;
      rows_.logits_out[(*rows_.n_logits)++] = slot * kBlock;
    }
    scratch_ = arena_.New<float>(n_vocab);
  }

  std::span<float> logits(int32_t slot) {
    return {proposal_.law.logits + int64_t{slot} * kBlock * n_vocab_, static_cast<size_t>(n_vocab_)};
  }

  void Ask(const Policy& policy) {
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      states_[slot].writer = Writer::kDraft;
      proposal_.wanted[slot] = 1;
      proposal_.fault[slot] = Fault::kNone;
    }
    Program program;
    program.Add(LawBlocksArgs{.states = states_, .rows = rows_, .laws = proposal_.law});
    program.Add(LawArgs{.states = states_, .rows = rows_, .laws = proposal_.law, .scratch = scratch_});
    program.Add(
        DeferArgs{.test = policy.deferral_test(), .states = states_, .rows = rows_, .proposal = proposal_});
    runner_.Run(program);
  }

  void Expect(int32_t slot, Writer writer, int32_t wanted, Fault fault) const {
    EXPECT_EQ(states_[slot].writer, writer) << "slot " << slot;
    EXPECT_EQ(proposal_.wanted[slot], wanted) << "slot " << slot;
    EXPECT_EQ(proposal_.fault[slot], fault) << "slot " << slot;
  }

 private:
  ProgramRunner runner_;
  int32_t n_vocab_;
  Arena arena_;
  SeqState* states_;
  RowPlan rows_;
  Proposal proposal_;
  float* scratch_;
};

// What the rule compares with a threshold, at temperature 1: larger is less sure.
double DoubtOf(const std::string& rule, std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double total = 0, weighted = 0;
  for (const float logit : logits) {
    const double weight = std::exp(logit - max);
    total += weight;
    weighted += weight * (logit - max);
  }
  return rule == "chow" ? 1 - 1 / total : std::log(total) - weighted / total;
}

class Defer : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, Defer, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

std::unique_ptr<Policy> PolicyOf(const std::string& rule, double alpha) {
  auto policy = Policy::Create({.rule = rule, .params = {{"alpha", alpha}}}, true);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return *std::move(policy);
}

// Thresholds between the slots' doubts, one after the other: each lets one slot more defer.
TEST_P(Defer, AsksTheRuleOfEveryPlannedSlot) {
  for (const int32_t n_vocab : {3, 1000, 1025, 40000}) {
    for (const Sampling& sampling :
         {Sampling{}, Sampling{.temperature = 0.7f}, Sampling{.temperature = 1.3f, .top_k = 2}}) {
      Slots slots(GetParam(), n_vocab, sampling);
      for (const std::string rule : {"chow", "entropy"}) {
        std::vector<double> doubts;
        for (int32_t slot = 0; slot < kSlots; ++slot) doubts.push_back(DoubtOf(rule, slots.logits(slot)));
        std::vector<double> sorted = doubts;
        std::sort(sorted.begin(), sorted.end());
        int n_thresholds = 0;
        for (int32_t i = 0; i + 1 < kSlots; ++i) {
          // Far from both, as rounding goes: figures in fp32 are off by less than 1e-5.
          if (sorted[i + 1] - sorted[i] < 1e-4) continue;
          ++n_thresholds;
          const double alpha = (sorted[i] + sorted[i + 1]) / 2;
          SCOPED_TRACE(rule + " " + std::to_string(alpha) + " of " + std::to_string(n_vocab));
          slots.Ask(*PolicyOf(rule, alpha));
          for (int32_t slot = 0; slot < kSlots; ++slot) {
            const bool defers = slot != kAbsent && doubts[slot] > alpha;
            slots.Expect(slot, defers ? Writer::kTarget : Writer::kDraft, defers ? 0 : 1, Fault::kNone);
          }
        }
        EXPECT_GE(n_thresholds, 3);
      }
    }
  }
}

TEST_P(Defer, ALawThatIsNotFiniteIsAFault) {
  for (const std::string rule : {"chow", "entropy"}) {
    Slots slots(GetParam(), 3000, {.temperature = 1});
    slots.logits(4)[2999] = std::numeric_limits<float>::quiet_NaN();
    slots.Ask(*PolicyOf(rule, 0));  // defers wherever it is asked
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      if (slot == 4) {
        slots.Expect(slot, Writer::kDraft, 0, Fault::kDraftLaw);
      } else if (slot == kAbsent) {
        slots.Expect(slot, Writer::kDraft, 1, Fault::kNone);
      } else {
        slots.Expect(slot, Writer::kTarget, 0, Fault::kNone);
      }
    }
  }
}

}  // namespace
}  // namespace tandem
