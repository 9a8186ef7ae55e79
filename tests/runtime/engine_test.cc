// ctest-label: concurrent
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "kernels/sample/sample.h"
#include "policies/registry.h"
#include "runtime/steps.h"
#include "tests/runtime/every_mode.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

INSTANTIATE_TEST_SUITE_P(, EveryMode, AllModes(), NameOfMode);

// A drafter of the host's that is right most of the time: it knows the target.
HostDraftFunction KnowingDrafter() {
  return [target = HashTarget()](std::span<const int32_t> committed, int32_t wanted,
                                 std::vector<int32_t>* proposed) {
    *proposed = GreedyContinuation(*target, {committed.begin(), committed.end()}, wanted);
    const size_t wrong = committed.size() % 4;
    if (wrong < proposed->size()) (*proposed)[wrong] = ((*proposed)[wrong] + 1) % kVocab;
  };
}

PairSpec PairWith(const std::string& drafter, Device device = {}) {
  PairSpec pair{.target = {.model = HashTarget(device)}};
  if (drafter == "model") pair.draft = ModelSpec{.model = HashDraft(device)};
  if (drafter == "self") pair.draft = pair.target;
  if (drafter == "ngram") pair.ngram = NgramSpec{.min = 1, .max = 3};
  if (drafter == "host") pair.host_drafter = KnowingDrafter();
  return pair;
}

std::vector<Request> SomeRequests(int32_t n, const Sampling& sampling) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < n; ++i) {
    requests.push_back({.id = std::to_string(i),
                        .prompt = SomePrompt(1 + 9 * i, 100 + i),
                        .sampling = sampling,
                        .seed = 7,
                        .max_new_tokens = 17 + i});
  }
  return requests;
}

// Every built-in rule, and way to verify, whose greedy output is the target's.
std::vector<PolicyOptions> ExactRules(bool draft_has_law) {
  std::vector<PolicyOptions> exact;
  for (const RuleEntry& rule : Rules()) {
    for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
      const PolicyOptions options{.rule = rule.info->name, .verification = verification};
      const auto policy = Policy::Create(options, draft_has_law);
      if (policy.ok() && (*policy)->guarantee(/*greedy=*/true) == Guarantee::kExact) exact.push_back(options);
    }
  }
  return exact;
}

TEST_P(EveryMode, GreedyOutputIsTheTargetsForEveryDrafterRuleGammaAndBatch) {
  const auto target = HashTarget();
  const std::vector<Request> requests = SomeRequests(4, {});
  const Device device = GetParam().device;
  for (const char* drafter : {"none", "model", "self", "ngram", "host"}) {
    const bool has_law = std::string(drafter) == "model" || std::string(drafter) == "self";
    if (device.is_cuda() && std::string(drafter) == "host") continue;
    for (const PolicyOptions& policy : ExactRules(has_law)) {
      for (int32_t gamma = 1; gamma <= 8; ++gamma) {
        for (int32_t n_slots = 1; n_slots <= 4; ++n_slots) {
          // To make an engine takes a tenth of a second there, and the judge is tested rule by rule: lossless sees all.
          if (device.is_cuda() && policy.rule != "lossless" && gamma * 10 + n_slots != 32) continue;
          const EngineOptions options{.n_slots = n_slots,
                                      .gamma = gamma,
                                      .max_context = 64,
                                      .page_size = 1 + gamma,
                                      .prefill_chunk = 8,
                                      .streams = GetParam().streams,
                                      .n_threads = 1 + gamma % 2,
                                      .adversary_seed = static_cast<uint64_t>(gamma)};
          auto engine = MakeEngine(options, PairWith(drafter, device), MakePolicy(policy, has_law));
          const std::vector<RequestResult> results = RunAll(*engine, requests);
          for (const RequestResult& result : results) {
            ASSERT_EQ(result.token_ids,
                      GreedyContinuation(*target, result.request.prompt, result.request.max_new_tokens))
                << drafter << " " << policy.rule << " " << Name(policy.verification) << " gamma " << gamma
                << " batch " << n_slots;
            ASSERT_EQ(result.finish, FinishReason::kLength);
          }
        }
      }
    }
  }
}

TEST_P(EveryMode, ADraftThatIsTheTargetKeepsEveryToken) {
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0.8f, .top_p = 0.9f}}) {
    for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
      const EngineOptions options{.n_slots = 3,
                                  .gamma = 4,
                                  .max_context = 128,
                                  .page_size = 5,
                                  .streams = GetParam().streams,
                                  .n_threads = 2};
      auto engine = MakeEngine(options, PairWith("self", GetParam().device),
                               MakePolicy({.verification = verification}));
      for (const RequestResult& result : RunAll(*engine, SomeRequests(5, sampling))) {
        EXPECT_GT(result.counts.num_draft_tokens, 0);
        EXPECT_EQ(result.counts.num_accepted_tokens, result.counts.num_draft_tokens);
        EXPECT_EQ(result.counts.target_calls, (result.request.max_new_tokens + 4) / 5);
      }
    }
  }
}

TEST_P(EveryMode, TokensDependOnNeitherCompanyNorOrder) {
  const Sampling sampling{.temperature = 0.9f, .top_k = 9, .min_p = 0.01f};
  std::vector<Request> requests = SomeRequests(6, sampling);
  std::map<std::string, std::vector<int32_t>> alone;
  for (const Request& request : requests) {
    auto engine =
        MakeEngine({.gamma = 3, .max_context = 128}, PairWith("model", GetParam().device), MakePolicy());
    alone[request.id] = RunAll(*engine, {request})[0].token_ids;
  }
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), 0);
  for (int32_t n_slots : {1, 2, 4}) {
    std::rotate(requests.begin(), requests.begin() + 1, requests.end());
    const EngineOptions options{.n_slots = n_slots,
                                .gamma = 3,
                                .max_context = 128,
                                .page_size = 2,
                                .prefill_chunk = 4,
                                .rounds_ahead = n_slots - 1,
                                .streams = GetParam().streams,
                                .n_threads = 2};
    auto engine = MakeEngine(options, PairWith("model", GetParam().device), MakePolicy());
    for (int repeat = 0; repeat < 2; ++repeat) {
      for (const RequestResult& result : RunAll(*engine, requests)) {
        EXPECT_EQ(result.token_ids, alone[result.request.id]) << "batch " << n_slots;
      }
    }
  }
}

TEST_P(EveryMode, AStopIdInsideAKeptBlockCutsThere) {
  const auto target = HashTarget();
  Request request{.prompt = SomePrompt(12, 5), .max_new_tokens = 40};
  const std::vector<int32_t> free = GreedyContinuation(*target, request.prompt, 40);
  for (int32_t at = 0; at < 20; ++at) {
    const auto first = std::find(free.begin(), free.end(), free[at]) - free.begin();
    request.stop_ids = {free[at]};
    auto engine = MakeEngine({.gamma = 6, .max_context = 64, .streams = GetParam().streams},
                             PairWith("self", GetParam().device), MakePolicy());
    const RequestResult result = RunAll(*engine, {request})[0];
    EXPECT_EQ(result.token_ids, std::vector<int32_t>(free.begin(), free.begin() + first + 1));
    EXPECT_EQ(result.finish, FinishReason::kStop);
    EXPECT_EQ(result.counts.num_emitted_tokens, first + 1);
    // The draft is the target, so all but each round's added token were proposed; what follows the cut is not counted.
    EXPECT_EQ(result.counts.num_accepted_tokens, first + 1 - (first + 1) / 7);
  }
}

TEST(Engine, TheContextIsAsLongAsItMayBe) {
  const auto target = HashTarget();
  for (int32_t gamma : {0, 3}) {
    auto engine =
        MakeEngine({.gamma = gamma, .max_context = 20, .page_size = 4}, PairWith("model"), MakePolicy());
    const Request request{.prompt = SomePrompt(9, 1), .max_new_tokens = 100};
    const RequestResult result = RunAll(*engine, {request})[0];
    EXPECT_EQ(result.token_ids, GreedyContinuation(*target, request.prompt, 11));
    EXPECT_EQ(result.finish, FinishReason::kLength);
  }
}

TEST(Engine, AShortageOfPagesChangesNothing) {
  const auto target = HashTarget();
  const std::vector<Request> requests = SomeRequests(5, {});
  // Room for one of the longest, or for several short ones, in a batch of 4.
  auto engine = MakeEngine({.n_slots = 4, .gamma = 2, .max_context = 64, .page_size = 4, .cache_tokens = 60},
                           PairWith("model"), MakePolicy());
  for (const RequestResult& result : RunAll(*engine, requests)) {
    EXPECT_EQ(result.token_ids,
              GreedyContinuation(*target, result.request.prompt, result.request.max_new_tokens));
  }
}

TEST(Engine, TheHeuristicGoesTwoUpAndOneDown) {
  const auto lengths = [](const std::string& drafter) {
    std::vector<int32_t> proposed;
    const EngineOptions options{.gamma = 7, .schedule = GammaSchedule::kHeuristic, .max_context = 128};
    auto engine = MakeEngine(options, PairWith(drafter), MakePolicy());
    const RequestResult result = RunAll(*engine, {{.prompt = SomePrompt(3, 3), .max_new_tokens = 60}})[0];
    for (size_t i = 0; i < result.counts.drafted_per_pos.size(); ++i) {
      proposed.push_back(static_cast<int32_t>(result.counts.drafted_per_pos[i]));
    }
    return proposed;
  };
  // Every block is kept whole: the length stays at its most.
  const std::vector<int32_t> all = lengths("self");
  for (size_t i = 1; i + 1 < all.size(); ++i) EXPECT_GE(all[i] + 1, all[0]);
  // The laws agree by chance only: it falls to 1 and stays near it.
  const std::vector<int32_t> few = lengths("model");
  EXPECT_GT(few[0], 4 * few[3]);
}

TEST(Engine, DraftingStopsAfterATokenOfLowConfidence) {
  const Sampling sampling{.temperature = 1};
  const auto draft = HashDraft();
  auto engine =
      MakeEngine({.gamma = 5, .confidence_min = 0.25f, .max_context = 256}, PairWith("model"), MakePolicy());
  const Request request{.prompt = SomePrompt(3, 3), .sampling = sampling, .max_new_tokens = 200};
  const RequestResult result = RunAll(*engine, {request})[0];
  // More than one token is proposed only after one of q >= 0.25, which is seldom the case over 13 tokens.
  EXPECT_GT(result.counts.drafted_per_pos[1], 0);
  EXPECT_LT(result.counts.drafted_per_pos[1], result.counts.drafted_per_pos[0] * 3 / 4);
}

TEST(Engine, ARunThatIsCancelledKeepsWhatItHas) {
  class AfterThree : public EngineListener {
    bool Cancelled() override { return ++n_ == 3; }
    int n_ = 0;
  };
  const auto target = HashTarget();
  auto engine = MakeEngine({.n_slots = 2, .gamma = 2, .max_context = 64}, PairWith("model"), MakePolicy());
  const std::vector<Request> requests = SomeRequests(3, {});
  for (const Request& request : requests) ASSERT_TRUE(engine->Submit(request).ok());
  AfterThree listener;
  std::vector<RequestResult> results;
  ASSERT_TRUE(engine->Run(&listener, &results).ok());
  ASSERT_EQ(results.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i].finish, FinishReason::kCancelled);
    const auto n = static_cast<int32_t>(results[i].token_ids.size());
    EXPECT_EQ(n > 0, i < 2);
    EXPECT_EQ(results[i].token_ids, GreedyContinuation(*target, requests[i].prompt, n));
  }
  // The engine is as good as new.
  EXPECT_EQ(RunAll(*engine, requests)[2].token_ids,
            GreedyContinuation(*target, requests[2].prompt, requests[2].max_new_tokens));
}

TEST(Engine, RequestsThatCannotRunAreRefusedInWords) {
  auto engine = MakeEngine({.gamma = 2, .max_context = 32, .page_size = 4, .cache_tokens = 20},
                           PairWith("model"), MakePolicy());
  const auto message = [&](const Request& request) { return std::string(engine->Submit(request).message()); };
  EXPECT_EQ(message({.id = "a", .prompt = {}, .max_new_tokens = 1}),
            "request a: the prompt is empty; expected at least one token");
  EXPECT_EQ(message({.id = "a", .prompt = SomePrompt(32, 1), .max_new_tokens = 1}),
            "request a: the prompt has 32 tokens; the context of 32 leaves room for 31. Shorten it, or raise "
            "cache.max_context");
  EXPECT_EQ(message({.id = "a", .prompt = {1, 13}, .max_new_tokens = 1}),
            "request a: token id 13 in the prompt; expected 0 to 12");
  EXPECT_EQ(message({.id = "a", .prompt = SomePrompt(9, 1), .max_new_tokens = 12}),
            "request a: needs 21 tokens of cache (prompt 9, max_new_tokens 12); 20 fit. Raise cache.tokens "
            "or lower "
            "max_new_tokens");
  EXPECT_EQ(message({.id = "a", .prompt = {1}, .max_new_tokens = 1, .stop_strings = {"x"}}),
            "request a: stop strings need a tokenizer, and  has none; use stop_token_ids or add its "
            "tokenizer.json");
  EXPECT_EQ(Engine::Create({.gamma = 99}, PairWith("model"), MakePolicy()).status().message(),
            "speculation.gamma: expected 0 to 31, got 99");
}

TEST(Engine, GammaZeroIsTheProgramOfNoDraft) {
  const auto listing = [](const Engine& engine) {
    std::string text;
    for (const Step& step : engine.round().steps()) text += std::string(Name(step.op)) + " ";
    return text;
  };
  auto none = MakeEngine({.gamma = 0, .max_context = 64}, PairWith("none"), MakePolicy());
  auto zero = MakeEngine({.gamma = 0, .max_context = 64}, PairWith("model"), MakePolicy());
  EXPECT_EQ(listing(*none), listing(*zero));
  EXPECT_EQ(listing(*none),
            "wait record wait plan hash_chain advance law_blocks law judge settle publish record ");
}

}  // namespace
}  // namespace tandem
