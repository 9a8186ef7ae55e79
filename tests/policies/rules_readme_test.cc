// The table of policies/README.md against what the rules say of themselves, both ways.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/policies/sweep.h"

namespace tandem {
namespace {

// The rows of the table whose first column is `rule`, by rule; the cells are joined again with one space
// around.
std::map<std::string, std::string> TableRows() {
  std::ifstream file(std::string(TANDEM_SOURCE_DIR) + "/policies/README.md");
  std::map<std::string, std::string> rows;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("| rule |", 0) == 0) {
      inside = true;
    } else if (line.rfind("|", 0) != 0) {
      inside = false;
    } else if (inside && line.rfind("|---", 0) != 0) {
      std::vector<std::string> cells = absl::StrSplit(line, '|');
      for (std::string& cell : cells) cell = std::string(absl::StripAsciiWhitespace(cell));
      EXPECT_TRUE(rows.insert({cells.at(1), absl::StrJoin(cells, "|")}).second) << "twice: " << line;
    }
  }
  return rows;
}

std::string Expected(const RuleEntry& rule) {
  const RuleInfo& info = *rule.info;
  std::vector<std::string> params;
  for (int i = 0; i < info.n_params(); ++i) {
    const ParamInfo& param = info.params[i];
    params.push_back(absl::StrCat(param.name, ": ", param.min, " to ", param.max, ", ", param.value));
  }
  const bool is_law = rule.kind == Kind::kLaw || rule.kind == Kind::kTokenWise;
  const bool works_without_law = Policy::Create({.rule = info.name}, false).ok();
  return absl::StrJoin(
      {std::string(), absl::StrCat("`", info.name, "`"), std::string(Name(rule.kind)),
       std::string(info.tests), std::string(is_law ? "max(0, pi - q)" : info.fallback),
       std::string(info.at_zero), std::string(works_without_law ? "yes" : "refused"),
       std::string(Name(info.guarantee)), params.empty() ? std::string("none") : absl::StrJoin(params, "; "),
       std::string(info.source), std::string()},
      "|");
}

TEST(Readme, TableIsWhatTheRulesSay) {
  std::map<std::string, std::string> expected;
  for (const RuleEntry& rule : BuiltInRules()) {
    expected[absl::StrCat("`", rule.info->name, "`")] = Expected(rule);
  }
  EXPECT_THAT(TableRows(), testing::ContainerEq(expected));
}

TEST(Readme, EveryRuleSaysEverything) {
  for (const RuleEntry& rule : BuiltInRules()) {
    for (const char* text : {rule.info->about, rule.info->tests, rule.info->at_zero, rule.info->source}) {
      EXPECT_STRNE(text, "") << rule.info->name;
    }
    const bool has_fallback = rule.info->fallback[0] != '\0';
    EXPECT_EQ(has_fallback, rule.kind == Kind::kTest || rule.kind == Kind::kBlock) << rule.info->name;
  }
}

}  // namespace
}  // namespace tandem
