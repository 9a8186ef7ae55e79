#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

constexpr int64_t kMiB = 1 << 20;

PlannedModel Planned(const std::string& name, int64_t weight_bytes) {
  PlannedModel model{.name = name, .weight_bytes = weight_bytes, .cache_dtype = DType::kBf16};
  model.shape.n_layers = 4;
  model.shape.hidden = 256;
  model.shape.n_kv_heads = 2;
  model.shape.head_dim = 64;
  model.shape.n_vocab = 1000;
  model.shape.max_context = 4096;
  return model;
}

TEST(MemoryPlan, AddsUpItsParts) {
  const MemoryPlan plan = PlanMemory({Planned("a", 64 * kMiB), Planned("b", 2 * kMiB)},
                                     {.n_slots = 2, .gamma = 4, .prefill_chunk = 128, .cache_tokens = 1024});
  ASSERT_EQ(plan.parts.size(), 6u);
  EXPECT_EQ(plan.parts[0].bytes, 64 * kMiB);
  // K and V of 4 layers of 2 heads of 64, in bf16, for 1,024 tokens.
  EXPECT_EQ(plan.parts[1].bytes, 2 * 4 * 2 * 64 * 2 * 1024);
  // 128 rows of activations, and 2 x 5 rows of logits.
  EXPECT_EQ(plan.parts[2].bytes, (128 * 16 * 256 + 10 * 1000) * 4);
  int64_t sum = 0;
  for (const MemoryPart& part : plan.parts) sum += part.bytes;
  EXPECT_EQ(plan.bytes(), sum);
}

TEST(MemoryPlan, WithoutCacheTokensItPlansForOneContext) {
  PlannedModel shorter = Planned("b", 0);
  shorter.shape.max_context = 2048;
  const MemoryPlan plan = PlanMemory({Planned("a", 0), shorter}, {});
  EXPECT_EQ(plan.parts[1].bytes, 2 * 4 * 2 * 64 * 2 * 2048);
}

TEST(MemoryPlan, WhatDoesNotFitIsNamedWithTwoWaysOut) {
  const MemoryPlan weights = PlanMemory({Planned("models/big", 640 * kMiB)}, {.cache_tokens = 1024});
  EXPECT_TRUE(CheckFits(weights, {.cuda_index = 0}, weights.bytes()).ok());
  const absl::Status status = CheckFits(weights, {.cuda_index = 1}, 128 * kMiB);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  const std::string message(status.message());
  EXPECT_NE(message.find("cuda:1: the run needs "), std::string::npos) << message;
  EXPECT_NE(message.find("the weights of models/big is the largest part"), std::string::npos) << message;
  EXPECT_NE(message.find("choose a smaller model, or a GPU with more memory"), std::string::npos) << message;

  const MemoryPlan cache = PlanMemory({Planned("a", kMiB)}, {.cache_tokens = 1 << 20});
  const std::string other(CheckFits(cache, {.cuda_index = 0}, kMiB).message());
  EXPECT_NE(other.find("the cache of a for 1,048,576 tokens is the largest part"), std::string::npos)
      << other;
  EXPECT_NE(other.find("lower cache.tokens, or use dtype: bf16"), std::string::npos) << other;
}

TEST(MemoryPlan, CacheTokensComeFromWhatIsFree) {
  EXPECT_EQ(CacheTokensThatFit(1000, 10, 500), 100);
  EXPECT_EQ(CacheTokensThatFit(1000, 10, 50), 50);
  EXPECT_EQ(CacheTokensThatFit(-5, 10, 50), 0);
}

}  // namespace
}  // namespace tandem
