// Which rows prefill and recovery feed, slot after slot, against an enumeration of positions. (What a round feeds is tested
// with what it fills: cache_test.)
#include "kernels/plan/plan.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <tuple>
#include <vector>

#include "tests/on_device.h"

namespace tandem {
namespace {

constexpr int32_t kSlots = 6;
constexpr int32_t kContext = 64;

using Row = std::tuple<int32_t, int32_t, int32_t>;  // slot, position, token

class PlanOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(GetParam());
    arena_ = Arena(GetParam(), Access::kShared);
    states_ = arena_.New<SeqState>(kSlots);
    tokens_ = {.data = arena_.New<int32_t>(kSlots * kContext), .stride = kContext};
    for (int32_t i = 0; i < kSlots * kContext; ++i) tokens_.data[i] = Random(100);
    rows_ = {.n_rows = arena_.New<int32_t>(1),
             .slot = arena_.New<int32_t>(kContext),
             .position = arena_.New<int32_t>(kContext),
             .token = arena_.New<int32_t>(kContext),
             .n_logits = arena_.New<int32_t>(1),
             .logits_row = arena_.New<int32_t>(kContext),
             .logits_out = arena_.New<int32_t>(kContext)};
    runner_.emplace(GetParam());
  }

  int32_t Random(int32_t n) { return static_cast<int32_t>(random_() % n); }

  // Plans, advances, and gives the rows.
  std::vector<Row> Planned(PlanKind kind, Side side, int32_t chunk, int32_t capacity) {
    rows_.capacity = capacity;
    runner_->RunStep(PlanArgs{.kind = kind,
                              .side = side,
                              .chunk = chunk,
                              .n_vocab = 90,
                              .n_slots = kSlots,
                              .states = states_,
                              .tokens = tokens_,
                              .rows = rows_});
    EXPECT_EQ(*rows_.n_logits, 0);
    std::vector<Row> rows;
    for (int32_t r = 0; r < *rows_.n_rows; ++r)
      rows.emplace_back(rows_.slot[r], rows_.position[r], rows_.token[r]);
    runner_->RunStep(AdvanceArgs{.side = side, .states = states_, .rows = rows_});
    return rows;
  }

  // The positions that a cache of `n_rows` lacks, as far as `feeds` says.
  template <typename Feeds>
  std::vector<Row> Enumerated(Side side, int32_t capacity, const Feeds& feeds) const {
    std::vector<Row> rows;
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      const SeqState& state = states_[slot];
      for (int32_t t = state.rows[side]; state.live && t < state.length; ++t) {
        if (!feeds(state, t) || static_cast<int32_t>(rows.size()) == capacity) break;
        const int32_t token = tokens_.of(slot)[t];
        rows.emplace_back(slot, t, token < 90 ? token : 0);
      }
    }
    return rows;
  }

  std::mt19937 random_{5};
  Arena arena_;
  SeqState* states_ = nullptr;
  TokenTable tokens_;
  RowPlan rows_;
  std::optional<ProgramRunner> runner_;
};
INSTANTIATE_TEST_SUITE_P(, PlanOn, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

// Sequences at work beside it lack up to two tokens, and none of these is a prompt's: prefill leaves them to the round.
TEST_P(PlanOn, PrefillFeedsPromptsUpToTheNextChunk) {
  for (int i = 0; i < 300; ++i) {
    const Side side = i % 2 == 0 ? kTarget : kDraft;
    const int32_t chunk = 1 + Random(20), capacity = chunk + Random(20);
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      SeqState& state = states_[slot];
      const int32_t n_prompt = 1 + Random(40), n_written = Random(2) * Random(20);
      state = {.live = Random(5) > 0, .length = n_prompt + n_written, .prompt_length = n_prompt};
      // New or in the middle of its prompt, or past it.
      const bool running = n_written > 0 && Random(2) == 0;
      state.rows[side] = running ? std::max(n_prompt - 1, state.length - 1 - Random(2)) : Random(n_prompt);
    }
    for (int forward = 0; forward < 3; ++forward) {
      std::vector<int32_t> first;
      for (int32_t slot = 0; slot < kSlots; ++slot) first.push_back(states_[slot].rows[side]);
      const auto expected = Enumerated(side, capacity, [&](const SeqState& state, int32_t t) {
        const int32_t begin = first[&state - states_];
        return t < state.prompt_length - 1 && t / chunk == begin / chunk;
      });
      ASSERT_EQ(Planned(PlanKind::kExtend, side, chunk, capacity), expected) << "case " << i;
      std::vector<int32_t> n_fed(kSlots, 0);
      for (const auto& [slot, position, token] : expected) ++n_fed[slot];
      for (int32_t slot = 0; slot < kSlots; ++slot)
        ASSERT_EQ(states_[slot].rows[side], first[slot] + n_fed[slot]);
    }
  }
}

TEST_P(PlanOn, RecoveryFeedsWhatWasWrittenButTheLast) {
  for (int i = 0; i < 300; ++i) {
    const Side side = i % 2 == 0 ? kTarget : kDraft;
    const int32_t capacity = 1 + Random(30);
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      const int32_t n_prompt = 1 + Random(30), n_written = Random(30);
      SeqState& state = states_[slot];
      state = {.live = Random(5) > 0, .length = n_prompt + n_written, .prompt_length = n_prompt};
      state.rows[side] = n_prompt - 1 + Random(n_written + 1);
    }
    int n_forwards = 0;
    while (true) {
      const auto expected =
          Enumerated(side, capacity, [](const SeqState& state, int32_t t) { return t < state.length - 1; });
      ASSERT_EQ(Planned(PlanKind::kRecover, side, capacity, capacity), expected) << "case " << i;
      if (expected.empty()) break;
      ASSERT_LT(++n_forwards, kSlots * 30);
    }
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      if (states_[slot].live) {
        ASSERT_EQ(states_[slot].rows[side], states_[slot].length - 1);
      }
    }
  }
}

}  // namespace
}  // namespace tandem
