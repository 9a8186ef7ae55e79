// What a user can get wrong about a rule, and the text that is the answer.
#include "policies/policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "policies/registry.h"
#include "tests/policies/sweep.h"

namespace tandem {
namespace {

// The error's text; "ok" if there is none.
std::string Answer(const PolicyOptions& options, bool draft_has_law = true) {
  const auto policy = Policy::Create(options, draft_has_law);
  if (policy.ok()) return "ok";
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(policy.status().message());
}

TEST(Policy, UnknownNames) {
  std::string all;
  for (const RuleEntry& rule : Rules()) all += (all.empty() ? "" : ", ") + std::string(rule.info->name);
  EXPECT_EQ(
      Answer({"lossles"}),
      std::string("rule: expected the name of a rule, got 'lossles'; nearest is 'lossless', all are ") + all);
  EXPECT_EQ(Answer({"opt", {{"alhpa", 0.1}}}),
            "rule opt: unknown parameter 'alhpa'; nearest is 'alpha', all are alpha");
  EXPECT_EQ(Answer({"typical", {{"epsilon", 0.1}}}),
            "rule typical: unknown parameter 'epsilon'; nearest is 'eps', all are eps, delta");
  EXPECT_EQ(Answer({"lossless", {{"alpha", 0.1}}}), "rule lossless: unknown parameter 'alpha'; it has none");
}

TEST(Policy, ParametersOutOfRange) {
  EXPECT_EQ(Answer({"chow", {{"alpha", 1.5}}}), "rule chow: alpha: expected 0 to 1, got 1.5; default 0.5");
  EXPECT_EQ(Answer({"chow", {{"alpha", -0.1}}}), "rule chow: alpha: expected 0 to 1, got -0.1; default 0.5");
  EXPECT_EQ(Answer({"top_k", {{"k", 2.5}}}), "rule top_k: k: expected a whole number, got 2.5");
  for (const RuleEntry& rule : BuiltInRules()) {
    for (int i = 0; i < rule.info->n_params(); ++i) {
      const ParamInfo& param = rule.info->params[i];
      auto answer = [&](double value) { return Answer({rule.info->name, {{param.name, value}}}); };
      EXPECT_EQ(answer(param.min), "ok");
      EXPECT_EQ(answer(param.max), "ok");
      EXPECT_NE(answer(param.min - 0.001), "ok") << rule.info->name << " " << param.name;
      EXPECT_NE(answer(param.max + 0.001), "ok") << rule.info->name << " " << param.name;
      EXPECT_NE(answer(NAN), "ok") << rule.info->name << " " << param.name;
    }
  }
}

// A draft without a law: the rules that test q1 of the vocabulary, and pi of the bonus token, are refused.
TEST(Policy, PointMassDraft) {
  const std::map<std::string, bool> refused = {
      {"bild", false},         {"chow", true},      {"diff", true},      {"ensemble", false},
      {"greedy", false},       {"lenience", false}, {"lossless", false}, {"lossy_sd", false},
      {"mentored", false},     {"opt", true},       {"token_v1", true},  {"token_v2", false},
      {"token_v3", false},     {"top_k", false},    {"typical", false},  {"threshold_single_acc", false},
      {"sample_match", false}, {"entropy", true},
  };
  for (const auto& [rule, is_refused] : refused) {
    EXPECT_EQ(Answer({rule}, false),
              is_refused ? "rule " + rule +
                               ": needs the draft's law, and this drafter proposes tokens without one; draft "
                               "with a model, or use another rule (lossless works with any drafter)"
                         : "ok");
    EXPECT_EQ(Answer({rule}, true), "ok");
  }
  EXPECT_EQ(Answer({"top_k", {}, Verification::kToken, Bonus::kPi}, false),
            "rule top_k: bonus: pi needs the draft's law, and this drafter proposes tokens without one; use "
            "bonus: p");
  EXPECT_EQ(Answer({"top_k", {}, Verification::kToken, Bonus::kPi}, true), "ok");
  // pi is p.
  EXPECT_EQ(Answer({"lossless", {}, Verification::kToken, Bonus::kPi}, false), "ok");
}

TEST(Policy, BlockVerificationIsForLaws) {
  EXPECT_EQ(Answer({"typical", {}, Verification::kBlock}),
            "rule typical: verification: block needs a rule that states a law, and this one is a test; use "
            "verification: token");
  for (const RuleEntry& rule : BuiltInRules()) {
    const bool is_law = rule.kind == Kind::kLaw || rule.kind == Kind::kTokenWise;
    EXPECT_EQ(Answer({rule.info->name, {}, Verification::kBlock}) == "ok", is_law) << rule.info->name;
  }
}

struct KeepAll {
  static constexpr RuleInfo kInfo{.name = "keep_all"};
  void chances(const Row*, int n, float* chances) const {
    for (int i = 0; i < n; ++i) chances[i] = 1;
  }
  int keep(const Row*, int n, const bool*) const { return n; }
  float fallback(const Token& t, const Row&) const { return t.p; }
};

TEST(Policy, BlockRulesHaveNoPi) {
  constexpr RuleEntry kEntry = MakeRuleEntry<KeepAll>();
  EXPECT_TRUE(Policy::Create(kEntry, {}, true).ok());
  EXPECT_EQ(Policy::Create(kEntry, {"", {}, Verification::kToken, Bonus::kPi}, true).status().message(),
            "rule keep_all: bonus: pi is not defined for a block rule; use bonus: p");
  EXPECT_EQ(Policy::Create(kEntry, {"", {}, Verification::kBlock}, true).status().message(),
            "rule keep_all: verification: block needs a rule that states a law, and this one is a block "
            "rule; use verification: token");
}

TEST(Policy, Guarantees) {
  auto guarantee = [](const char* rule, bool greedy) {
    return (*Policy::Create({rule}, true))->guarantee(greedy);
  };
  for (const RuleEntry& rule : BuiltInRules()) {
    const std::string name = rule.info->name;
    const bool exact = name == "lossless" || name == "sample_match";
    EXPECT_EQ(guarantee(rule.info->name, false), exact ? Guarantee::kExact : Guarantee::kLossy) << name;
    EXPECT_EQ(guarantee(rule.info->name, true),
              exact || name == "greedy" ? Guarantee::kExact : Guarantee::kLossy)
        << name;
  }
}

}  // namespace
}  // namespace tandem
