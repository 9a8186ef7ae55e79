// The token-level cascade: its exact law, its equality with a plain loop over the two models, its limits (the draft
// alone, the target alone), and that company, chunks, threads and long gaps change nothing; on the CPU and on a CUDA device.
// ctest-label: concurrent
#include "runtime/cascade/token_cascade.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "policies/registry.h"
#include "runtime/enumerate.h"
#include "runtime/rules_check.h"
#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

class TokenCascade : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, TokenCascade, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

PairSpec HashPair(Device device = {}) {
  return {.target = {.model = HashTarget(device)}, .draft = ModelSpec{.model = HashDraft(device)}};
}

std::unique_ptr<Policy> DefersAt(double alpha, const std::string& rule = "chow") {
  return MakePolicy({.rule = rule, .params = {{"alpha", alpha}}});
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> law;
  double sum = 0;
  for (const float logit : logits) sum += law.emplace_back(std::exp(logit / temperature));
  for (double& p : law) p /= sum;
  return law;
}
double Confidence(const std::vector<float>& logits) {
  const std::vector<double> q1 = Softmax(logits, 1);
  return *std::max_element(q1.begin(), q1.end());
}
double EntropyOf(const std::vector<float>& logits) {
  double entropy = 0;
  for (const double p : Softmax(logits, 1)) entropy -= p * std::log(p);
  return entropy;
}
bool Defers(const std::string& rule, double alpha, const std::vector<float>& logits) {
  return rule == "entropy" ? EntropyOf(logits) > alpha : Confidence(logits) < 1 - alpha;
}

// The greedy cascade as a loop that computes every law from the whole prefix: no engine, no cache.
struct Written {
  std::vector<int32_t> tokens;
  std::vector<Origin> origin;
};
Written GreedyCascade(const std::string& rule, double alpha, std::vector<int32_t> prefix, int32_t n) {
  const auto target = HashTarget(), draft = HashDraft();
  Written written;
  for (int32_t i = 0; i < n; ++i) {
    const bool defers = Defers(rule, alpha, draft->Logits(prefix));
    const int32_t token = GreedyContinuation(defers ? *target : *draft, prefix, 1)[0];
    written.tokens.push_back(token);
    written.origin.push_back(defers ? Origin::kTarget : Origin::kDraft);
    prefix.push_back(token);
  }
  return written;
}

std::vector<Request> SomeRequests(int32_t n, const Sampling& sampling) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < n; ++i) {
    requests.push_back({.id = std::to_string(i),
                        .prompt = SomePrompt(1 + 13 * i, 100 + i),
                        .sampling = sampling,
                        .seed = 7,
                        .max_new_tokens = 40 - i});
  }
  return requests;
}

// The law of the first tokens through the engine, every outcome swept, against q or p as the formula chooses.
double LargestDifference(const std::string& rule, double alpha, double temperature, uint64_t salt,
                         Device device) {
  constexpr int32_t kTokens = 3, kWords = 3;
  const HashChainModel target(kWords, 2 * salt, 2, 4096, device),
      draft(kWords, 2 * salt + 1, 2, 4096, device);
  const std::vector<int32_t> prompt = {0, 1};
  std::vector<double> claimed(27, 0);
  const std::function<void(std::vector<int32_t>, int64_t, double)> claim =
      [&](const std::vector<int32_t>& prefix, int64_t index, double weight) {
        if (prefix.size() == prompt.size() + kTokens) {
          claimed[index] += weight;
          return;
        }
        const std::vector<float> q = draft.Logits(prefix);
        const std::vector<float> logits = Defers(rule, alpha, q) ? target.Logits(prefix) : q;
        std::vector<double> law(kWords, 0);
        if (temperature > 0) law = Softmax(logits, temperature);
        if (temperature == 0) law[std::max_element(logits.begin(), logits.end()) - logits.begin()] = 1;
        for (int32_t v = 0; v < kWords; ++v) {
          std::vector<int32_t> longer = prefix;
          longer.push_back(v);
          claim(longer, index * kWords + v, weight * law[v]);
        }
      };
  claim(prompt, 0, 1);

  OutcomeSweep sweep;
  Arena shared(device, Access::kShared);
  UniformTable* table = device.is_cuda() ? shared.New<UniformTable>(1) : nullptr;
  auto engine =
      MakeEngine({.max_context = 16,
                  .page_size = 3,
                  .prefill_chunk = 2,
                  .rounds_ahead = 0,  // a round that is queued ahead would draw numbers that decide nothing
                  .uniforms = table != nullptr ? Uniforms{.tables = table} : Uniforms{.probe = &sweep},
                  .token_cascade = true},
                 {.target = {.model = std::make_shared<HashChainModel>(target)},
                  .draft = ModelSpec{.model = std::make_shared<HashChainModel>(draft)}},
                 DefersAt(alpha, rule));
  const Request request{.prompt = prompt,
                        .sampling = {.temperature = static_cast<float>(temperature)},
                        .max_new_tokens = kTokens};
  const absl::StatusOr<std::vector<double>> law = sweep.Run(27, [&](std::span<int64_t> outcomes) {
    if (table != nullptr) sweep.Fill(table);
    const RequestResult result = RunAll(*engine, {request})[0];
    outcomes[0] = 0;
    for (const int32_t token : result.token_ids) outcomes[0] = outcomes[0] * kWords + token;
    return table != nullptr ? sweep.TakeCells(table) : absl::OkStatus();
  });
  EXPECT_TRUE(law.ok()) << law.status();
  if (!law.ok()) return 1;
  double largest = 0;
  for (size_t i = 0; i < claimed.size(); ++i) largest = std::max(largest, std::abs((*law)[i] - claimed[i]));
  return largest;
}

TEST_P(TokenCascade, ItsLawIsQWhereTheDraftDoesNotDeferAndElseP) {
  const uint64_t n_models =
      GetParam().is_cuda() ? 1 : 3;  // to make an engine takes a tenth of a second there
  const std::map<std::string, std::vector<double>> settings = {{"chow", {0, 0.2, 0.35, 0.45, 0.6, 1}},
                                                               {"entropy", {0, 0.5, 0.8, 1, 2}}};
  for (const auto& [rule, alphas] : settings) {
    for (const double alpha : alphas) {
      for (const double temperature : {0.0, 0.7, 1.4}) {
        for (uint64_t salt = 1; salt <= n_models; ++salt) {
          EXPECT_LT(LargestDifference(rule, alpha, temperature, salt, GetParam()), 1e-6)
              << rule << " " << alpha << " T " << temperature;
        }
      }
    }
  }
}

// The same through the machinery of `rules check`, with truncation: against the law that the rule itself claims.
TEST_P(TokenCascade, ItsLawIsTheOneThatTheRuleClaims) {
  for (const Sampling& sampling :
       {Sampling{.temperature = 0.7f}, Sampling{.temperature = 1.2f, .top_k = 2}, Sampling{}}) {
    for (const char* rule : {"chow", "entropy"}) {
      LawCheck check{.policy = {.rule = rule, .params = {{"alpha", 0.5}}},
                     .sampling = sampling,
                     .token_cascade = true,
                     .device = GetParam()};
      const absl::StatusOr<LawCheckResult> result = CheckLaw(check);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(result->ok()) << rule << ": " << result->largest_difference;
      EXPECT_NEAR(result->total, 1, 1e-12);
      // A uniform of one position that serves the next as well is seen.
      if (sampling.greedy() || GetParam().is_cuda()) continue;  // a device looks numbers up by their own keys
      check.rekey = [](UniformKey key) {
        key.base = 0;
        return key;
      };
      EXPECT_GT(CheckLaw(check)->largest_difference, 1e-3) << rule;
    }
  }
}

struct Way {
  StreamMode streams;
  int32_t n_slots;
  int32_t prefill_chunk;
};
std::vector<Way> Ways(Device device) {
  if (device.is_cuda()) {
    return {{StreamMode::kInline, 1, 1}, {StreamMode::kInline, 3, 5}, {StreamMode::kInline, 4, 64}};
  }
  std::vector<Way> ways;
  for (const StreamMode streams : {StreamMode::kInline, StreamMode::kThreaded, StreamMode::kAdversarial}) {
    for (int32_t n_slots = 1; n_slots <= 4; ++n_slots) {
      for (const int32_t chunk : {1, 5, 64}) ways.push_back({streams, n_slots, chunk});
    }
  }
  return ways;
}
EngineOptions OptionsOf(const Way& way, uint64_t seed) {
  return {.n_slots = way.n_slots,
          .max_context = 128,
          .page_size = 1 + way.n_slots,
          .prefill_chunk = way.prefill_chunk,
          .rounds_ahead = way.n_slots % 3,
          .streams = way.streams,
          .n_threads = 1 + way.n_slots % 2,
          .adversary_seed = seed,
          .token_cascade = true};
}

TEST_P(TokenCascade, GreedyIsThePlainLoopInEveryCompany) {
  const std::vector<Request> requests = SomeRequests(5, {});
  for (const auto& [rule, alphas] :
       std::map<std::string, std::vector<double>>{{"chow", {0.6, 0.7, 0.75}}, {"entropy", {1.6, 1.9}}}) {
    for (const double alpha : alphas) {
      std::vector<Written> loop;
      int64_t n_draft = 0, n_all = 0;
      for (const Request& request : requests) {
        loop.push_back(GreedyCascade(rule, alpha, request.prompt, request.max_new_tokens));
        n_draft += std::count(loop.back().origin.begin(), loop.back().origin.end(), Origin::kDraft);
        n_all += request.max_new_tokens;
      }
      ASSERT_GT(n_draft, n_all / 20) << rule << " " << alpha;
      ASSERT_LT(n_draft, n_all * 19 / 20) << rule << " " << alpha;
      for (const Way& way : Ways(GetParam())) {
        auto engine = MakeEngine(OptionsOf(way, 3), HashPair(GetParam()), DefersAt(alpha, rule));
        const std::vector<RequestResult> results = RunAll(*engine, requests);
        for (size_t i = 0; i < results.size(); ++i) {
          ASSERT_EQ(results[i].token_ids, loop[i].tokens)
              << rule << " " << alpha << " batch " << way.n_slots << " chunk " << way.prefill_chunk;
          ASSERT_EQ(results[i].origin, loop[i].origin);
          ASSERT_EQ(results[i].finish, FinishReason::kLength);
          const SpeculationCounts& counts = results[i].counts;
          const auto deferred = std::count(loop[i].origin.begin(), loop[i].origin.end(), Origin::kTarget);
          ASSERT_EQ(counts.target_calls, deferred);
          ASSERT_EQ(counts.num_deferred, deferred);
          ASSERT_EQ(counts.draft_calls, requests[i].max_new_tokens);
          ASSERT_EQ(counts.num_judged, requests[i].max_new_tokens);
          ASSERT_EQ(counts.num_emitted_tokens, requests[i].max_new_tokens);
          ASSERT_EQ(counts.num_tokens_by_draft, requests[i].max_new_tokens - deferred);
          ASSERT_EQ(counts.num_draft_tokens, 0);  // nothing is proposed
        }
      }
    }
  }
}

TEST_P(TokenCascade, SampledTokensDependOnNeitherCompanyNorOrder) {
  std::vector<Request> requests = SomeRequests(6, {.temperature = 0.9f, .top_k = 9, .min_p = 0.01f});
  std::map<std::string, std::vector<int32_t>> alone;
  for (const Request& request : requests) {
    auto engine =
        MakeEngine({.max_context = 128, .token_cascade = true}, HashPair(GetParam()), DefersAt(0.7));
    alone[request.id] = RunAll(*engine, {request})[0].token_ids;
  }
  for (const Way& way : Ways(GetParam())) {
    std::rotate(requests.begin(), requests.begin() + 1, requests.end());
    auto engine = MakeEngine(OptionsOf(way, 5), HashPair(GetParam()), DefersAt(0.7));
    for (int repeat = 0; repeat < 2; ++repeat) {
      for (const RequestResult& result : RunAll(*engine, requests)) {
        ASSERT_EQ(result.token_ids, alone[result.request.id])
            << "batch " << way.n_slots << " chunk " << way.prefill_chunk;
      }
    }
  }
}

// Never deferring is the draft alone and always deferring the target alone, token for token, sampled too: a position
// draws the same uniform as in plain decoding.
void ExpectLimits(const PairSpec& pair, std::vector<Request> requests, const Way& way, int32_t max_context) {
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0.8f, .top_p = 0.95f}}) {
    for (Request& request : requests) request.sampling = sampling;
    for (const bool always : {false, true}) {
      auto plain = MakeEngine({.max_context = max_context}, {.target = always ? pair.target : *pair.draft},
                              MakePolicy());
      EngineOptions options = OptionsOf(way, 11);
      options.max_context = max_context;
      auto cascade = MakeEngine(options, pair, DefersAt(always ? 0 : 1));
      const std::vector<RequestResult> results = RunAll(*cascade, requests);
      const std::vector<RequestResult> wanted = RunAll(*plain, requests);
      for (size_t i = 0; i < results.size(); ++i) {
        ASSERT_EQ(results[i].token_ids, wanted[i].token_ids) << (always ? "target" : "draft") << " alone";
        const Origin origin = always ? Origin::kTarget : Origin::kDraft;
        ASSERT_EQ(results[i].origin, std::vector<Origin>(results[i].token_ids.size(), origin));
      }
    }
  }
}

TEST_P(TokenCascade, ItsLimitsAreTheModelsAlone) {
  for (const Way& way : Ways(GetParam())) ExpectLimits(HashPair(GetParam()), SomeRequests(4, {}), way, 128);
}

TEST_P(TokenCascade, ItsLimitsAreTheModelsAloneOnCheckpoints) {
  const auto golden = [](const std::string& name) {
    auto model = LoadModel(TANDEM_SOURCE_DIR "/tests/golden/models/" + name, GetParam());
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  };
  const auto target = golden("llama3_gqa"), draft = golden("llama2_mha");
  const int32_t n_shared = draft->shape().n_vocab;
  std::vector<Request> requests;
  for (int32_t i = 0; i < 4; ++i)
    requests.push_back({.prompt = SomePrompt(3 + 11 * i, 40 + i, n_shared), .max_new_tokens = 12});
  for (const ActivationDType dtype : {ActivationDType::kF32, ActivationDType::kBf16}) {
    // The draft must know every token that the target writes, so that both see the same text.
    const PairSpec pair{.target = {.model = target, .dtype = dtype},
                        .draft = ModelSpec{.model = draft, .dtype = dtype},
                        .n_vocab = n_shared};
    for (const StreamMode streams : {StreamMode::kInline, StreamMode::kAdversarial}) {
      if (GetParam().is_cuda() && streams != StreamMode::kInline) continue;
      ExpectLimits(pair, requests, {streams, 3, 7}, 64);
    }
  }
}

// Sequences lose their pages while their draft writes and while their target catches up, and go on as they were.
TEST_P(TokenCascade, PreemptionChangesNothing) {
  const std::vector<Request> requests = SomeRequests(4, {});
  for (const Way& way : Ways(GetParam())) {
    for (const double alpha : {0.5, 0.7}) {
      for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0.8f, .top_p = 0.95f}}) {
        const auto run = [&](int64_t cache_tokens) {
          EngineOptions options = OptionsOf(way, 3);
          options.page_size = 3;
          options.cache_tokens = cache_tokens;
          std::vector<Request> sampled = requests;
          for (Request& request : sampled) request.sampling = sampling;
          auto engine = MakeEngine(options, HashPair(GetParam()), DefersAt(alpha));
          return RunAll(*engine, sampled);
        };
        // The longest has 40 + 37 tokens.
        const std::vector<RequestResult> roomy = run(0), tight = run(80);
        int64_t n_preemptions = 0;
        for (size_t i = 0; i < requests.size(); ++i) {
          ASSERT_EQ(tight[i].token_ids, roomy[i].token_ids) << "batch " << way.n_slots << " alpha " << alpha;
          ASSERT_EQ(tight[i].origin, roomy[i].origin);
          if (sampling.greedy()) {
            ASSERT_EQ(tight[i].token_ids,
                      GreedyCascade("chow", alpha, requests[i].prompt, requests[i].max_new_tokens).tokens);
          }
          n_preemptions += tight[i].counts.num_preemptions;
        }
        ASSERT_EQ(n_preemptions > 0, way.n_slots > 1);
      }
    }
  }
}

// The draft writes for hundreds of tokens; when it defers at last, the target has the prompt and all of them to read.
TEST_P(TokenCascade, ALongGapIsCaughtUp) {
  constexpr int32_t kMost = 700;
  const auto draft = HashDraft();
  Request request;
  double alpha = 0;
  int32_t first_deferral = 0;
  for (uint64_t seed = 0; first_deferral < 350; ++seed) {
    ASSERT_LT(seed, 50u);
    request = {.prompt = SomePrompt(20, seed), .max_new_tokens = kMost};
    std::vector<int32_t> prefix = request.prompt;
    double least = 1;
    for (int32_t i = 0; i < kMost - 20; ++i) {
      const double confidence = Confidence(draft->Logits(prefix));
      if (confidence < least * 0.999) {
        alpha = 1 - (confidence + least) / 2;  // defers here, and nowhere before
        first_deferral = i;
      }
      least = std::min(least, confidence);
      prefix.push_back(GreedyContinuation(*draft, prefix, 1)[0]);
    }
  }
  const Written loop = GreedyCascade("chow", alpha, request.prompt, kMost);
  ASSERT_EQ(std::find(loop.origin.begin(), loop.origin.end(), Origin::kTarget) - loop.origin.begin(),
            first_deferral);
  // In company of others that defer often, with chunks from one row on: catching up takes up to hundreds of rounds.
  for (const int32_t chunk : {1, 16, 128, 1024}) {
    for (const StreamMode streams : {StreamMode::kInline, StreamMode::kAdversarial}) {
      if (GetParam().is_cuda() && streams != StreamMode::kInline) continue;
      auto engine = MakeEngine({.n_slots = 3,
                                .max_context = 1024,
                                .prefill_chunk = chunk,
                                .streams = streams,
                                .adversary_seed = 17,
                                .token_cascade = true},
                               HashPair(GetParam()), DefersAt(alpha));
      const std::vector<RequestResult> results = RunAll(
          *engine, {request, {.id = "b", .prompt = SomePrompt(200, 5), .max_new_tokens = 300}, request});
      for (const size_t i : {size_t{0}, size_t{2}}) {
        ASSERT_EQ(results[i].token_ids, loop.tokens) << "chunk " << chunk;
        ASSERT_EQ(results[i].origin, loop.origin);
      }
      ASSERT_EQ(results[1].token_ids, GreedyCascade("chow", alpha, SomePrompt(200, 5), 300).tokens);
    }
  }
}

TEST_P(TokenCascade, StopIdsAndLimitsEndIt) {
  const Request free{.prompt = SomePrompt(12, 5), .max_new_tokens = 30};
  const std::vector<int32_t> all = GreedyCascade("chow", 0.7, free.prompt, 30).tokens;
  for (int32_t at = 0; at < 30; ++at) {
    const auto first = std::find(all.begin(), all.end(), all[at]) - all.begin();
    Request request = free;
    request.stop_ids = {all[at]};
    auto engine = MakeEngine({.max_context = 64, .prefill_chunk = 4, .token_cascade = true},
                             HashPair(GetParam()), DefersAt(0.7));
    RequestResult result = RunAll(*engine, {request})[0];
    EXPECT_EQ(result.token_ids, std::vector<int32_t>(all.begin(), all.begin() + first + 1));
    EXPECT_EQ(result.finish, FinishReason::kStop);
    request = free;
    request.max_new_tokens = at + 1;
    result = RunAll(*engine, {request})[0];
    EXPECT_EQ(result.token_ids, std::vector<int32_t>(all.begin(), all.begin() + at + 1));
    EXPECT_EQ(result.finish, FinishReason::kLength);
  }
  // The context is as long as it may be.
  auto engine = MakeEngine({.max_context = 20, .page_size = 4, .token_cascade = true}, HashPair(GetParam()),
                           DefersAt(0.7));
  EXPECT_EQ(RunAll(*engine, {free})[0].token_ids, std::vector<int32_t>(all.begin(), all.begin() + 8));
}

// Ends the run while the target catches up; the slot's next sequence begins with the draft again.
TEST_P(TokenCascade, ARunThatIsCancelledInACatchUpLeavesNothingBehind) {
  class After : public EngineListener {
   public:
    explicit After(int n) : n_(n) {}
    bool Cancelled() override { return --n_ == 0; }

   private:
    int n_;
  };
  const Request request{.prompt = SomePrompt(60, 5), .max_new_tokens = 20};
  const Written loop = GreedyCascade("chow", 0.7, request.prompt, 20);
  auto engine = MakeEngine({.max_context = 128, .prefill_chunk = 4, .token_cascade = true},
                           HashPair(GetParam()), DefersAt(0.7));
  for (int n_rounds = 1; n_rounds < 25; ++n_rounds) {
    ASSERT_TRUE(engine->Submit(request).ok());
    After listener(n_rounds);
    std::vector<RequestResult> results;
    ASSERT_TRUE(engine->Run(&listener, &results).ok());
    EXPECT_EQ(results[0].finish, FinishReason::kCancelled);
    const size_t n = results[0].token_ids.size();
    EXPECT_EQ(results[0].token_ids, std::vector<int32_t>(loop.tokens.begin(), loop.tokens.begin() + n));
    EXPECT_EQ(RunAll(*engine, {request})[0].token_ids, loop.tokens);
  }
}

// A model whose logits are NaN wherever they are wanted.
class NanModel : public Model {
 public:
  explicit NanModel(std::shared_ptr<const HashChainModel> good) : good_(std::move(good)) {
    shape_ = good_->shape();
    device_ = good_->device();
  }
  Workspace NewWorkspace(Arena& arena, int32_t max_rows, int32_t n_workers) const override {
    return good_->NewWorkspace(arena, max_rows, n_workers);
  }
  void Emit(Program& program, const Forward& forward) const override {
    Program inner;
    good_->Emit(inner, forward);
    HashChainArgs args = inner.args_as<HashChainArgs>(inner.steps()[0]);
    args.spread = std::numeric_limits<float>::quiet_NaN();
    program.Add(args);
  }

 private:
  std::shared_ptr<const HashChainModel> good_;
};

TEST_P(TokenCascade, ALawThatIsNotFiniteIsNamed) {
  for (const std::string side : {"target", "draft"}) {
    for (const float temperature : {0.f, 0.8f}) {
      PairSpec pair = HashPair(GetParam());
      pair.target.name = "models/big";
      pair.draft->name = "models/small";
      ModelSpec& spec = side == "target" ? pair.target : *pair.draft;
      spec.model =
          std::make_shared<NanModel>(side == "target" ? HashTarget(GetParam()) : HashDraft(GetParam()));
      auto engine = MakeEngine({.max_context = 64, .token_cascade = true}, pair, DefersAt(0));
      const Request request{
          .prompt = SomePrompt(6, 1), .sampling = {.temperature = temperature}, .max_new_tokens = 9};
      ASSERT_TRUE(engine->Submit(request).ok());
      std::vector<RequestResult> results;
      const absl::Status status = engine->Run(nullptr, &results);
      EXPECT_NE(std::string(status.message()).find(side + "'s logits are not finite"), std::string::npos)
          << status;
      EXPECT_NE(std::string(status.message()).find(spec.name), std::string::npos) << status;
      EXPECT_TRUE(results[0].token_ids.empty());
    }
  }
}

TEST(TokenCascadeRules, WhatItCannotUseIsRefused) {
  const auto message = [](PairSpec pair, std::unique_ptr<Policy> policy) {
    return std::string(
        Engine::Create({.token_cascade = true}, std::move(pair), std::move(policy)).status().message());
  };
  EXPECT_EQ(message({.target = {.model = HashTarget()}}, DefersAt(0.5)),
            "a token cascade needs a draft model");
  EXPECT_EQ(message({.target = {.model = HashTarget()}, .ngram = NgramSpec{}}, DefersAt(0.5)),
            "a token cascade needs a draft model");
  EXPECT_EQ(
      message(HashPair(), MakePolicy({.rule = "opt"})),
      "rule opt: a token cascade decides before the target is asked, and this rule looks at more than the "
      "draft's law");
}

// A rule that says draft_only looks at nothing else: with p and x taken away it says the same.
TEST(TokenCascadeRules, DraftOnlyRulesLookAtTheDraftAlone) {
  int n_rules = 0;
  for (const RuleEntry& rule : Rules()) {
    if (!rule.info->draft_only) continue;
    ++n_rules;
    for (const auto& setting : CheckSettings(*rule.info)) {
      const auto policy = MakePolicy({.rule = rule.info->name, .params = setting});
      const DeferralTest test = policy->deferral_test();
      int n_deferred = 0;
      for (int i = 1; i < 100; ++i) {
        Row row;
        row.q.max = row.q1.max = i / 100.f;
        row.q.entropy = row.q1.entropy = 2 - i / 50.f;
        const bool alone = rule.defers(test.params, row, Solved());
        n_deferred += alone;
        for (const float other : {0.f, 0.5f, 1.f}) {
          row.x = 1;
          row.p = row.p1 = {.x = other, .max = other, .argmax = 1, .lse = other, .entropy = other};
          row.q.x = row.q1.x = row.q1_at_top_of_p = row.p1_at_top_of_q = row.tv = other;
          ASSERT_EQ(rule.defers(test.params, row, Solved()), alone) << rule.info->name;
        }
      }
      EXPECT_GT(n_deferred, 0) << rule.info->name;
      EXPECT_LT(n_deferred, 99) << rule.info->name;
    }
  }
  EXPECT_GE(n_rules, 2);
}

}  // namespace
}  // namespace tandem
