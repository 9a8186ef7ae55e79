// One tokenizer, several threads.
// ctest-label: concurrent
#include <gtest/gtest.h>

#include <thread>

#include "runtime/model/tokenizer.h"

namespace tandem {
namespace {

TEST(Tokenizer, ThreadsShareOne) {
  const auto tokenizer = Tokenizer::Load(TANDEM_SOURCE_DIR "/tests/golden/tokenizer/qwen2.tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "x<W> word <L> A\xCC\x8A 123 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E  <|im_end|>\n";
  const auto expected = (*tokenizer)->Encode(text);
  ASSERT_TRUE(expected.ok());
  const std::string decoded = (*tokenizer)->Decode(*expected, false);

  constexpr int kThreads = 4;
  int n_equal[kThreads] = {};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        TokenStream stream(**tokenizer, /*skip_special_tokens=*/false);
        const auto ids = (*tokenizer)->Encode(text);
        std::string streamed;
        for (const int32_t id : *ids) streamed += stream.Push(id);
        n_equal[t] += *ids == *expected && streamed + stream.Finish() == decoded;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int n : n_equal) EXPECT_EQ(n, 200);
}

}  // namespace
}  // namespace tandem
