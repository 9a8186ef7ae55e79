// The bench of a planted pair end to end on tiny shapes: what it counts is what was planted, floors come from the bytes
// that the shapes have, and every figure is in the JSON, with a value or with a reason.
#include "runtime/planted_bench.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>
#include <string>

#include "runtime/decode_bench.h"
#include "runtime/model_bench.h"
#include "runtime/settle.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

using ::testing::HasSubstr;

const PlantedShape& Shape(const std::string& name) { return **FindPlantedShape(name); }

PlantedBenchOptions Tiny(Device device, double agreement = 0.8) {
  return {.target = &Shape("llama-tiny"),
          .draft = &Shape("llama-tiny"),
          .small = &Shape("qwen3-tiny"),
          .agreement = agreement,
          .device = device,
          .n_threads = 2,
          .context = 96,
          .n_prefill = 64,
          .n_rounds = 16,
          .n_repetitions = 3};
}

constexpr const char* kIssueKeys[] = {
    "plain_tiny_tok_s",  "step_tiny_ms",       "step_qwen3_tiny_ms", "verify_ratio_5",   "tail_us",
    "round_ms_greedy",   "round_ms_sampled",   "spec_over_plain",    "tokens_per_round", "host_gap_us",
    "batch8_over_plain", "batch32_over_plain", "prefill_share",      "read_gb_s"};

class PlantedBenchOn : public testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(, PlantedBenchOn, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

TEST_P(PlantedBenchOn, MeasuresAllOfIt) {
  TANDEM_SKIP_WITHOUT(GetParam());
  const PlantedBenchOptions options = Tiny(GetParam());
  const auto result = RunPlantedBench(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->status.ok()) << result->status;
  const OrderedJson json = PlantedBenchJson(options, *result);
  for (const char* key : kIssueKeys) EXPECT_TRUE(json.contains(key)) << key;
  for (const PlantedFigure& figure : result->figures) {
    ASSERT_TRUE(json.contains(figure.key)) << figure.key;
    if (figure.value) {
      EXPECT_TRUE(json[figure.key].is_number()) << figure.key;
      EXPECT_TRUE(std::isfinite(*figure.value)) << figure.key;
      // What a device idles is a difference of stamps, and a tiny CPU run's rest a difference of clocks.
      if (figure.key != "host_gap_us") {
        EXPECT_GT(*figure.value, 0) << figure.key;
      }
    } else {
      EXPECT_EQ(figure.key, "prefill_share") << figure.missing;
      EXPECT_FALSE(GetParam().is_cuda());
      EXPECT_TRUE(json[figure.key].is_null());
      EXPECT_EQ(json["missing"][figure.key], figure.missing);
    }
  }
  EXPECT_EQ(json["device"], result->device);
  EXPECT_EQ(json["settings"]["gamma"], 4);
  EXPECT_EQ(json["target"]["parameters"], PlantedBytes(Shape("llama-tiny")) / 2);

  // Plain, pair: 4 runs each; batches 8 and 32, both ways.
  EXPECT_EQ(result->n_compared, 4 + 4 + 2 * (8 + 32));
  EXPECT_EQ(result->n_different, 0);
  // The engine's rounds against the two permutations.
  EXPECT_EQ(*result->Find("tokens_per_round")->value, *result->planted_tokens_per_round);

  const std::string text = PlantedBenchText(options, *result, false);
  for (const char* key : kIssueKeys) EXPECT_THAT(text, HasSubstr(std::string(key) + " "));
  EXPECT_THAT(text, HasSubstr("  limited by  " + std::string(json["limited_by"]) + ": "));
  EXPECT_THAT(text, HasSubstr("  outputs     as planted, token by token: 88 of 88 (greedy)\n"));
}

TEST(PlantedBench, FloorsAreTheBytesOfTheShapes) {
  const PlantedBenchOptions options = Tiny(kCpuDevice);
  const auto result = RunPlantedBench(options);
  ASSERT_TRUE(result.ok()) << result.status();
  const PlantedShape& s = Shape("llama-tiny");
  const double layer = static_cast<double>(s.hidden) *
                       (2. * s.n_heads * s.head_dim + 2. * s.n_kv_heads * s.head_dim + 3. * s.intermediate);
  const double weights = 2 * (s.n_layers * layer + static_cast<double>(s.n_vocab) * s.hidden);
  const double cache_of_a_token = 2. * 2 * s.n_layers * s.n_kv_heads * s.head_dim;
  const double rate = *result->Find("read_gb_s")->value * 1e9;
  const auto floor = [&](const char* key) { return *result->Find(key)->floor; };
  const double context = options.context;
  const double a_step = weights + context * cache_of_a_token;
  constexpr double kRounding = 1e-12;
  EXPECT_NEAR(floor("plain_tiny_tok_s") * a_step / rate, 1, kRounding);
  EXPECT_NEAR(floor("step_tiny_ms") * 1e-3 * rate / a_step, 1, kRounding);
  EXPECT_NEAR(floor("forward_5_ms") * 1e-3 * rate / (weights + (context + 5) * cache_of_a_token), 1,
              kRounding);
  // Four draft steps and a verification, all of one shape.
  EXPECT_NEAR(floor("round_ms_greedy") * 1e-3 * rate / (5 * a_step), 1, kRounding);
  const PlantedFigure& round = *result->Find("round_ms_greedy");
  EXPECT_EQ(*round.over_floor(), *round.value / *round.floor);
  const PlantedFigure& plain = *result->Find("plain_tiny_tok_s");
  EXPECT_EQ(*plain.over_floor(), *plain.floor / *plain.value);
}

TEST(PlantedBench, SaysWhatLimitsARound) {
  PlantedBenchOptions options = Tiny(kCpuDevice);
  PlantedBenchResult result;
  result.figures = {{"step_1b_ms", "ms", "", 1.0, "", 0.5},
                    {"forward_5_ms", "ms", "", 3.0, "", 2.5},
                    {"tail_us", "us", "", 200.0},
                    {"round_ms_sampled", "ms", "", 8.0, "", 4.5}};
  RoundBudget budget = *BudgetOf(options, result);
  EXPECT_DOUBLE_EQ(budget.ms(), 8);
  EXPECT_DOUBLE_EQ(budget.floor_ms(), 4.5);
  EXPECT_DOUBLE_EQ(budget.rule_ms, 0.2);
  EXPECT_NEAR(budget.host_ms, 0.8, 1e-12);
  EXPECT_EQ(budget.launch_ms, 0);
  EXPECT_STREQ(budget.limit(), "bandwidth");
  options.device = kCudaDevice;
  result.figures[0].floor = 0.1;
  budget = *BudgetOf(options, result);
  EXPECT_NEAR(budget.launch_ms, 0.8, 1e-12);
  EXPECT_STREQ(budget.limit(), "draft");
  result.figures[3].value = 12;
  EXPECT_STREQ(BudgetOf(options, result)->limit(), "launch");
  result.figures[2].value.reset();
  EXPECT_FALSE(BudgetOf(options, result));
}

TEST(PlantedBench, EveryKeyIsThereOnce) {
  for (const char* draft : {"llama-tiny", "qwen3-tiny"}) {
    for (const char* small : {"", "llama-tiny", "qwen3-tiny"}) {
      PlantedBenchOptions options = Tiny(kCpuDevice);
      options.draft = &Shape(draft);
      options.small = *small != 0 ? &Shape(small) : nullptr;
      options.interrupted = [] { return true; };
      const auto result = RunPlantedBench(options);
      ASSERT_TRUE(result.ok()) << result.status();
      std::set<std::string> keys;
      for (const PlantedFigure& figure : result->figures)
        EXPECT_TRUE(keys.insert(figure.key).second) << figure.key;
      EXPECT_TRUE(keys.contains("step_tiny_ms"));
      const std::string other =
          *small == 0 ? "step_06b_ms"
                      : std::string("step_") + (small[0] == 'l' ? "llama_tiny_ms" : "qwen3_tiny_ms");
      EXPECT_EQ(keys.contains(other), std::string(small) != draft) << draft << ", " << small;
    }
  }
}

// Where the permutations agree everywhere or nowhere, every round is the same.
TEST_P(PlantedBenchOn, RoundsKeepWhatWasPlanted) {
  TANDEM_SKIP_WITHOUT(GetParam());
  for (const double agreement : {0., 0.8, 1.}) {
    const PlantedShape& shape = Shape("llama-tiny");
    PlantedModels models;
    models.target_successor = PlantSuccessors(shape.n_vocab, 3);
    models.draft_successor = PlantAgreement(models.target_successor, agreement, 4);
    models.target = MakePlanted(shape, models.target_successor, 5, GetParam());
    models.draft = MakePlanted(shape, models.draft_successor, 6, GetParam());
    constexpr int32_t kGamma = 3, kRounds = 40;
    for (const int32_t n_slots : {1, 3}) {
      const auto times = MeasureDecode(
          models,
          {.gamma = kGamma, .n_slots = n_slots, .context = 96, .n_rounds = kRounds, .n_repetitions = 2});
      ASSERT_TRUE(times.ok()) << times.status();
      EXPECT_EQ(times->n_different, 0);
      EXPECT_EQ(times->tokens_per_round, times->planted_per_round);
      const double of_one = times->tokens_per_round / n_slots;
      if (agreement != 0.8) {
        EXPECT_EQ(of_one, agreement == 0 ? 1 : kGamma + 1);
        continue;
      }
      // P(round > k) = a^k, k = 0 .. gamma. Texts of one permutation may run along each other, so only the rounds of one
      // repetition count as independent; five standard deviations of their mean.
      double mean = 0, square = 0;
      for (int k = 0; k <= kGamma; ++k) {
        mean += std::pow(agreement, k);
        square += (2 * k + 1) * std::pow(agreement, k);
      }
      const int n_independent = n_slots == 1 ? kRounds : 2 * (kRounds / 4);
      EXPECT_NEAR(of_one, mean, 5 * std::sqrt((square - mean * mean) / n_independent)) << n_slots;
    }
  }
}

// A draft of another seed says something else everywhere, and the bench must see that the text is not what was planted.
TEST(PlantedBench, SeesAWrongText) {
  const PlantedShape& shape = Shape("llama-tiny");
  PlantedModels models;
  models.target_successor = PlantSuccessors(shape.n_vocab, 3);
  models.draft_successor = models.target_successor;
  models.target = MakePlanted(shape, PlantSuccessors(shape.n_vocab, 4), 5);
  models.draft = models.target;
  const auto times = MeasureDecode(models, {.gamma = 2, .context = 64, .n_rounds = 4, .n_repetitions = 1});
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_EQ(times->n_different, times->n_compared);
}

TEST(PlantedBench, IdleBetweenRoundsOnADevice) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  const PlantedShape& shape = Shape("llama-tiny");
  PlantedModels models;
  models.target_successor = PlantSuccessors(shape.n_vocab, 3);
  models.draft_successor = PlantAgreement(models.target_successor, 0.8, 4);
  models.target = MakePlanted(shape, models.target_successor, 5, kCudaDevice);
  models.draft = MakePlanted(shape, models.draft_successor, 6, kCudaDevice);
  constexpr int32_t kRounds = 20;
  const auto idle = MeasureIdle(models, {.gamma = 4, .context = 96, .n_rounds = kRounds});
  ASSERT_TRUE(idle.ok()) << idle.status();
  EXPECT_GE(idle->n_idle, 2 * kRounds);
  EXPECT_GE(idle->idle_us, 0);
  EXPECT_LT(idle->idle_us, 1000);
  EXPECT_GT(idle->busy_ms, 0);
}

TEST(PlantedBench, AnInterruptLeavesReasons) {
  PlantedBenchOptions options = Tiny(kCpuDevice);
  int n_asked = 0;
  options.interrupted = [&] { return ++n_asked > 20; };  // in the middle of plain decoding
  const auto result = RunPlantedBench(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(result->Find("forward_1_ms")->value);
  const OrderedJson json = PlantedBenchJson(options, *result);
  for (const char* key : {"plain_tiny_tok_s", "round_ms_greedy", "batch32_over_plain"}) {
    EXPECT_FALSE(result->Find(key)->value) << key;
    EXPECT_TRUE(json[key].is_null()) << key;
    EXPECT_THAT(std::string(json["missing"][key]), HasSubstr("interrupted")) << key;
  }
}

TEST(PlantedBench, RefusesWhatItCannotMake) {
  PlantedBenchOptions options;
  const auto parse = [&](const char* text) {
    return std::string(ParsePlantedPair(text, &options).message());
  };
  EXPECT_EQ(parse("llama-8b+llama-1b"), "");
  EXPECT_EQ(options.target, &Shape("llama-8b"));
  EXPECT_EQ(options.draft, &Shape("llama-1b"));
  EXPECT_EQ(parse("llama-8b"), "--planted: expected TARGET+DRAFT, as llama-8b+llama-1b, got llama-8b");
  EXPECT_THAT(parse("llama-8b+llama-2b"), HasSubstr("got llama-2b"));
  EXPECT_EQ(parse("llama-8b+qwen3-0.6b"),
            "--planted llama-8b+qwen3-0.6b: the vocabularies have 128256 and 151936 tokens; choose two "
            "shapes of one "
            "family");
  for (const double agreement : {-0.1, 1.1, std::nan("")}) {
    const auto result = RunPlantedBench(Tiny(kCpuDevice, agreement));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << agreement;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("--agreement: expected 0 to 1, got "));
  }
}

// A step behind a program that was appended keeps its arguments, and so do the appended ones.
TEST(Program, AppendsAnother) {
  Program first, second;
  first.Record(3);
  second.At(Lane::kDraft, Phase::kRule);
  second.Add(CutArgs{.slot = 7});
  second.Wait(5);
  first.Append(second);
  first.Add(CutArgs{.slot = 9});
  ASSERT_EQ(first.steps().size(), 4u);
  EXPECT_EQ(*static_cast<const EventId*>(first.args(first.steps()[0])), 3);
  EXPECT_EQ(first.args_as<CutArgs>(first.steps()[1]).slot, 7);
  EXPECT_EQ(first.steps()[1].lane, Lane::kDraft);
  EXPECT_EQ(first.steps()[1].phase, Phase::kRule);
  EXPECT_EQ(*static_cast<const EventId*>(first.args(first.steps()[2])), 5);
  EXPECT_EQ(first.args_as<CutArgs>(first.steps()[3]).slot, 9);
}

}  // namespace
}  // namespace tandem
