// Sequences that lose their pages to others and are computed again: what they write, and what a caller sees of them, is
// what it would have been. On models whose every law is known and whose cache tells a wrong row from a right one;
// recovery_test does it on checkpoints.
// ctest-label: concurrent
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "tests/runtime/every_mode.h"
#include "tests/runtime/pairs.h"
#include "tests/runtime/tiny_checkpoints.h"

namespace tandem {
namespace {

INSTANTIATE_TEST_SUITE_P(, EveryMode, AllModes(), NameOfMode);

PairSpec PairWith(const std::string& drafter, Device device = {}) {
  PairSpec pair{.target = {.model = HashTarget(device)}};
  if (drafter == "model") pair.draft = ModelSpec{.model = HashDraft(device)};
  if (drafter == "self") pair.draft = pair.target;
  if (drafter == "ngram") pair.ngram = NgramSpec{.min = 1, .max = 3};
  return pair;
}

bool HasLaw(const std::string& drafter) { return drafter == "model" || drafter == "self"; }

// Short prompts and long outputs: several enter, and not all of them can stay.
std::vector<Request> SomeRequests(int32_t n, const Sampling& sampling = {}) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < n; ++i) {
    requests.push_back({.id = std::to_string(i),
                        .prompt = SomePrompt(2 + 3 * (i % 4), 100 + i),
                        .sampling = sampling,
                        .seed = 7,
                        .max_new_tokens = 44 - i % 5});
  }
  return requests;
}

// Positions of the longest of the requests, and `more`.
int64_t RoomForOne(const std::vector<Request>& requests, int32_t more) {
  size_t longest = 0;
  for (const Request& request : requests)
    longest = std::max(longest, request.prompt.size() + request.max_new_tokens);
  return static_cast<int64_t>(longest) + more;
}

int64_t Preemptions(const std::vector<RequestResult>& results) {
  int64_t n = 0;
  for (const RequestResult& result : results) n += result.counts.num_preemptions;
  return n;
}

std::vector<RequestResult> RunWith(Engine& engine, const std::vector<Request>& requests,
                                   EngineListener* listener) {
  for (const Request& request : requests) EXPECT_TRUE(engine.Submit(request).ok());
  std::vector<RequestResult> results;
  const absl::Status status = engine.Run(listener, &results);
  EXPECT_TRUE(status.ok()) << status;
  return results;
}

void ExpectSameRounds(const SpeculationCounts& a, const SpeculationCounts& b) {
  EXPECT_EQ(a.num_draft_tokens, b.num_draft_tokens);
  EXPECT_EQ(a.num_accepted_tokens, b.num_accepted_tokens);
  EXPECT_EQ(a.num_emitted_tokens, b.num_emitted_tokens);
  EXPECT_EQ(a.target_calls, b.target_calls);
  EXPECT_EQ(a.num_judged, b.num_judged);
  EXPECT_EQ(a.num_deferred, b.num_deferred);
  EXPECT_EQ(a.drafted_per_pos, b.drafted_per_pos);
  EXPECT_EQ(a.accepted_per_pos, b.accepted_per_pos);
  EXPECT_EQ(a.acceptance_histogram, b.acceptance_histogram);
}

TEST_P(EveryMode, GreedyOutputIsTheTargetsForEveryDrafterGammaAndBatch) {
  const auto target = HashTarget();
  const std::vector<Request> requests = SomeRequests(6);
  const Device device = GetParam().device;
  for (const char* drafter : {"none", "model", "self", "ngram"}) {
    for (int32_t gamma = 1; gamma <= 8; ++gamma) {
      for (int32_t n_slots = 1; n_slots <= 4; ++n_slots) {
        const EngineOptions options{.n_slots = n_slots,
                                    .gamma = gamma,
                                    .max_context = 64,
                                    .page_size = 1 + gamma % 4,
                                    .cache_tokens = RoomForOne(requests, 5 + gamma),
                                    .prefill_chunk = 1 + gamma,
                                    .rounds_ahead = gamma % 3,
                                    .streams = GetParam().streams,
                                    .n_threads = 1 + gamma % 2,
                                    .adversary_seed = static_cast<uint64_t>(gamma)};
        auto engine = MakeEngine(options, PairWith(drafter, device), MakePolicy({}, HasLaw(drafter)));
        const std::vector<RequestResult> results = RunAll(*engine, requests);
        for (const RequestResult& result : results) {
          ASSERT_EQ(result.token_ids,
                    GreedyContinuation(*target, result.request.prompt, result.request.max_new_tokens))
              << drafter << " gamma " << gamma << " batch " << n_slots;
          ASSERT_EQ(result.finish, FinishReason::kLength);
        }
        ASSERT_EQ(Preemptions(results) > 0, n_slots > 1)
            << drafter << " gamma " << gamma << " batch " << n_slots;
      }
    }
  }
}

// Rounds begin at the same lengths, so they draw the same numbers; what is adapted goes on from where it was.
TEST_P(EveryMode, SampledOutputIsThatOfARoomyCache) {
  const Sampling sampling{.temperature = 0.9f, .top_k = 9, .min_p = 0.01f};
  const std::vector<Request> requests = SomeRequests(7, sampling);
  for (const char* drafter : {"none", "model", "self", "ngram"}) {
    for (const GammaSchedule schedule : {GammaSchedule::kFixed, GammaSchedule::kHeuristic}) {
      for (const float confidence_min : {0.f, 0.3f}) {
        for (const char* rule : {"lossless", "opt"}) {
          if (!HasLaw(drafter) && (std::string(rule) == "opt" || confidence_min > 0)) continue;
          EngineOptions options{.n_slots = 3,
                                .gamma = 5,
                                .schedule = schedule,
                                .confidence_min = confidence_min,
                                .max_context = 64,
                                .page_size = 3,
                                .prefill_chunk = 4,
                                .rounds_ahead = 2,
                                .streams = GetParam().streams,
                                .n_threads = 2};
          const auto run = [&](int64_t cache_tokens) {
            options.cache_tokens = cache_tokens;
            auto engine = MakeEngine(options, PairWith(drafter, GetParam().device),
                                     MakePolicy({.rule = rule}, HasLaw(drafter)));
            return RunAll(*engine, requests);
          };
          const std::vector<RequestResult> roomy = run(0), tight = run(RoomForOne(requests, 20));
          EXPECT_EQ(Preemptions(roomy), 0);
          EXPECT_GT(Preemptions(tight), 0);
          for (size_t i = 0; i < requests.size(); ++i) {
            ASSERT_EQ(tight[i].token_ids, roomy[i].token_ids) << drafter << " " << rule;
            EXPECT_EQ(tight[i].origin, roomy[i].origin);
            ExpectSameRounds(tight[i].counts, roomy[i].counts);
          }
        }
      }
    }
  }
}

TEST_P(EveryMode, ManySequencesInACacheBarelyLargerThanOneEnd) {
  const auto target = HashTarget();
  const std::vector<Request> requests = SomeRequests(40);
  for (const int32_t page_size : {1, 4, 16}) {
    for (const int32_t rounds_ahead : {0, 3}) {
      const EngineOptions options{.n_slots = 8,
                                  .gamma = 2,
                                  .max_context = 64,
                                  .page_size = page_size,
                                  .cache_tokens = RoomForOne(requests, 1),
                                  .prefill_chunk = 8,
                                  .rounds_ahead = rounds_ahead,
                                  .streams = GetParam().streams,
                                  .adversary_seed = static_cast<uint64_t>(page_size)};
      auto engine = MakeEngine(options, PairWith("model", GetParam().device), MakePolicy());
      for (int repeat = 0; repeat < 2; ++repeat) {
        const std::vector<RequestResult> results = RunAll(*engine, requests);
        for (const RequestResult& result : results) {
          ASSERT_EQ(result.token_ids,
                    GreedyContinuation(*target, result.request.prompt, result.request.max_new_tokens));
        }
        // A sequence that was preempted is admitted again only after another has ended.
        EXPECT_GT(Preemptions(results), 0);
        EXPECT_LE(Preemptions(results), static_cast<int64_t>(requests.size()) * options.n_slots);
      }
    }
  }
}

// Equal requests end in the order in which they came: the first is never stopped, and one that was is the next to go on.
TEST_P(EveryMode, FirstComeFirstServed) {
  class Order : public EngineListener {
   public:
    void OnFinish(const RequestResult& result) override { ids.push_back(result.request.id); }
    std::vector<std::string> ids;
  };
  std::vector<Request> requests = SomeRequests(12);
  std::vector<std::string> ids;
  for (Request& request : requests) {
    request.prompt = SomePrompt(6, HashMix(3, ids.size()));
    request.max_new_tokens = 40;
    ids.push_back(request.id);
  }
  const EngineOptions options{.n_slots = 4,
                              .max_context = 64,
                              .page_size = 2,
                              .cache_tokens = RoomForOne(requests, 16),
                              .streams = GetParam().streams};
  auto engine = MakeEngine(options, PairWith("none", GetParam().device), MakePolicy());
  Order order;
  const std::vector<RequestResult> results = RunWith(*engine, requests, &order);
  EXPECT_EQ(order.ids, ids);
  EXPECT_EQ(results[0].counts.num_preemptions, 0);
  EXPECT_GT(Preemptions(results), 5);
}

TEST_P(EveryMode, ASequenceAloneIsNotPreempted) {
  const std::vector<Request> one = SomeRequests(1);
  const EngineOptions options{.n_slots = 4,
                              .gamma = 3,
                              .max_context = 64,
                              .page_size = 4,
                              .cache_tokens = RoomForOne(one, 0),
                              .rounds_ahead = 3,
                              .streams = GetParam().streams};
  auto engine = MakeEngine(options, PairWith("model", GetParam().device), MakePolicy());
  const RequestResult result = RunAll(*engine, one)[0];
  EXPECT_EQ(result.counts.num_preemptions, 0);
  EXPECT_EQ(result.token_ids, GreedyContinuation(*HashTarget(), one[0].prompt, one[0].max_new_tokens));
}

// What was told, per request.
class Witness : public EngineListener {
 public:
  struct Heard {
    std::vector<int32_t> tokens;
    std::string text;
    int n_finished = 0;
  };
  void OnTokens(const Request& request, std::span<const int32_t> tokens, std::span<const Origin> origin,
                std::string_view text) override {
    Heard& heard = heard_[request.id];
    EXPECT_EQ(heard.n_finished, 0);
    EXPECT_EQ(tokens.size(), origin.size());
    heard.tokens.insert(heard.tokens.end(), tokens.begin(), tokens.end());
    heard.text += text;
  }
  void OnFinish(const RequestResult& result) override { ++heard_[result.request.id].n_finished; }
  bool Cancelled() override { return ++n_asked_ == cancel_at_; }

  std::map<std::string, Heard> heard_;
  int n_asked_ = 0;
  int cancel_at_ = 0;
};

// Every token is told once, in order; stop strings are found though their beginning was written before a preemption.
TEST_P(EveryMode, StopStringsEndSequencesAndNothingIsToldTwice) {
  const TestFolder folder;
  const auto tokenizer = Tokenizer::Load(WriteAll(folder / "tokenizer.json", ByteTokenizer().dump()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto target = HashTarget();
  int64_t n_preempted = 0, n_stopped = 0;
  for (int32_t at = 4; at < 40; at += 3) {
    std::vector<Request> requests = SomeRequests(6);
    std::vector<std::vector<int32_t>> expected;
    for (Request& request : requests) {
      // Token ids are bytes. The text that the target would write stops where three of its tokens stand first.
      const std::vector<int32_t> free = GreedyContinuation(*target, request.prompt, request.max_new_tokens);
      const std::string text(free.begin(), free.end());
      const std::string stop = text.substr(at - 3, 3);
      if (request.id != "0") request.stop_strings = {stop};
      const size_t end = request.id == "0" ? free.size() : std::min(text.find(stop) + 3, free.size());
      expected.emplace_back(free.begin(), free.begin() + static_cast<int64_t>(end));
    }
    PairSpec pair = PairWith("self", GetParam().device);
    pair.tokenizer = tokenizer->get();
    const EngineOptions options{.n_slots = 3,
                                .gamma = 2,
                                .max_context = 64,
                                .page_size = 2,
                                .cache_tokens = RoomForOne(requests, 4),
                                .streams = GetParam().streams};
    auto engine = MakeEngine(options, pair, MakePolicy());
    Witness witness;
    const std::vector<RequestResult> results = RunWith(*engine, requests, &witness);
    for (size_t i = 0; i < requests.size(); ++i) {
      const RequestResult& result = results[i];
      ASSERT_EQ(result.token_ids, expected[i]) << "stop at " << at << ", request " << i;
      const Witness::Heard& heard = witness.heard_[requests[i].id];
      EXPECT_EQ(heard.tokens, result.token_ids);
      EXPECT_EQ(heard.text, result.text);
      EXPECT_EQ(heard.n_finished, 1);
      EXPECT_EQ(result.token_ns.size(), result.token_ids.size());
      EXPECT_TRUE(std::is_sorted(result.token_ns.begin(), result.token_ns.end()));
      EXPECT_LE(result.admitted_ns, result.first_token_ns);
      n_stopped += result.finish == FinishReason::kStop;
    }
    n_preempted += Preemptions(results);
  }
  EXPECT_GT(n_preempted, 10);
  EXPECT_GT(n_stopped, 20);
}

// After every round in turn: sequences are running, waiting for the first time, and waiting again.
TEST_P(EveryMode, ARunThatIsCancelledKeepsWhatItHas) {
  const auto target = HashTarget();
  const std::vector<Request> requests = SomeRequests(5);
  const EngineOptions options{.n_slots = 3,
                              .gamma = 2,
                              .max_context = 64,
                              .page_size = 2,
                              .cache_tokens = RoomForOne(requests, 4),
                              .streams = GetParam().streams};
  auto engine = MakeEngine(options, PairWith("model", GetParam().device), MakePolicy());
  int n_cancelled_preempted = 0;
  for (int round = 1; round < 60; ++round) {
    Witness witness;
    witness.cancel_at_ = round;
    const std::vector<RequestResult> results = RunWith(*engine, requests, &witness);
    ASSERT_EQ(results.size(), requests.size());
    for (size_t i = 0; i < results.size(); ++i) {
      const RequestResult& result = results[i];
      const Witness::Heard& heard = witness.heard_[requests[i].id];
      const auto n = static_cast<int32_t>(result.token_ids.size());
      ASSERT_EQ(result.token_ids, GreedyContinuation(*target, requests[i].prompt, n)) << "round " << round;
      ASSERT_EQ(heard.tokens, result.token_ids);
      ASSERT_EQ(heard.n_finished, result.admitted_ns > 0 ? 1 : 0);  // one that never ran is not told of
      const bool done = n == requests[i].max_new_tokens;
      ASSERT_EQ(result.finish, done ? FinishReason::kLength : FinishReason::kCancelled);
      n_cancelled_preempted += !done && result.counts.num_preemptions > 0;
    }
  }
  EXPECT_GT(n_cancelled_preempted, 20);
  for (const RequestResult& result : RunAll(*engine, requests)) {
    ASSERT_EQ(result.token_ids,
              GreedyContinuation(*target, result.request.prompt, result.request.max_new_tokens));
  }
}

// A drafter that breaks its contract while others have lost their pages: what they had written is kept.
TEST(HostilePreemption, AFaultEndsTheRunWithEverybodysTokens) {
  const auto target = HashTarget();
  const std::vector<Request> requests = SomeRequests(5);
  int n_preempted = 0;
  for (size_t faulty_at = 6; faulty_at < 48; faulty_at += 2) {
    for (const StreamMode streams : {StreamMode::kInline, StreamMode::kThreaded}) {
      PairSpec pair{.target = {.model = target}};
      pair.host_drafter = [&](std::span<const int32_t> committed, int32_t, std::vector<int32_t>* proposed) {
        *proposed = committed.size() >= faulty_at ? std::vector<int32_t>{-1} : std::vector<int32_t>{3};
      };
      const EngineOptions options{.n_slots = 3,
                                  .gamma = 2,
                                  .max_context = 64,
                                  .page_size = 2,
                                  .cache_tokens = RoomForOne(requests, 4),
                                  .streams = streams};
      auto engine = MakeEngine(options, pair, MakePolicy({}, false));
      for (const Request& request : requests) ASSERT_TRUE(engine->Submit(request).ok());
      Witness witness;
      std::vector<RequestResult> results;
      const absl::Status status = engine->Run(&witness, &results);
      ASSERT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
      ASSERT_EQ(results.size(), requests.size());
      for (size_t i = 0; i < results.size(); ++i) {
        const RequestResult& result = results[i];
        const auto n = static_cast<int32_t>(result.token_ids.size());
        ASSERT_EQ(result.token_ids, GreedyContinuation(*target, requests[i].prompt, n));
        ASSERT_EQ(witness.heard_[requests[i].id].tokens, result.token_ids);
        ASSERT_EQ(witness.heard_[requests[i].id].n_finished, result.admitted_ns > 0 ? 1 : 0);
        if (result.admitted_ns > 0 && n < requests[i].max_new_tokens) {
          ASSERT_EQ(result.finish, FinishReason::kFault);
        }
        n_preempted += result.counts.num_preemptions > 0;
      }
    }
  }
  EXPECT_GT(n_preempted, 10);
}

TEST(HostilePreemption, ARequestThatCannotBeHeldAloneIsRefused) {
  auto engine = MakeEngine({.n_slots = 4, .gamma = 2, .max_context = 64, .page_size = 4, .cache_tokens = 40},
                           PairWith("model"), MakePolicy());
  EXPECT_TRUE(engine->Submit({.id = "a", .prompt = SomePrompt(9, 1), .max_new_tokens = 31}).ok());
  const absl::Status status = engine->Submit({.id = "b", .prompt = SomePrompt(9, 1), .max_new_tokens = 32});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(
      status.message(),
      "request b: needs 41 tokens of cache (prompt 9, max_new_tokens 32); 40 fit. Raise cache.tokens or "
      "lower max_new_tokens");
}

}  // namespace
}  // namespace tandem
