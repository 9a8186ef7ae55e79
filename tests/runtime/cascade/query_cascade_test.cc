// The query-level cascade: scores against a computation from whole prefixes, its limits (the draft alone, the target
// alone), that each request gets what its own score says in any company, and what a caller sees of it and when; on the CPU
// and on a CUDA device.
// ctest-label: concurrent
#include "runtime/cascade/query_cascade.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

PairSpec HashPair(Device device) {
  return {.target = {.model = HashTarget(device)}, .draft = ModelSpec{.model = HashDraft(device)}};
}

std::unique_ptr<QueryCascade> MakeCascade(Device device, const QueryCascadeOptions& cascade,
                                          const EngineOptions& options) {
  auto made = QueryCascade::Create(cascade, options, HashPair(device), MakePolicy());
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::vector<RequestResult> RunAll(Generator& generator, const std::vector<Request>& requests,
                                  EngineListener* listener = nullptr) {
  for (const Request& request : requests) {
    const absl::Status status = generator.Submit(request);
    EXPECT_TRUE(status.ok()) << status;
  }
  std::vector<RequestResult> results;
  const absl::Status status = generator.Run(listener, &results);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(results.size(), requests.size());
  return results;
}

std::vector<Request> SomeRequests(int32_t n, const Sampling& sampling) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < n; ++i) {
    requests.push_back({.id = std::to_string(i),
                        .prompt = SomePrompt(1 + 9 * i, 100 + i),
                        .sampling = sampling,
                        .seed = 7,
                        .max_new_tokens = 9 + 3 * i});
  }
  return requests;
}

// log q1 of every token of an answer, each from its whole prefix.
std::vector<double> LogProbs(const Request& request, const std::vector<int32_t>& answer) {
  const auto draft = HashDraft();
  std::vector<int32_t> prefix = request.prompt;
  std::vector<double> log_probs;
  for (const int32_t token : answer) {
    const std::vector<float> logits = draft->Logits(prefix);
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    log_probs.push_back(logits[token] - std::log(sum));
    prefix.push_back(token);
  }
  return log_probs;
}

class QueryCascadeOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, QueryCascadeOn, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

struct Score {
  AnswerScore kind;
  double quantile;
};
double Expected(const Score& score, std::vector<double> s) {
  double sum = 0;
  for (const double x : s) sum += x;
  if (score.kind == AnswerScore::kSum) return sum;
  if (score.kind == AnswerScore::kMean) return sum / static_cast<double>(s.size());
  // Linear between order statistics, by counting: the k-th smallest has exactly k values before it.
  std::sort(s.begin(), s.end());
  const double at = score.quantile * static_cast<double>(s.size() - 1);
  const double low = s[static_cast<size_t>(std::floor(at))], high = s[static_cast<size_t>(std::ceil(at))];
  return low + (at - std::floor(at)) * (high - low);
}

TEST(Score, ByHand) {
  const std::vector<float> s = {-1, -4, -2, -3, -0.5f};
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kSum, 0, s), -10.5);
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kMean, 0, s), -2.1);
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kQuantile, 0, s), -4);
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kQuantile, 0.5, s), -2);
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kQuantile, 1, s), -0.5);
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kQuantile, 0.375, s), -2.5);
  EXPECT_DOUBLE_EQ(ScoreOf(AnswerScore::kQuantile, 0.9, std::vector<float>{-7}), -7);
}

TEST_P(QueryCascadeOn, ScoresAreThoseOfTheAnswersFromWholePrefixes) {
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0.6f, .top_k = 5}}) {
    const std::vector<Request> requests = SomeRequests(5, sampling);
    for (const Score& score : {Score{AnswerScore::kMean, 0},
                               {AnswerScore::kSum, 0},
                               {AnswerScore::kQuantile, 0},
                               {AnswerScore::kQuantile, 0.1},
                               {AnswerScore::kQuantile, 0.5}}) {
      auto cascade = MakeCascade(GetParam(), {score.kind, score.quantile, -kInfinity},
                                 {.n_slots = 3, .max_context = 96});
      for (const RequestResult& result : RunAll(*cascade, requests)) {
        ASSERT_TRUE(result.score.has_value());
        const double wanted = Expected(score, LogProbs(result.request, result.token_ids));
        // fp32 logits, lse and differences of magnitude under 8, summed in double.
        EXPECT_NEAR(*result.score, wanted, 8 * 6e-8 * 4 * static_cast<double>(result.token_ids.size()));
      }
    }
  }
}

struct Way {
  StreamMode streams;
  int32_t n_slots;
  int32_t gamma;
};
std::vector<Way> Ways(Device device) {
  if (device.is_cuda())
    return {{StreamMode::kInline, 1, 3}, {StreamMode::kInline, 2, 0}, {StreamMode::kInline, 4, 3}};
  std::vector<Way> ways;
  for (const StreamMode streams : {StreamMode::kInline, StreamMode::kThreaded, StreamMode::kAdversarial}) {
    for (const int32_t n_slots : {1, 2, 4}) {
      for (const int32_t gamma : {0, 3}) ways.push_back({streams, n_slots, gamma});
    }
  }
  return ways;
}
EngineOptions OptionsOf(const Way& way) {
  return {.n_slots = way.n_slots,
          .gamma = way.gamma,
          .max_context = 96,
          .page_size = 3,
          .prefill_chunk = 8,
          .streams = way.streams,
          .n_threads = 1 + way.n_slots % 2,
          .adversary_seed = 23};
}

std::vector<std::vector<int32_t>> Alone(const ModelSpec& model, const std::vector<Request>& requests) {
  std::vector<std::vector<int32_t>> tokens;
  for (const Request& request : requests) {
    auto engine = MakeEngine({.max_context = 96}, {.target = model}, MakePolicy());
    tokens.push_back(RunAll(*engine, {request})[0].token_ids);
  }
  return tokens;
}

TEST_P(QueryCascadeOn, ItsLimitsAreTheModelsAlone) {
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0.8f, .top_p = 0.9f}}) {
    const std::vector<Request> requests = SomeRequests(6, sampling);
    const auto draft = Alone({.model = HashDraft(GetParam())}, requests);
    const auto target = Alone({.model = HashTarget(GetParam())}, requests);
    for (const Way& way : Ways(GetParam())) {
      auto never = MakeCascade(GetParam(), {.threshold = -kInfinity}, OptionsOf(way));
      std::vector<RequestResult> results = RunAll(*never, requests);
      for (size_t i = 0; i < results.size(); ++i) {
        ASSERT_EQ(results[i].token_ids, draft[i]);
        ASSERT_EQ(results[i].origin, std::vector<Origin>(draft[i].size(), Origin::kDraft));
        ASSERT_EQ(results[i].finish, FinishReason::kLength);
        ASSERT_EQ(results[i].counts.target_calls, 0);
        ASSERT_EQ(results[i].counts.draft_calls, static_cast<int64_t>(draft[i].size()));
        ASSERT_EQ(results[i].counts.num_deferred_answers, 0);
        ASSERT_EQ(results[i].stages.size(), 1u);
      }
      // Speculation that samples draws other numbers: the law is the target's then, the tokens are not.
      if (way.gamma > 0 && !sampling.greedy()) continue;
      auto always = MakeCascade(GetParam(), {.threshold = kInfinity}, OptionsOf(way));
      results = RunAll(*always, requests);
      for (size_t i = 0; i < results.size(); ++i) {
        const SpeculationCounts& counts = results[i].counts;
        ASSERT_EQ(results[i].token_ids, target[i]) << "gamma " << way.gamma;
        ASSERT_EQ(counts.num_deferred_answers, 1);
        ASSERT_EQ(counts.num_tokens_by_draft, 0);
        ASSERT_EQ(counts.num_emitted_tokens, static_cast<int64_t>(target[i].size()));
        ASSERT_EQ(counts.draft_calls, static_cast<int64_t>(draft[i].size()) + counts.num_draft_tokens);
        ASSERT_EQ(counts.num_draft_tokens > 0, way.gamma > 0);
        ASSERT_EQ(results[i].stages.size(), 2u);
        ASSERT_EQ(results[i].stages[0].num_tokens, static_cast<int64_t>(draft[i].size()));
        ASSERT_EQ(results[i].stages[1].num_tokens, static_cast<int64_t>(target[i].size()));
      }
    }
  }
}

TEST_P(QueryCascadeOn, EachRequestGetsWhatItsOwnScoreSays) {
  std::vector<Request> requests = SomeRequests(7, {});
  const auto draft = Alone({.model = HashDraft(GetParam())}, requests);
  const auto target = Alone({.model = HashTarget(GetParam())}, requests);
  const Score score{AnswerScore::kMean, 0};
  std::map<std::string, std::vector<int32_t>> wanted;
  std::vector<double> scores;
  for (size_t i = 0; i < requests.size(); ++i)
    scores.push_back(Expected(score, LogProbs(requests[i], draft[i])));
  std::vector<double> sorted = scores;
  std::sort(sorted.begin(), sorted.end());
  const double threshold = (sorted[3] + sorted[2]) / 2;
  for (size_t i = 0; i < requests.size(); ++i)
    wanted[requests[i].id] = scores[i] < threshold ? target[i] : draft[i];
  for (const Way& way : Ways(GetParam())) {
    std::rotate(requests.begin(), requests.begin() + 1, requests.end());
    auto cascade = MakeCascade(GetParam(), {.threshold = threshold}, OptionsOf(way));
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second run begins with what the first left
      int n_redone = 0;
      const std::vector<RequestResult> results = RunAll(*cascade, requests);
      for (size_t i = 0; i < results.size(); ++i) {
        ASSERT_EQ(results[i].request.id, requests[i].id);
        ASSERT_EQ(results[i].token_ids, wanted[results[i].request.id]);
        n_redone += static_cast<int>(results[i].counts.num_deferred_answers);
      }
      ASSERT_EQ(n_redone, 3);
    }
  }
}

TEST_P(QueryCascadeOn, StopIdsEndEitherAnswer) {
  std::vector<Request> requests = SomeRequests(6, {});
  const auto draft = Alone({.model = HashDraft(GetParam())}, requests);
  const auto target = Alone({.model = HashTarget(GetParam())}, requests);
  for (const bool redo : {false, true}) {
    const auto& alone = redo ? target : draft;
    for (size_t i = 0; i < requests.size(); ++i) requests[i].stop_ids = {alone[i][4]};
    auto cascade = MakeCascade(GetParam(), {.threshold = redo ? kInfinity : -kInfinity},
                               OptionsOf({StreamMode::kInline, 2, 2}));
    const std::vector<RequestResult> results = RunAll(*cascade, requests);
    for (size_t i = 0; i < results.size(); ++i) {
      const auto end = std::find(alone[i].begin(), alone[i].end(), alone[i][4]) + 1;
      EXPECT_EQ(results[i].token_ids, std::vector<int32_t>(alone[i].begin(), end));
      EXPECT_EQ(results[i].finish, FinishReason::kStop);
    }
  }
}

// The caller sees no token that is taken back, and a kept answer at once.
class Recorder : public EngineListener {
 public:
  void OnTokens(const Request& request, std::span<const int32_t> tokens, std::span<const Origin>,
                std::string_view) override {
    shown[request.id].insert(shown[request.id].end(), tokens.begin(), tokens.end());
    ++n_calls[request.id];
  }
  void OnFinish(const RequestResult& result) override {
    EXPECT_EQ(result.token_ids, shown[result.request.id]);
    order.push_back(result.request.id);
  }
  bool Cancelled() override { return n_rounds_until_cancel > 0 && --n_rounds_until_cancel == 0; }

  std::map<std::string, std::vector<int32_t>> shown;
  std::map<std::string, int> n_calls;
  std::vector<std::string> order;
  int n_rounds_until_cancel = 0;
};

TEST_P(QueryCascadeOn, WhatIsShownIsFinalAndTimesAreTheCallers) {
  for (const bool redo : {false, true}) {
    const std::vector<Request> requests = SomeRequests(5, {});
    auto cascade = MakeCascade(GetParam(), {.threshold = redo ? kInfinity : -kInfinity},
                               {.n_slots = 2, .max_context = 96});
    Recorder recorder;
    for (const RequestResult& result : RunAll(*cascade, requests, &recorder)) {
      EXPECT_EQ(recorder.n_calls[result.request.id] == 1, !redo);
      EXPECT_EQ(result.token_ids, recorder.shown[result.request.id]);
      EXPECT_LE(result.submitted_ns, result.admitted_ns);
      EXPECT_EQ(result.admitted_ns, result.stages[0].admitted_ns);
      EXPECT_LE(result.stages[0].finished_ns, result.first_token_ns);
      EXPECT_LE(result.stages.back().admitted_ns, result.first_token_ns);
      EXPECT_LE(result.first_token_ns, result.finished_ns);
      ASSERT_EQ(result.token_ns.size(), result.token_ids.size());
      EXPECT_TRUE(std::is_sorted(result.token_ns.begin(), result.token_ns.end()));
      EXPECT_EQ(result.token_ns.front(), result.first_token_ns);
    }
    EXPECT_EQ(recorder.order.size(), requests.size());
  }
}

// With a batch of 1 a request goes through both stages before the next one begins.
TEST_P(QueryCascadeOn, NoMoreThanABatchIsAtWork) {
  for (const int32_t n_slots : {1, 2, 3}) {
    auto cascade = MakeCascade(GetParam(), {.threshold = kInfinity}, {.n_slots = n_slots, .max_context = 96});
    const std::vector<RequestResult> results = RunAll(*cascade, SomeRequests(7, {}));
    for (const RequestResult& one : results) {
      int n_others = 0;  // at work at the moment at which this one was admitted
      for (const RequestResult& other : results) {
        n_others += other.admitted_ns < one.admitted_ns && other.finished_ns > one.admitted_ns ? 1 : 0;
      }
      EXPECT_LT(n_others, n_slots);
    }
  }
}

TEST_P(QueryCascadeOn, ARunThatIsCancelledKeepsWhatWasShown) {
  const std::vector<Request> requests = SomeRequests(4, {});
  const auto target = Alone({.model = HashTarget(GetParam())}, requests);
  auto cascade = MakeCascade(GetParam(), {.threshold = kInfinity},
                             {.n_slots = 2, .max_context = 96, .prefill_chunk = 8});
  for (int n = 1; n < 60; n += 3) {
    Recorder recorder;
    recorder.n_rounds_until_cancel = n;
    const std::vector<RequestResult> results = RunAll(*cascade, requests, &recorder);
    for (size_t i = 0; i < results.size(); ++i) {
      const std::vector<int32_t>& tokens = results[i].token_ids;
      ASSERT_EQ(tokens, recorder.shown[results[i].request.id]);
      ASSERT_LE(tokens.size(), target[i].size());
      ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), target[i].begin()));
      ASSERT_EQ(results[i].finish,
                tokens.size() == target[i].size() ? FinishReason::kLength : FinishReason::kCancelled);
    }
  }
  const std::vector<RequestResult> whole = RunAll(*cascade, requests);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i].token_ids, target[i]);
}

// In both stages sequences lose their pages to others.
TEST_P(QueryCascadeOn, ShortagesChangeNothing) {
  std::vector<Request> requests = SomeRequests(5, {});
  for (Request& request : requests) request.max_new_tokens = 60 - static_cast<int32_t>(request.prompt.size());
  const auto target = Alone({.model = HashTarget(GetParam())}, requests);
  auto cascade =
      MakeCascade(GetParam(), {.threshold = kInfinity},
                  {.n_slots = 4, .gamma = 2, .max_context = 96, .page_size = 4, .cache_tokens = 60});
  const std::vector<RequestResult> results = RunAll(*cascade, requests);
  int64_t n_preemptions = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].token_ids, target[i]);
    n_preemptions += results[i].counts.num_preemptions;
  }
  EXPECT_GT(n_preemptions, 0);
}

TEST(QueryCascade, WhatItCannotUseIsRefused) {
  const auto message = [](PairSpec pair, const PolicyOptions& policy) {
    return std::string(QueryCascade::Create({}, {}, std::move(pair), MakePolicy(policy)).status().message());
  };
  EXPECT_EQ(message({.target = {.model = HashTarget()}}, {}), "a query cascade needs a draft model");
  EXPECT_EQ(
      message(HashPair({}), {.rule = "token_v3"}),
      "rule token_v3 is lossy, and what a query cascade redoes is the target's own answer; use an exact rule "
      "(lossless)");
  auto cascade = MakeCascade({}, {}, {.max_context = 32, .page_size = 4, .cache_tokens = 20});
  EXPECT_EQ(cascade->Submit({.id = "a", .prompt = {}, .max_new_tokens = 1}).message(),
            "request a: the prompt is empty; expected at least one token");
  EXPECT_EQ(
      cascade->Submit({.id = "a", .prompt = SomePrompt(9, 1), .max_new_tokens = 12}).message(),
      "request a: needs 21 tokens of cache (prompt 9, max_new_tokens 12); 20 fit. Raise cache.tokens or "
      "lower max_new_tokens");
}

}  // namespace
}  // namespace tandem
