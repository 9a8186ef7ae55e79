// Drafters, rules and models that break their contracts: the sequence ends with an error that names the culprit, what
// was committed before stays right, and the engine goes on.
#include <gtest/gtest.h>

#include <limits>

#include "policies/registry.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

// Runs one request; expects an error with these words, and a result that is a prefix of the target's greedy output.
void ExpectFault(Engine& engine, const std::string& words) {
  const auto target = HashTarget();
  const Request request{.id = "r", .prompt = SomePrompt(6, 1), .max_new_tokens = 30};
  ASSERT_TRUE(engine.Submit(request).ok());
  std::vector<RequestResult> results;
  const absl::Status status = engine.Run(nullptr, &results);
  EXPECT_NE(std::string(status.message()).find(words), std::string::npos) << status;
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].finish, FinishReason::kFault);
  const std::vector<int32_t> expected = GreedyContinuation(*target, request.prompt, 30);
  ASSERT_LE(results[0].token_ids.size(), expected.size());
  EXPECT_TRUE(std::equal(results[0].token_ids.begin(), results[0].token_ids.end(), expected.begin()));
}

HostDraftFunction AfterTwelve(std::vector<int32_t> proposal) {
  return [proposal](std::span<const int32_t> committed, int32_t, std::vector<int32_t>* proposed) {
    if (committed.size() >= 12) *proposed = proposal;
  };
}

TEST(HostileDrafter, Proposals) {
  for (const std::vector<int32_t>& proposal : {std::vector<int32_t>{-1},
                                               {0, kVocab},
                                               {std::numeric_limits<int32_t>::min()},
                                               std::vector<int32_t>(1000, 1),
                                               std::vector<int32_t>(4, 0)}) {
    for (const StreamMode streams : {StreamMode::kInline, StreamMode::kThreaded}) {
      auto engine = MakeEngine({.gamma = 3, .max_context = 64, .streams = streams},
                               {.target = {.model = HashTarget()}, .host_drafter = AfterTwelve(proposal)},
                               MakePolicy({}, false));
      ExpectFault(*engine, "the drafter proposed more tokens than wanted or one outside the vocabulary");
    }
  }
}

TEST(HostileDrafter, ProposingNothingIsPlainDecoding) {
  const auto target = HashTarget();
  auto engine =
      MakeEngine({.gamma = 3, .max_context = 64},
                 {.target = {.model = target}, .host_drafter = AfterTwelve({})}, MakePolicy({}, false));
  const RequestResult result = RunAll(*engine, {{.prompt = SomePrompt(6, 1), .max_new_tokens = 30}})[0];
  EXPECT_EQ(result.token_ids, GreedyContinuation(*target, result.request.prompt, 30));
  EXPECT_EQ(result.counts.num_drafts, 0);
  EXPECT_EQ(result.counts.target_calls, 30);
}

// A model whose logits turn bad after some tokens.
class BadModel : public Model {
 public:
  BadModel(std::shared_ptr<const HashChainModel> good, float bad) : good_(std::move(good)), bad_(bad) {
    shape_ = good_->shape();
  }
  Workspace NewWorkspace(Arena& arena, int32_t max_rows, int32_t n_workers) const override {
    return good_->NewWorkspace(arena, max_rows, n_workers);
  }
  void Emit(Program& program, const Forward& forward) const override {
    // Hashes that run wild: a spread that is not finite makes every logit so.
    Forward copy = forward;
    if (forward.out.logits != nullptr) {
      Program inner;
      good_->Emit(inner, copy);
      HashChainArgs args = inner.args_as<HashChainArgs>(inner.steps()[0]);
      args.spread = bad_;
      program.Add(args);
      return;
    }
    good_->Emit(program, copy);
  }

 private:
  std::shared_ptr<const HashChainModel> good_;
  float bad_;
};

TEST(HostileModel, LawsThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const float temperature : {0.f, 0.8f}) {
      for (const std::string side : {"target", "draft"}) {
        PairSpec pair{.target = {.model = HashTarget(), .name = "models/big"},
                      .draft = ModelSpec{.model = HashDraft(), .name = "models/small"}};
        ModelSpec& spec = side == "target" ? pair.target : *pair.draft;
        spec.model = std::make_shared<BadModel>(side == "target" ? HashTarget() : HashDraft(), bad);
        auto engine = MakeEngine({.gamma = 3, .max_context = 64}, pair, MakePolicy());
        ASSERT_TRUE(engine
                        ->Submit({.id = "r",
                                  .prompt = SomePrompt(6, 1),
                                  .sampling = {.temperature = temperature},
                                  .max_new_tokens = 9})
                        .ok());
        std::vector<RequestResult> results;
        const absl::Status status = engine->Run(nullptr, &results);
        EXPECT_NE(std::string(status.message()).find(side + "'s logits are not finite"), std::string::npos)
            << side << " " << bad << " T " << temperature << ": " << status;
        EXPECT_NE(std::string(status.message()).find(spec.name), std::string::npos) << status;
        EXPECT_TRUE(results[0].token_ids.empty());
      }
    }
  }
}

// Rules. Each goes wrong at one kind of decision.
template <int kWrong>
struct KeepsTooMany {
  static constexpr RuleInfo kInfo{.name = "keeps_too_many"};
  void chances(const Row*, int n, float* out) const { std::fill_n(out, n, 0.5f); }
  int keep(const Row*, int n, const bool*) const { return kWrong < 0 ? kWrong : n + kWrong; }
  float fallback(const Token& token, const Row&) const { return token.p; }
};

template <int kKind>
struct NoLaw {
  static constexpr RuleInfo kInfo{.name = "no_law"};
  float law(float q, float p, const Row&) const {
    return kKind == 0 ? NAN : kKind == 1 ? -1.f : kKind == 2 ? INFINITY : p + q;
  }
};

struct NoFallback {
  static constexpr RuleInfo kInfo{.name = "no_fallback"};
  float accept(const Row&) const { return 0; }
  float fallback(const Token&, const Row&) const { return NAN; }
};

void ExpectRuleFault(const RuleEntry& rule, float temperature) {
  auto policy = Policy::Create(rule, {}, true);
  ASSERT_TRUE(policy.ok()) << policy.status();
  auto engine = MakeEngine({.n_slots = 2, .gamma = 3, .max_context = 64},
                           {.target = {.model = HashTarget()}, .draft = ModelSpec{.model = HashDraft()}},
                           *std::move(policy));
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(engine
                    ->Submit({.id = "r",
                              .prompt = SomePrompt(6, i),
                              .sampling = {.temperature = temperature},
                              .max_new_tokens = 30})
                    .ok());
  }
  std::vector<RequestResult> results;
  const absl::Status status = engine->Run(nullptr, &results);
  EXPECT_NE(std::string(status.message()).find(std::string("rule ") + rule.info->name), std::string::npos)
      << status;
}

TEST(HostileRule, NumbersThatAreNoVerdict) {
  for (const float temperature : {0.f, 0.9f}) {
    ExpectRuleFault(MakeRuleEntry<KeepsTooMany<1>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<KeepsTooMany<1 << 20>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<KeepsTooMany<-1>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<KeepsTooMany<-(1 << 20)>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<NoLaw<0>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<NoLaw<1>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<NoLaw<2>>(), temperature);
    ExpectRuleFault(MakeRuleEntry<NoFallback>(), temperature);
  }
}

}  // namespace
}  // namespace tandem
