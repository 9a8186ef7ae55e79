// The vocabulary that a pair shares.
#include "runtime/pair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/runtime/tiny_checkpoints.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::ordered_json;

class SharedVocabularyTest : public testing::Test {
 protected:
  std::unique_ptr<const Tokenizer> Tokenizer257(const std::function<void(Json&)>& edit = [](Json&) {}) {
    Json json = ByteTokenizer();
    edit(json);
    const std::string path = WriteAll(folder_ / ("t" + std::to_string(n_++) + ".json"), json.dump());
    absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(path);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  }

  absl::StatusOr<int32_t> Shared(const Tokenizer* target, int32_t target_rows, const Tokenizer* draft,
                                 int32_t draft_rows) {
    warnings_.clear();
    return SharedVocabulary({target, target_rows, "big"}, {draft, draft_rows, "small"}, &warnings_);
  }

  static void AddToken(Json& json, int id, const char* content) {
    Json token = json["added_tokens"][0];
    token["id"] = id;
    token["content"] = content;
    json["added_tokens"].push_back(token);
  }

  TestFolder folder_;
  int n_ = 0;
  std::vector<std::string> warnings_;
};

TEST_F(SharedVocabularyTest, PaddingDoesNotCount) {
  const auto a = Tokenizer257(), b = Tokenizer257();
  EXPECT_EQ(*Shared(a.get(), 300, b.get(), 320), 257);
  EXPECT_EQ(*Shared(a.get(), 257, b.get(), 257), 257);
  EXPECT_EQ(*Shared(a.get(), 200, b.get(), 257), 200);  // a head with fewer rows than tokens
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(SharedVocabularyTest, DifferentSpellingsAreRefused) {
  const auto a = Tokenizer257();
  const auto b = Tokenizer257([](Json& json) {
    std::swap(json["model"]["vocab"]["x"], json["model"]["vocab"]["y"]);
    std::swap(json["model"]["vocab"]["p"], json["model"]["vocab"]["q"]);
  });
  const absl::StatusOr<int32_t> shared = Shared(a.get(), 257, b.get(), 257);
  EXPECT_EQ(shared.status(),
            absl::FailedPreconditionError(
                "vocabulary mismatch: 4 of 257 token ids differ between big and small: id 112 is \"p\" and "
                "\"q\", id 113 "
                "is \"q\" and \"p\", id 120 is \"x\" and \"y\", ...; a pair must share its tokenizer"));
}

TEST_F(SharedVocabularyTest, TheDraftMayKnowMoreTokensThanTheTarget) {
  const auto a = Tokenizer257();
  const auto b = Tokenizer257([](Json& json) { AddToken(json, 257, "<|more|>"); });
  EXPECT_EQ(*Shared(a.get(), 260, b.get(), 260), 257);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(SharedVocabularyTest, TheDraftMayLackTokensThatItHasRowsFor) {
  const auto a = Tokenizer257([](Json& json) { AddToken(json, 257, "<|more|>"); });
  const auto b = Tokenizer257();
  EXPECT_EQ(*Shared(a.get(), 260, b.get(), 260), 258);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("lacks the target's tokens from id 257 (\"<|more|>\") on")));
  const absl::StatusOr<int32_t> short_of_rows = Shared(a.get(), 260, b.get(), 257);
  EXPECT_THAT(std::string(short_of_rows.status().message()), HasSubstr("id 257 is \"<|more|>\" and nothing"));
}

TEST_F(SharedVocabularyTest, WithoutTokenizersTheSizesMustBeEqual) {
  const auto a = Tokenizer257();
  EXPECT_EQ(*Shared(nullptr, 300, nullptr, 300), 300);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("big has no tokenizer.json")));
  EXPECT_EQ(*Shared(a.get(), 300, nullptr, 300), 257);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("small has no tokenizer.json")));
  EXPECT_EQ(Shared(nullptr, 300, nullptr, 301).status(),
            absl::FailedPreconditionError(
                "vocabulary mismatch: big has no tokenizer.json to compare, and vocab_size "
                "differs: 300 in big, 301 in small"));
}

}  // namespace
}  // namespace tandem
