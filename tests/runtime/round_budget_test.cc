// What rounds read, against the bytes of the models' shapes; what limits them, against shares worked out by hand.
#include "runtime/round_budget.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/model/planted.h"
#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;

// Of a forward with logits: all products; and a position of the cache.
struct Bytes {
  explicit Bytes(const PlantedShape& s) {
    const double layer = static_cast<double>(s.hidden) *
                         (2. * s.n_heads * s.head_dim + 2. * s.n_kv_heads * s.head_dim + 3. * s.intermediate);
    weights = 2 * (s.n_layers * layer + static_cast<double>(s.n_vocab) * s.hidden);
    position = 2. * 2 * s.n_layers * s.n_kv_heads * s.head_dim;
  }
  double weights, position;
};

TEST(RoundReader, BytesOfTheShapes) {
  const PlantedShape& shape = **FindPlantedShape("llama-tiny");
  const std::shared_ptr<const Model> model =
      MakePlanted(shape, PlantSuccessors(shape.n_vocab, 1), 2, kCpuDevice);
  const auto engine = MakeEngine(
      {.n_slots = 3, .gamma = 4, .max_context = 64},
      {.target = {model, ActivationDType::kBf16}, .draft = ModelSpec{model, ActivationDType::kBf16}},
      MakePolicy());
  const RoundReader reader(engine->round());
  const Bytes bytes(shape);
  // One sequence whose draft stopped after two tokens, one of all four, one slot that is empty.
  std::vector<SlotRecord> slots(3);
  slots[0].ran = slots[1].ran = true;
  slots[0].base = 20;
  slots[0].n_proposed = 2;
  slots[1].base = 31;
  slots[1].n_proposed = 4;
  slots[2].base = 7;
  slots[2].n_proposed = 4;
  const RoundReads reads = reader.Of(slots);
  EXPECT_EQ(reads.n_rounds, 1);
  EXPECT_DOUBLE_EQ(reads.verify_bytes, bytes.weights + (20 + 31) * bytes.position);
  EXPECT_DOUBLE_EQ(reads.draft_bytes, 4 * bytes.weights + (2 * 20 + 4 * 31) * bytes.position);

  RoundReads sum = reads;
  slots[1].ran = false;
  sum.Add(reader.Of(slots));
  EXPECT_EQ(sum.n_rounds, 2);
  EXPECT_DOUBLE_EQ(sum.draft_bytes - reads.draft_bytes, 2 * bytes.weights + 2 * 20 * bytes.position);

  slots[0].ran = false;  // queued behind the end of all
  EXPECT_EQ(reader.Of(slots).n_rounds, 0);
  EXPECT_EQ(reader.Of(slots).verify_bytes, 0);
}

TEST(RoundReader, ALookUpReadsNoWeights) {
  const PlantedShape& shape = **FindPlantedShape("llama-tiny");
  PairSpec pair{.target = {MakePlanted(shape, PlantSuccessors(shape.n_vocab, 1), 2, kCpuDevice),
                           ActivationDType::kBf16}};
  pair.ngram = NgramSpec();
  const auto engine =
      MakeEngine({.n_slots = 1, .gamma = 4, .max_context = 64}, std::move(pair), MakePolicy({}, false));
  std::vector<SlotRecord> slots(1);
  slots[0].ran = true;
  slots[0].n_proposed = 3;
  EXPECT_EQ(RoundReader(engine->round()).Of(slots).draft_bytes, 0);
  EXPECT_DOUBLE_EQ(RoundReader(engine->round()).Of(slots).verify_bytes, Bytes(shape).weights);
}

// A run's rounds, as the engine tells of them.
TEST(RoundReader, EveryRoundOfAnEngineIsTold) {
  class Listener : public EngineListener {
   public:
    void OnRound(std::span<const SlotRecord> slots) override {
      n_slots = std::max(n_slots, slots.size());
      for (const SlotRecord& slot : slots) n_emitted += slot.ran ? slot.n_emit : 0;
    }
    size_t n_slots = 0;
    int64_t n_emitted = 0;
  } listener;
  const auto engine =
      MakeEngine({.n_slots = 2, .gamma = 3},
                 {.target = {.model = HashTarget()}, .draft = ModelSpec{.model = HashDraft()}}, MakePolicy());
  for (int i = 0; i < 3; ++i)
    ASSERT_TRUE(engine->Submit({.prompt = SomePrompt(5, i), .max_new_tokens = 10 + i}).ok());
  std::vector<RequestResult> results;
  ASSERT_TRUE(engine->Run(&listener, &results).ok());
  EXPECT_EQ(listener.n_slots, 2u);
  EXPECT_EQ(listener.n_emitted, 10 + 11 + 12);
}

std::vector<std::string> Names(const RoundBudget& budget) {
  std::vector<std::string> names;
  for (const RoundBudget::Part& part : budget.Parts()) names.push_back(part.name);
  return names;
}

TEST(RoundBudget, TheLargestPartLimits) {
  RoundBudget budget{.draft_ms = 2, .verify_ms = 4, .rule_ms = 0.5, .launch_ms = 0.25, .host_ms = 1};
  EXPECT_THAT(Names(budget), ElementsAre("verify", "draft", "host", "rule", "launch", "bandwidth"));
  EXPECT_EQ(
      LimitText(budget),
      "verify: 51.6 % of a round is the target's forwards, beyond reading; beside that draft 25.8 %, host "
      "12.9 %, rule "
      "6.5 %, launch 3.2 %");
  budget.verify_floor_ms = 3;  // the largest part, but less than half
  EXPECT_THAT(Names(budget), ElementsAre("draft", "bandwidth", "verify", "host", "rule", "launch"));
  budget.verify_floor_ms = 4;  // 4 of 7.75
  EXPECT_STREQ(budget.limit(), "bandwidth");
  budget.launch_ms = 10;
  EXPECT_STREQ(budget.limit(), "launch");
  EXPECT_DOUBLE_EQ(budget.ms(), 17.5);
}

// What a processor's caches hold is read faster than memory gives.
TEST(RoundBudget, PartsAddUpWhereReadingIsFasterThanMemory) {
  const RoundBudget budget{.draft_ms = 1, .verify_ms = 4, .draft_floor_ms = 3, .verify_floor_ms = 3.5};
  double sum = 0;
  for (const RoundBudget::Part& part : budget.Parts()) {
    EXPECT_GE(part.ms, 0) << part.name;
    sum += part.ms;
  }
  EXPECT_DOUBLE_EQ(sum, 5);
  EXPECT_DOUBLE_EQ(budget.Parts().front().ms, 4.5);
}

}  // namespace
}  // namespace tandem
