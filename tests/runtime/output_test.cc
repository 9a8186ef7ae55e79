// Text on the host: stop strings across tokens and rounds, held-back text, and what a cut leaves behind.
// ctest-label: concurrent
#include "runtime/output.h"

#include <gtest/gtest.h>

#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

std::unique_ptr<const Tokenizer> GoldenTokenizer() {
  auto tokenizer = Tokenizer::Load(TANDEM_SOURCE_DIR "/tests/golden/tokenizer/gpt2.tokenizer.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// A drafter's rounds of `block` tokens that spell `text`.
std::vector<SlotRecord> Rounds(const std::vector<int32_t>& ids, int32_t block) {
  std::vector<SlotRecord> rounds;
  for (size_t i = 0; i < ids.size(); i += block) {
    SlotRecord record{.ran = true};
    for (size_t j = i; j < std::min(ids.size(), i + block); ++j) record.tokens[record.n_emit++] = ids[j];
    rounds.push_back(record);
  }
  return rounds;
}

TEST(Output, AStopStringEndsTheTextBeforeItWhereverTokensAndRoundsBegin) {
  const auto tokenizer = GoldenTokenizer();
  const std::string text = "one two stop here, STOPPED early and never after";
  const std::vector<int32_t> ids = *tokenizer->Encode(text);
  for (const std::string stop :
       {"STOPPED", "o", "early and", "one", " ", "stop here, STOPPED early", "never after"}) {
    for (int32_t block = 1; block <= 6; ++block) {
      Request request;
      request.stop_strings = {"not in it", stop};
      Output output(request, tokenizer.get());
      std::string shown;
      size_t n_taken = 0;
      for (const SlotRecord& record : Rounds(ids, block)) {
        std::string piece;
        n_taken += output.Add(record, &piece);
        shown += piece;
        // Nothing that a stop string could take back has been shown.
        ASSERT_TRUE(text.substr(0, text.find(stop)).starts_with(shown)) << stop << " " << shown;
        if (output.stopped()) break;
      }
      shown += output.Finish();
      EXPECT_TRUE(output.stopped());
      EXPECT_EQ(shown, text.substr(0, text.find(stop)));
      EXPECT_EQ(output.text(), shown);
      // Tokens up to the one that completes the stop string, no further.
      std::string upto = tokenizer->Decode(std::vector<int32_t>(ids.begin(), ids.begin() + n_taken));
      std::string before = tokenizer->Decode(std::vector<int32_t>(ids.begin(), ids.begin() + n_taken - 1));
      EXPECT_NE(upto.find(stop), std::string::npos);
      EXPECT_EQ(before.find(stop), std::string::npos);
    }
  }
}

TEST(Output, WithoutAStopStringAllTextIsShownAtTheEnd) {
  const auto tokenizer = GoldenTokenizer();
  const std::string text = "Grüße, 世界 🙂 STO";
  const std::vector<int32_t> ids = *tokenizer->Encode(text);
  Request request;
  request.stop_strings = {"STOP"};
  Output output(request, tokenizer.get());
  std::string shown;
  for (const SlotRecord& record : Rounds(ids, 1)) {
    std::string piece;
    output.Add(record, &piece);
    shown += piece;
    EXPECT_FALSE(FindInvalidUtf8(piece)) << "half a character";
  }
  EXPECT_EQ(shown, text.substr(0, text.size() - 3));  // "STO" may still become a stop string
  shown += output.Finish();
  EXPECT_EQ(shown, text);
  EXPECT_FALSE(output.stopped());
}

// Through the engine, in every stream mode: the device runs ahead of the host, and what it did past the stop is dropped.
TEST(Output, TheEngineCutsAtAStopStringAndGoesOn) {
  const auto tokenizer = GoldenTokenizer();
  const auto model = std::make_shared<HashChainModel>(tokenizer->n_ids(), 5, kSpread);
  for (const StreamMode streams : {StreamMode::kInline, StreamMode::kThreaded, StreamMode::kAdversarial}) {
    auto engine = MakeEngine(
        {.gamma = 4, .max_context = 96, .rounds_ahead = 3, .streams = streams},
        {.target = {.model = model}, .draft = ModelSpec{.model = model}, .tokenizer = tokenizer.get()},
        MakePolicy());
    Request request{.prompt = {3, 1, 4}, .max_new_tokens = 60};
    const RequestResult free = RunAll(*engine, {request})[0];
    const std::string whole = tokenizer->Decode(free.token_ids);
    ASSERT_EQ(free.text, whole);
    for (size_t at = 3; at + 4 < whole.size(); at += 29) {
      const std::string stop = whole.substr(at, 3);
      if (FindInvalidUtf8(stop)) continue;
      request.stop_strings = {stop};
      // A second request follows in the same slot, at the same length: nothing of the first may leak into it.
      const std::vector<RequestResult> results = RunAll(*engine, {request, request});
      for (const RequestResult& result : results) {
        EXPECT_EQ(result.text, whole.substr(0, whole.find(stop)));
        EXPECT_EQ(result.finish, FinishReason::kStop);
        EXPECT_TRUE(std::equal(result.token_ids.begin(), result.token_ids.end(), free.token_ids.begin()));
        EXPECT_EQ(result.counts.num_emitted_tokens, static_cast<int64_t>(result.token_ids.size()));
      }
    }
    EXPECT_EQ(RunAll(*engine, {{.prompt = {3, 1, 4}, .max_new_tokens = 60}})[0].token_ids, free.token_ids);
  }
}

}  // namespace
}  // namespace tandem
