// Checks of answers against what Python finds (tests/golden/make_answer_check_golden.py), and answers that no output
// could give.
#include "runtime/sweep/answer_check.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

namespace tandem {
namespace {

AnswerCheck CheckOf(const std::string& kind, const std::string& mark) {
  for (const CheckKind one :
       {CheckKind::kExact, CheckKind::kAfter, CheckKind::kLastNumber, CheckKind::kJson}) {
    if (kind == Name(one)) return {one, mark};
  }
  ADD_FAILURE() << kind;
  return {};
}

TEST(AnswerCheck, AgreesWithPython) {
  std::ifstream file(TANDEM_SOURCE_DIR "/tests/golden/answer_checks.json");
  const auto rows = nlohmann::json::parse(file);
  std::map<std::string, int> n_right, n_wrong;
  for (const auto& row : rows) {
    const std::string kind = row["kind"];
    const bool right = IsRight(CheckOf(kind, row["mark"]), row["answer"].get<std::string>(),
                               row["output"].get<std::string>());
    EXPECT_EQ(right, row["right"].get<bool>()) << row;
    ++(right ? n_right : n_wrong)[kind];
  }
  for (const char* kind : {"exact", "after", "last_number", "json"}) {
    EXPECT_GT(n_right[kind], 10) << kind;
    EXPECT_GT(n_wrong[kind], 10) << kind;
  }
}

TEST(AnswerCheck, AnswersThatNothingCouldMatch) {
  EXPECT_TRUE(CheckAnswer({CheckKind::kLastNumber, ""}, "about 5").ok());
  EXPECT_EQ(CheckAnswer({CheckKind::kLastNumber, ""}, "five").message(),
            "answer: expected a number in it, as its check.kind says");
  EXPECT_TRUE(CheckAnswer({CheckKind::kJson, ""}, " [1]").ok());
  EXPECT_EQ(CheckAnswer({CheckKind::kJson, ""}, "[1").message(),
            "answer: expected JSON, as its check.kind says");
  EXPECT_TRUE(CheckAnswer({CheckKind::kAfter, "="}, "x = 5.").ok());
  EXPECT_EQ(CheckAnswer({CheckKind::kAfter, "="}, "x = .").message(), "answer: nothing in it to compare");
  EXPECT_EQ(CheckAnswer({CheckKind::kExact, ""}, " \n").message(), "answer: nothing in it to compare");
}

}  // namespace
}  // namespace tandem
