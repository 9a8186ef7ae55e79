// Rounds of as few slots as are in use: they ran, and what came of every request - tokens, who wrote them, bits of
// log-probabilities, counts - is that of an engine whose rounds are all for all slots. On models whose every law is known, and
// on checkpoints, where rounds of few slots are other kernels on a device.
// ctest-label: concurrent
#include "runtime/buckets.h"

#include <gmock/gmock.h>

#include <cstring>
#include <map>

#include "draft/model_drafter.h"
#include "tests/runtime/every_mode.h"
#include "tests/runtime/model/random_checkpoint.h"
#include "tests/runtime/pairs.h"
#include "tests/runtime/tiny_checkpoints.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::Key;

TEST(Buckets, ArePowersOfTwoAndAllSlots) {
  EXPECT_THAT(BucketsOf(1, true), ElementsAre(1));
  EXPECT_THAT(BucketsOf(2, true), ElementsAre(2, 1));
  EXPECT_THAT(BucketsOf(3, true), ElementsAre(3, 2, 1));
  EXPECT_THAT(BucketsOf(8, true), ElementsAre(8, 4, 2, 1));
  EXPECT_THAT(BucketsOf(9, true), ElementsAre(9, 8, 4, 2, 1));
  EXPECT_THAT(BucketsOf(9, false), ElementsAre(9));
  EXPECT_THAT(BucketsOf(1, false), ElementsAre(1));
}

// What a round needs is part of what the largest needs, and made once.
TEST(Buckets, RoundsShareTheirBuffers) {
  ModelDrafter drafter(HashDraft(), {.side = kDraft, .cache = {.n_slots = 4, .n_tokens = 64}, .max_rows = 8},
                       kVocab, /*bonus_law=*/false);
  Verifier verifier(HashTarget(), {.cache = {.n_slots = 4, .n_tokens = 64}, .max_rows = 12});
  auto policy = MakePolicy({.rule = "opt"});
  struct Round {
    Proposal proposal;
    Scores scores;
    Verdicts verdicts;
  };
  std::vector<Round> rounds;
  Program program;
  for (const int32_t n_slots : {4, 2, 1}) {
    const Batch batch{.n_slots = n_slots, .gamma = 2};
    Round& round = rounds.emplace_back();
    round.proposal = drafter.propose(program, batch);
    round.scores = verifier.score(program, batch, round.proposal);
    round.verdicts = policy->judge(program, batch, round.proposal, round.scores);
    EXPECT_EQ(round.proposal.tokens, rounds[0].proposal.tokens);
    EXPECT_EQ(round.proposal.law.logits, rounds[0].proposal.law.logits);
    EXPECT_EQ(round.scores.law.logits, rounds[0].scores.law.logits);
    EXPECT_EQ(round.verdicts.n_keep, rounds[0].verdicts.n_keep);
    EXPECT_EQ(round.verdicts.fault, rounds[0].verdicts.fault);
  }
  std::vector<const void*> scratch;
  for (const Step& step : program.steps()) {
    if (step.op == Op::kJudge) scratch.push_back(program.args_as<JudgeArgs>(step).scratch);
  }
  EXPECT_THAT(scratch, ElementsAre(scratch[0], scratch[0], scratch[0]));
}

// How many rounds were for how many slots, and what came of requests by their ids.
class Witness : public EngineListener {
 public:
  void OnRound(std::span<const SlotRecord> slots) override { ++rounds[slots.size()]; }
  void OnFinish(const RequestResult& result) override { results[result.request.id] = result; }

  int64_t n_rounds() const {
    int64_t n = 0;
    for (const auto& [n_slots, of_them] : rounds) n += of_them;
    return n;
  }
  int64_t n_preemptions() const {
    int64_t n = 0;
    for (const auto& [id, result] : results) n += result.counts.num_preemptions;
    return n;
  }

  std::map<size_t, int64_t> rounds;
  std::map<std::string, RequestResult> results;
};

void ExpectSame(const Witness& a, const Witness& b) {
  EXPECT_EQ(a.n_rounds(), b.n_rounds());
  ASSERT_EQ(a.results.size(), b.results.size());
  for (const auto& [id, result] : a.results) {
    const RequestResult& other = b.results.at(id);
    ASSERT_EQ(result.token_ids, other.token_ids) << "request " << id;
    EXPECT_EQ(result.origin, other.origin) << "request " << id;
    EXPECT_EQ(result.text, other.text) << "request " << id;
    EXPECT_EQ(result.finish, other.finish) << "request " << id;
    EXPECT_TRUE(result.counts == other.counts) << "request " << id;
    ASSERT_EQ(result.log_probs.size(), other.log_probs.size());
    EXPECT_EQ(
        std::memcmp(result.log_probs.data(), other.log_probs.data(), result.log_probs.size() * sizeof(float)),
        0)
        << "request " << id;
  }
}

Witness RunWith(Engine& engine, const std::vector<Request>& requests) {
  for (const Request& request : requests) EXPECT_TRUE(engine.Submit(request).ok());
  Witness witness;
  std::vector<RequestResult> results;
  const absl::Status status = engine.Run(&witness, &results);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(witness.results.size(), requests.size());
  return witness;
}

// How tokens are proposed and judged.
struct Way {
  std::string drafter;
  PolicyOptions rule = {};
};
std::string NameOf(const Way& way) { return way.drafter + " " + way.rule.rule; }

// The engine without smaller rounds, then that with them: `run(engine)` is done on both.
template <typename F>
std::pair<Witness, Witness> OnBoth(EngineOptions options, const PairSpec& pair, const Way& way, F run) {
  options.log_probs = true;
  options.token_cascade = way.drafter == "cascade";
  Witness witnesses[2];
  for (const bool buckets : {false, true}) {
    options.buckets = buckets;
    auto engine = MakeEngine(options, pair, MakePolicy(way.rule, pair.draft.has_value()));
    witnesses[buckets] = run(*engine);
  }
  return {std::move(witnesses[0]), std::move(witnesses[1])};
}

// More requests than there are slots. The earlier ones, in the lower slots, last longest: slots fall free from the top.
constexpr int32_t kSlots = 5;
std::vector<Request> SomeRequests(int32_t n_vocab, const Sampling& sampling) {
  std::vector<Request> requests;
  for (const int32_t n_new : {60, 40, 26, 18, 8, 6, 5}) {
    const auto i = static_cast<int32_t>(requests.size());
    requests.push_back({.id = std::to_string(i),
                        .prompt = SomePrompt(3 + 11 * i % 32, 100 + i, n_vocab),
                        .sampling = sampling,
                        .seed = 7,
                        .max_new_tokens = n_new});
  }
  return requests;
}
// As many as one of them needs, and a little for others.
constexpr int64_t kTightCache = 64 + 26;

// Of those between the smallest and the largest one may be missing: several sequences may end in rounds that are queued
// already.
void ExpectAllBuckets(const std::pair<Witness, Witness>& both) {
  ExpectSame(both.second, both.first);
  EXPECT_THAT(both.first.rounds, ElementsAre(Key(5)));
  EXPECT_THAT(both.second.rounds,
              testing::AllOf(testing::SizeIs(testing::Ge(3)), testing::Contains(Key(1)),
                             testing::Contains(Key(5)), testing::Each(Key(testing::AnyOf(1, 2, 4, 5)))));
}

INSTANTIATE_TEST_SUITE_P(, EveryMode, AllModes(), NameOfMode);

PairSpec HashPair(const std::string& drafter, Device device) {
  PairSpec pair{.target = {.model = HashTarget(device)}};
  if (drafter == "model" || drafter == "cascade") pair.draft = ModelSpec{.model = HashDraft(device)};
  if (drafter == "self") pair.draft = pair.target;
  if (drafter == "ngram") pair.ngram = NgramSpec{.min = 1, .max = 3};
  if (drafter == "host") {
    pair.host_drafter = [](std::span<const int32_t> committed, int32_t wanted,
                           std::vector<int32_t>* proposed) { proposed->assign(wanted, committed.back()); };
  }
  return pair;
}

std::vector<Way> HashWays(Device device) {
  std::vector<Way> ways = {{"none"},
                           {"model"},
                           {"model", {.rule = "opt"}},
                           {"self", {.verification = Verification::kBlock}},
                           {"ngram"},
                           {"cascade", {.rule = "chow", .params = {{"alpha", 0.6}}}}};
  if (!device.is_cuda()) ways.push_back({"host"});
  return ways;
}

TEST_P(EveryMode, TheSameWhateverRuns) {
  for (const Way& way : HashWays(GetParam().device)) {
    for (const GammaSchedule schedule : {GammaSchedule::kFixed, GammaSchedule::kHeuristic}) {
      for (const float temperature : {0.f, 0.9f}) {
        SCOPED_TRACE(NameOf(way) + ", T = " + std::to_string(temperature));
        const EngineOptions options{.n_slots = kSlots,
                                    .gamma = 4,
                                    .schedule = schedule,
                                    .max_context = 96,
                                    .page_size = 3,
                                    .prefill_chunk = 5,
                                    .rounds_ahead = 2,
                                    .streams = GetParam().streams,
                                    .n_threads = 2};
        const std::vector<Request> requests = SomeRequests(kVocab, {.temperature = temperature});
        const auto both = OnBoth(options, HashPair(way.drafter, GetParam().device), way,
                                 [&](Engine& engine) { return RunWith(engine, requests); });
        ExpectAllBuckets(both);
        if (temperature > 0 || way.drafter == "cascade") continue;
        const auto target = HashTarget();
        if (way.rule.rule == "lossless") {
          for (const Request& request : requests) {
            EXPECT_EQ(both.second.results.at(request.id).token_ids,
                      GreedyContinuation(*target, request.prompt, request.max_new_tokens));
          }
        }
      }
    }
  }
}

TEST_P(EveryMode, TheSameAfterPreemption) {
  for (const Way& way : HashWays(GetParam().device)) {
    for (const float temperature : {0.f, 0.9f}) {
      SCOPED_TRACE(NameOf(way) + ", T = " + std::to_string(temperature));
      const EngineOptions options{.n_slots = kSlots,
                                  .gamma = 3,
                                  .schedule = GammaSchedule::kHeuristic,
                                  .max_context = 96,
                                  .page_size = 2,
                                  .cache_tokens = kTightCache,
                                  .prefill_chunk = 4,
                                  .streams = GetParam().streams};
      const std::vector<Request> requests = SomeRequests(kVocab, {.temperature = temperature});
      const auto [whole, smaller] = OnBoth(options, HashPair(way.drafter, GetParam().device), way,
                                           [&](Engine& engine) { return RunWith(engine, requests); });
      ExpectSame(smaller, whole);
      EXPECT_GT(smaller.n_preemptions(), 0);
      EXPECT_GE(smaller.rounds.size(), 3u);
      EXPECT_GT(smaller.rounds.at(1), 0);
    }
  }
}

// Requests come while few slots are in use, and leave again: a slot's record of long ago is not taken for one of now.
TEST_P(EveryMode, SlotsThatAreUsedAgainTakePart) {
  const std::vector<Request> requests = SomeRequests(kVocab, {.temperature = 0.9f});
  const EngineOptions options{
      .n_slots = kSlots, .gamma = 3, .max_context = 96, .rounds_ahead = 3, .streams = GetParam().streams};
  const auto run = [&](Engine& engine) {
    Witness witness;
    const auto step_until = [&](const std::function<bool()>& enough) {
      while (!enough() && !engine.idle()) ASSERT_TRUE(engine.Step(&witness).ok());
    };
    EXPECT_TRUE(engine.Submit(requests[0]).ok());
    step_until([&] { return witness.n_rounds() == 3; });
    for (int i = 3; i < 7; ++i) EXPECT_TRUE(engine.Submit(requests[i]).ok());
    step_until([&] { return witness.results.size() == 4; });
    EXPECT_FALSE(engine.idle());
    for (int i = 1; i < 3; ++i) EXPECT_TRUE(engine.Submit(requests[i]).ok());
    step_until([] { return false; });
    engine.Abandon(FinishReason::kCancelled, &witness);
    EXPECT_EQ(witness.results.size(), requests.size());
    return witness;
  };
  const Way way{"model"};
  const auto [whole, smaller] = OnBoth(options, HashPair("model", GetParam().device), way, run);
  ExpectSame(smaller, whole);
  EXPECT_GE(smaller.rounds.at(1), 3);
  EXPECT_GT(smaller.rounds.at(4), 0);
  EXPECT_GT(smaller.rounds.at(5), 0);
}

// The host ends a sequence, in a round of few slots and of all.
TEST_P(EveryMode, StopStringsEndSequencesInAnyBucket) {
  const TestFolder folder;
  const auto tokenizer = Tokenizer::Load(WriteAll(folder / "tokenizer.json", ByteTokenizer().dump()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto target = HashTarget();
  std::vector<Request> requests = SomeRequests(kVocab, {});
  for (Request& request : requests) {
    // Token ids are bytes: stop at three that the target writes half way.
    const std::vector<int32_t> free = GreedyContinuation(*target, request.prompt, request.max_new_tokens);
    const std::string text(free.begin(), free.end());
    request.stop_strings = {text.substr(text.size() / 2, 3)};
  }
  PairSpec pair = HashPair("model", GetParam().device);
  pair.tokenizer = tokenizer->get();
  const EngineOptions options{
      .n_slots = kSlots, .gamma = 2, .max_context = 96, .streams = GetParam().streams};
  const auto [whole, smaller] =
      OnBoth(options, pair, {"model"}, [&](Engine& engine) { return RunWith(engine, requests); });
  ExpectSame(smaller, whole);
  EXPECT_GE(smaller.rounds.size(), 3u);
  for (const auto& [id, result] : smaller.results) EXPECT_EQ(result.finish, FinishReason::kStop) << id;
}

struct Case {
  ActivationDType dtype;
  Device device;
};

class OfCheckpoints : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(GetParam().device);
    WriteCheckpoint(kAlignedLlama, target_);
    WriteCheckpoint(kAlignedQwen3, draft_);
  }
  ModelSpec Load(const TempCheckpoint& from) const {
    auto model = LoadModel(from.folder(), GetParam().device);
    EXPECT_TRUE(model.ok()) << model.status();
    return {.model = *model, .dtype = GetParam().dtype};
  }
  PairSpec Pair(const std::string& drafter) const {
    PairSpec pair{.target = Load(target_)};
    if (drafter == "model" || drafter == "cascade") pair.draft = Load(draft_);
    if (drafter == "ngram") pair.ngram = NgramSpec{.min = 1, .max = 3};
    return pair;
  }

  TempCheckpoint target_, draft_;
};
INSTANTIATE_TEST_SUITE_P(, OfCheckpoints,
                         testing::Values(Case{ActivationDType::kF32, kCpuDevice},
                                         Case{ActivationDType::kBf16, kCpuDevice},
                                         Case{ActivationDType::kF32, kCudaDevice},
                                         Case{ActivationDType::kBf16, kCudaDevice}),
                         [](const auto& info) {
                           return std::string(info.param.dtype == ActivationDType::kF32 ? "Fp32" : "Bf16") +
                                  (info.param.device.is_cuda() ? "Cuda" : "Cpu");
                         });

// Of 5 slots, 4 rows each: forwards of up to 8 rows, which are one kernel on a device, and of more.
TEST_P(OfCheckpoints, TheSameBitsWhateverRuns) {
  for (const Way& way : {Way{"none"}, Way{"model"}, Way{"model", {.rule = "opt"}}, Way{"ngram"},
                         Way{"cascade", {.rule = "chow", .params = {{"alpha", 0.6}}}}}) {
    for (const float temperature : {0.f, 1.f}) {
      for (const int64_t cache_tokens : {int64_t{0}, kTightCache + 16}) {
        SCOPED_TRACE(NameOf(way) + ", T = " + std::to_string(temperature) + ", " +
                     std::to_string(cache_tokens) + " tokens");
        const EngineOptions options{.n_slots = kSlots,
                                    .gamma = 3,
                                    .schedule = GammaSchedule::kHeuristic,
                                    .max_context = 112,
                                    .cache_tokens = cache_tokens,
                                    .prefill_chunk = 16,
                                    .n_threads = 2};
        const std::vector<Request> requests =
            SomeRequests(kAlignedQwen3.n_vocab, {.temperature = temperature});
        const auto both = OnBoth(options, Pair(way.drafter), way,
                                 [&](Engine& engine) { return RunWith(engine, requests); });
        if (cache_tokens == 0) {
          ExpectAllBuckets(both);
        } else {
          ExpectSame(both.second, both.first);
          EXPECT_GT(both.second.n_preemptions(), 0);
          EXPECT_GE(both.second.rounds.size(), 2u);
        }
        if (way.drafter != "cascade") continue;
        const SpeculationCounts& counts = both.second.results.at("0").counts;
        EXPECT_GT(counts.num_deferred, 0);
        EXPECT_GT(counts.num_tokens_by_draft, 0);
      }
    }
  }
}

}  // namespace
}  // namespace tandem
