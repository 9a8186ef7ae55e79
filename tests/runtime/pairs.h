// Pairs for tests of the engine: models whose every law is known without running them.
#ifndef TANDEM_TESTS_RUNTIME_PAIRS_H_
#define TANDEM_TESTS_RUNTIME_PAIRS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/hash_chain/hash_chain.h"
#include "runtime/engine.h"
#include "runtime/model/arch/hash_chain.h"

namespace tandem {

inline constexpr int32_t kVocab = 13;
inline constexpr float kSpread = 3;

inline std::shared_ptr<const HashChainModel> HashTarget(Device device = {}) {
  return std::make_shared<HashChainModel>(kVocab, 11, kSpread, 4096, device);
}

// Another law at every prefix.
inline std::shared_ptr<const HashChainModel> HashDraft(Device device = {}) {
  return std::make_shared<HashChainModel>(kVocab, 12, kSpread, 4096, device);
}

inline std::unique_ptr<Policy> MakePolicy(const PolicyOptions& options = {}, bool draft_has_law = true) {
  auto policy = Policy::Create(options, draft_has_law);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return *std::move(policy);
}

inline std::unique_ptr<Engine> MakeEngine(const EngineOptions& options, PairSpec pair,
                                          std::unique_ptr<Policy> policy) {
  auto engine = Engine::Create(options, std::move(pair), std::move(policy));
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

inline std::vector<RequestResult> RunAll(Engine& engine, const std::vector<Request>& requests) {
  for (const Request& request : requests) {
    const absl::Status status = engine.Submit(request);
    EXPECT_TRUE(status.ok()) << status;
  }
  std::vector<RequestResult> results;
  const absl::Status status = engine.Run(nullptr, &results);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(results.size(), requests.size());
  return results;
}

// A prompt with repeats in it, so that n-gram lookup finds something.
inline std::vector<int32_t> SomePrompt(int32_t length, uint64_t seed, int32_t n_vocab = kVocab) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) {
    prompt.push_back(static_cast<int32_t>(HashMix(seed, static_cast<uint64_t>(i % 5)) % n_vocab));
  }
  return prompt;
}

// The target's greedy continuation, from its definition: no engine, no cache.
inline std::vector<int32_t> GreedyContinuation(const HashChainModel& model, std::vector<int32_t> prefix,
                                               int32_t n) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < n; ++i) {
    const std::vector<float> logits = model.Logits(prefix);
    const auto next = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    tokens.push_back(next);
    prefix.push_back(next);
  }
  return tokens;
}

}  // namespace tandem

#endif  // TANDEM_TESTS_RUNTIME_PAIRS_H_
