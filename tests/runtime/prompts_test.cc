// Prompt files: what a line may say, and the text of every complaint.
#include "runtime/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem {
namespace {

using ::testing::ElementsAre;

std::string ErrorOf(std::string_view text) {
  std::vector<Complaint> complaints;
  ParsePromptLines(text, "p.jsonl", &complaints);
  return std::string(ToStatus(complaints).message());
}

TEST(PromptLines, ReadsEveryField) {
  std::vector<Complaint> complaints;
  const std::vector<Prompt> prompts = ParsePromptLines(
      "{\"prompt\": \"Héllo\\n\\u00e9\"}\r\n"
      "\n"
      "{\"id\": 7, \"category\": \"c\", \"prompt_token_ids\": [3, 0], \"max_new_tokens\": 5, \"seed\": "
      "18446744073709551615}\n"
      "   \n"
      "{\"prompt\": \"last\", \"id\": \"x y\"}",
      "p.jsonl", &complaints);
  EXPECT_TRUE(complaints.empty());
  ASSERT_EQ(prompts.size(), 3u);
  EXPECT_EQ(prompts[0].id, "1");
  EXPECT_EQ(prompts[0].text, "H\xc3\xa9llo\n\xc3\xa9");
  EXPECT_FALSE(prompts[0].token_ids);
  EXPECT_FALSE(prompts[0].seed);
  EXPECT_EQ(prompts[1].id, "7");
  EXPECT_EQ(prompts[1].category, "c");
  EXPECT_FALSE(prompts[1].text);
  EXPECT_THAT(*prompts[1].token_ids, ElementsAre(3, 0));
  EXPECT_EQ(prompts[1].max_new_tokens, 5);
  EXPECT_EQ(prompts[1].seed, 18446744073709551615u);
  EXPECT_EQ(prompts[1].where.Text(), "p.jsonl:3");
  EXPECT_EQ(prompts[2].id, "x y");
}

TEST(PromptLines, Complaints) {
  struct Bad {
    std::string text;
    std::string error;
  };
  const Bad bad[] = {
      {"", "p.jsonl: no prompts; expected one JSON object per line"},
      {"\n \n", "p.jsonl: no prompts; expected one JSON object per line"},
      {"{\"prompt\": \"\"}", "p.jsonl:1: prompt: empty; expected some text"},
      {"{\"prompt_token_ids\": []}", "p.jsonl:1: prompt_token_ids: empty; expected at least one id"},
      {"{\"prompt_token_ids\": [1, -1]}",
       "p.jsonl:1: prompt_token_ids: expected a list of whole numbers from 0, got -1 in it"},
      {"{\"prompt_token_ids\": [1.5]}",
       "p.jsonl:1: prompt_token_ids: expected a list of whole numbers from 0, got 1.5 in it"},
      {"{\"prompt_token_ids\": [2147483648]}",
       "p.jsonl:1: prompt_token_ids: expected a list of whole numbers from 0, got 2147483648 in it"},
      {"{\"prompt_token_ids\": \"1\"}",
       "p.jsonl:1: prompt_token_ids: expected a list of whole numbers from 0, got \"1\""},
      {"{\"prompt\": 5}", "p.jsonl:1: prompt: expected a text, got 5"},
      {"{\"prompt\": \"a\", \"prompt_token_ids\": [1]}",
       "p.jsonl:1: expected prompt or prompt_token_ids, got both"},
      {"{\"id\": \"a\"}", "p.jsonl:1: expected prompt or prompt_token_ids, got neither"},
      {"{\"promt\": \"a\"}", "p.jsonl:1: promt: unknown field; did you mean prompt?"},
      {"{\"prompt\": \"a\", \"zzzzzz\": 1}",
       "p.jsonl:1: zzzzzz: unknown field; expected one of prompt, prompt_token_ids, id, category, "
       "max_new_tokens, seed, answer, check"},
      {"{\"prompt\": \"a\", \"prompt\": \"b\"}", "p.jsonl:1: prompt: duplicate field"},
      {"{\"prompt\": \"a\", \"max_new_tokens\": 0}",
       "p.jsonl:1: max_new_tokens: expected a whole number, at least 1, got 0"},
      {"{\"prompt\": \"a\", \"seed\": -1}",
       "p.jsonl:1: seed: expected a whole number from 0 to 2^64 - 1, got -1"},
      {"{\"prompt\": \"a\", \"category\": 1}", "p.jsonl:1: category: expected a text, got 1"},
      {"{\"prompt\": \"a\", \"id\": \"\"}", "p.jsonl:1: id: expected a text or a whole number, got \"\""},
      {"[\"a\"]", "p.jsonl:1: expected an object, such as {\"prompt\": \"Hello\"}, got [\"a\"]"},
      {"{\"prompt\": \"a\"}\n{\"prompt\": a}",
       "p.jsonl:2:12: not valid JSON; expected one object per line, such as {\"prompt\": \"Hello\"}"},
      {"{\"prompt\": \"a\xff\"}", "p.jsonl:1:14: not valid UTF-8 at byte 13 of the line"},
      {"{\"prompt\": \"a\", \"id\": \"k\"}\n{\"prompt\": \"b\", \"id\": \"k\"}",
       "p.jsonl:2: id \"k\": already used at p.jsonl:1"},
      {"{\"prompt\": \"a\", \"id\": \"2\"}\n{\"prompt\": \"b\"}",
       "p.jsonl:2: id \"2\": already used at p.jsonl:1 (a prompt without an id is named by its number)"},
  };
  for (const Bad& one : bad) EXPECT_EQ(ErrorOf(one.text), one.error) << one.text;
}

TEST(PromptLines, AllComplaintsAtOnce) {
  EXPECT_EQ(ErrorOf("{\"prompt\": 1, \"seed\": \"x\"}\n{}\n{\"prompt\": \"fine\"}\n{\"prompt\": \"\"}"),
            "p.jsonl:1: prompt: expected a text, got 1\n"
            "p.jsonl:1: seed: expected a whole number from 0 to 2^64 - 1, got \"x\"\n"
            "p.jsonl:2: expected prompt or prompt_token_ids, got neither\n"
            "p.jsonl:4: prompt: empty; expected some text");
}

}  // namespace
}  // namespace tandem
