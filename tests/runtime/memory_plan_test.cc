#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/stream/stream_plan.h"
#include "runtime/model/planted.h"
#include "runtime/model/runner.h"
#include "tests/on_device.h"
#include "tests/runtime/model/random_checkpoint.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

constexpr int64_t kMiB = 1 << 20;

PlannedModel Planned(const std::string& name, int64_t weight_bytes) {
  PlannedModel model{.name = name, .weight_bytes = weight_bytes, .cache_dtype = DType::kBf16};
  model.shape.n_layers = 4;
  model.shape.hidden = 256;
  model.shape.intermediate = 512;
  model.shape.n_heads = 4;
  model.shape.n_kv_heads = 2;
  model.shape.head_dim = 64;
  model.shape.n_vocab = 1000;
  model.shape.max_context = 4096;
  return model;
}

const MemoryPart& PartOf(const MemoryPlan& plan, const std::string& what) {
  const auto found = std::find_if(plan.parts.begin(), plan.parts.end(),
                                  [&](const MemoryPart& part) { return part.what.starts_with(what); });
  EXPECT_NE(found, plan.parts.end()) << what;
  return *found;
}

TEST(MemoryPlan, AddsUpItsParts) {
  const MemoryPlan plan =
      PlanMemory({{Planned("a", 64 * kMiB), Planned("b", 2 * kMiB)},
                  {.n_slots = 1, .gamma = 4, .prefill_chunk = 128, .cache_tokens = 8192}});
  EXPECT_EQ(PartOf(plan, "the weights of a").bytes, 64 * kMiB);
  EXPECT_EQ(PartOf(plan, "the weights of b").bytes, 2 * kMiB);
  // K and V of 4 layers, each of 2 heads of 64 in bf16 for 8,192 tokens, and one unit for the page table.
  EXPECT_EQ(PartOf(plan, "the cache of a for 8,192 tokens").bytes, 2 * 4 * (2 * 64 * 2 * 8192) + 2 * kMiB);
  // Less than a unit: activations of 128 rows and laws of 5.
  EXPECT_EQ(PartOf(plan, "the workspace of a").bytes, 2 * kMiB);
  EXPECT_GE(PartOf(plan, "the stream kernels of a").bytes, 2 * kMiB);
  EXPECT_GE(PartOf(plan, "cuBLAS's workspace").bytes, 32 * kMiB);
  int64_t sum = 0;
  for (const MemoryPart& part : plan.parts) sum += part.bytes;
  EXPECT_EQ(plan.bytes(), sum);
}

// Rounds of 8, 4, 2 and 1 slots; forwards of more than 8 rows have no stream kernel.
TEST(MemoryPlan, StreamKernelsAreThoseOfAllBuckets) {
  const PlannedModel target = Planned("a", 0), draft = Planned("b", 0);
  const auto sum = [](const PlannedModel& model, const std::vector<int32_t>& rows) {
    int64_t bytes = 0;
    for (const int32_t n : rows) bytes += StreamKernelBytes(model, n, 16);
    return bytes;
  };
  PlannedEngine engine{{target, draft}, {.n_slots = 8, .gamma = 3, .cache_tokens = 1024}};
  const MemoryPlan all = PlanMemory(engine);
  EXPECT_EQ(PartOf(all, "the stream kernels of a").bytes, sum(target, {8, 4}));
  EXPECT_EQ(PartOf(all, "the stream kernels of b").bytes,
            sum(draft, {8, 8, 8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1}));
  engine.run.buckets = false;
  const MemoryPlan one = PlanMemory(engine);
  EXPECT_EQ(PartOf(one, "the stream kernels of a").bytes, 0);
  EXPECT_EQ(PartOf(one, "the stream kernels of b").bytes, sum(draft, {8, 8, 8}));
  EXPECT_LT(PartOf(one, "cuBLAS's workspace").bytes, PartOf(all, "cuBLAS's workspace").bytes);
  for (const char* part : {"the cache of a", "the workspace of a", "the workspace of b", "what rounds keep"})
    EXPECT_EQ(PartOf(one, part).bytes, PartOf(all, part).bytes) << part;
}

TEST(MemoryPlan, EnginesAddUp) {
  const PlannedEngine a{{Planned("a", kMiB)}, {.cache_tokens = 4096}};
  const PlannedEngine b{{Planned("b", kMiB)}, {.n_slots = 3, .cache_tokens = 512}};
  const PlannedEngine both[] = {a, b};
  EXPECT_EQ(PlanMemory(both).bytes(), PlanMemory(a).bytes() + PlanMemory(b).bytes());
}

TEST(MemoryPlan, WithoutCacheTokensItPlansForOneContext) {
  PlannedModel shorter = Planned("b", 0);
  shorter.shape.max_context = 2048;
  const MemoryPlan plan = PlanMemory({{Planned("a", 0), shorter}, {}});
  EXPECT_GT(PartOf(plan, "the cache of a for 2,048 tokens").bytes, 0);
}

TEST(MemoryPlan, WhatDoesNotFitIsNamedWithTwoWaysOut) {
  const MemoryPlan weights = PlanMemory({{Planned("models/big", 640 * kMiB)}, {.cache_tokens = 1024}});
  EXPECT_TRUE(CheckFits(weights, {.cuda_index = 0}, weights.bytes()).ok());
  const absl::Status status = CheckFits(weights, {.cuda_index = 1}, 128 * kMiB);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  const std::string message(status.message());
  EXPECT_NE(message.find("cuda:1: the run needs "), std::string::npos) << message;
  EXPECT_NE(message.find("the weights of models/big is the largest part"), std::string::npos) << message;
  EXPECT_NE(message.find("choose a smaller model, or a GPU with more memory"), std::string::npos) << message;

  const MemoryPlan cache = PlanMemory({{Planned("a", kMiB)}, {.cache_tokens = 1 << 20}});
  const std::string other(CheckFits(cache, {.cuda_index = 0}, kMiB).message());
  EXPECT_NE(other.find("the cache of a for 1,048,576 tokens is the largest part"), std::string::npos)
      << other;
  EXPECT_NE(other.find("lower cache.tokens, or use dtype: bf16"), std::string::npos) << other;
}

// The plan with so many tokens fits, the one with a page more does not.
TEST(MemoryPlan, CacheTokensComeFromWhatIsFree) {
  const PlannedEngine engine{{Planned("a", 0), Planned("b", 0)},
                             {.n_slots = 64, .gamma = 3, .page_size = 16, .max_context = 4096}};
  const auto needed = [&](int64_t n_tokens) {
    PlannedEngine with = engine;
    with.run.cache_tokens = n_tokens;
    return PlanMemory(with).bytes();
  };
  for (const int64_t free : {400 * kMiB, 500 * kMiB, 777 * kMiB}) {
    const int64_t n_tokens = CacheTokensThatFit({&engine, 1}, free);
    ASSERT_GT(n_tokens, 0);
    EXPECT_EQ(n_tokens % 16, 0);
    EXPECT_LE(needed(n_tokens), free);
    EXPECT_GT(needed(n_tokens + 16), free);
  }
  EXPECT_EQ(CacheTokensThatFit({&engine, 1}, int64_t{100} << 30), 64 * 4096) << "no more than slots can use";
  EXPECT_EQ(CacheTokensThatFit({&engine, 1}, 100 * kMiB), 0);
  EXPECT_EQ(CacheTokensThatFit({&engine, 1}, -5), 0);
  // Two engines share it.
  const PlannedEngine both[] = {engine, engine};
  EXPECT_EQ(CacheTokensThatFit(both, 2 * needed(8000)), CacheTokensThatFit({&engine, 1}, needed(8000)));
}

// What the plan says of a model's workspace and stream kernel, against what is made.
TEST(MemoryPlan, SizesAreThoseOfWhatIsMade) {
  for (const RandomCheckpoint& checkpoint : {kAlignedLlama, kAlignedQwen3}) {
    TempCheckpoint folder;
    WriteCheckpoint(checkpoint, folder);
    const auto model = LoadModel(folder.folder());
    ASSERT_TRUE(model.ok()) << model.status();
    const ModelShape& shape = (*model)->shape();
    for (const int32_t max_rows : {1, 5, 8, 128}) {
      for (const int32_t n_workers : {1, 3}) {
        Arena arena;
        (*model)->NewWorkspace(arena, max_rows, n_workers);
        int64_t sum = 0;
        for (const int64_t bytes : WorkspaceSizes(shape, max_rows, n_workers)) sum += bytes;
        EXPECT_EQ(sum, static_cast<int64_t>(arena.bytes())) << checkpoint.name << " " << max_rows;
      }
    }
    for (const int32_t n_slots : {1, 5, 8, 9}) {
      ModelRunner runner(*model, {.dtype = ActivationDType::kBf16,
                                  .cache = {.n_slots = n_slots, .n_tokens = 64, .max_context = 64},
                                  .max_rows = n_slots});
      const Batch batch{.n_slots = n_slots};
      Arena arena;
      Program program;
      runner.Extend(program, batch, {.kind = PlanKind::kVerify, .proposal = {.block = 1}},
                    NewLaws(arena, n_slots, shape.n_vocab, shape.n_vocab));
      const auto& steps = program.steps();
      const auto first = std::find_if(steps.begin(), steps.end(), [](Step s) { return s.op == Op::kLinear; });
      stream::StreamPlan plan;
      const size_t n_steps = stream::PlanStream(program, first - steps.begin(), &plan);
      const int64_t planned =
          StreamKernelBytes({.shape = shape, .cache_dtype = DType::kBf16}, n_slots, /*page_size=*/16);
      EXPECT_EQ(n_steps > 0, n_slots <= 8);
      EXPECT_EQ(planned > 0, n_slots <= 8);
      if (n_steps == 0) continue;
      const int64_t made = 2 * plan.half_bytes + plan.n_widened * 4 +
                           static_cast<int64_t>(plan.steps.size() * sizeof(stream::StreamStep));
      EXPECT_GE(planned, made) << checkpoint.name << " " << n_slots;
      // Beyond it: the room for biases, a table of the products, and what rounding to units of 2 MiB adds.
      const int64_t biases = 4 * shape.n_layers *
                             (2 * (shape.n_heads + shape.n_kv_heads) * shape.head_dim + 2 * shape.hidden +
                              2 * shape.intermediate);
      const int64_t tables = static_cast<int64_t>(plan.steps.size() * sizeof(stream::Tiles));
      EXPECT_LE(planned, made + biases + tables + 2 * 2 * kMiB) << checkpoint.name << " " << n_slots;
    }
  }
}

// What making an engine and a first run take, by the device's own account.
TEST(MemoryPlan, CoversWhatADeviceSaysIsUsed) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  const PlantedShape& big = **FindPlantedShape("llama-1b");
  const PlantedShape& small = **FindPlantedShape("qwen3-0.6b");
  const std::vector<int32_t> successor = PlantSuccessors(big.n_vocab, 1);
  const ModelSpec target{.model = MakePlanted(big, successor, 2, kCudaDevice),
                         .dtype = ActivationDType::kBf16};
  const ModelSpec draft{.model = MakePlanted(small, PlantSuccessors(small.n_vocab, 3), 4, kCudaDevice),
                        .dtype = ActivationDType::kBf16};
  const PairSpec pair{.target = target, .draft = draft};
  struct Case {
    int32_t n_slots, gamma, prefill_chunk;
    bool stream_kernels;
  };
  for (const Case& c : {Case{1, 4, 128, true}, Case{1, 4, 2048, false}, Case{8, 3, 512, true}}) {
    const EngineOptions options{.n_slots = c.n_slots,
                                .gamma = c.gamma,
                                .max_context = 4096,
                                .cache_tokens = int64_t{c.n_slots} * 4096,
                                .prefill_chunk = c.prefill_chunk,
                                .stream_kernels = c.stream_kernels};
    const int64_t planned = PlanMemory(PlanOf(options, pair)).bytes();
    const int64_t before = cuda::Memory(kCudaDevice).free;
    auto engine = MakeEngine(options, pair, MakePolicy());
    const int64_t made = before - cuda::Memory(kCudaDevice).free;
    RunAll(*engine, {{.prompt = SomePrompt(300, 1, big.n_vocab), .max_new_tokens = 20}});
    const int64_t used = before - cuda::Memory(kCudaDevice).free;
    SCOPED_TRACE(testing::Message() << "batch " << c.n_slots << " chunk " << c.prefill_chunk << ": planned "
                                    << planned / kMiB << " MiB, made " << made / kMiB << ", used "
                                    << used / kMiB);
    RecordProperty("planned_mib_" + std::to_string(c.prefill_chunk), static_cast<int>(planned / kMiB));
    RecordProperty("used_mib_" + std::to_string(c.prefill_chunk), static_cast<int>(used / kMiB));
    EXPECT_GE(planned, used);
    // The allowance for what nobody states, and a tenth.
    EXPECT_LE(planned, used + 256 * kMiB + used / 10);
  }
}

// An engine that is told how many tokens, and they do not fit.
TEST(MemoryPlan, AnEngineThatCannotFitIsRefused) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  const PlantedShape& shape = **FindPlantedShape("llama-1b");
  const ModelSpec target{.model = MakePlanted(shape, PlantSuccessors(shape.n_vocab, 1), 2, kCudaDevice),
                         .dtype = ActivationDType::kBf16,
                         .name = "a planted model"};
  const int64_t free = cuda::Memory(kCudaDevice).free;
  const int64_t too_many = free / PagedCache::BytesPerToken(target.model->shape(), DType::kBf16) + 1;
  const auto engine = Engine::Create({.cache_tokens = too_many}, {.target = target}, MakePolicy());
  ASSERT_FALSE(engine.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(engine.status()));
  const std::string message(engine.status().message());
  EXPECT_NE(message.find("the cache of a planted model"), std::string::npos) << message;
  EXPECT_NE(message.find("lower cache.tokens"), std::string::npos) << message;
}

}  // namespace
}  // namespace tandem
