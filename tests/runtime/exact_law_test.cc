// The exact law of the engine's output, with nothing sampled, and faults that must be seen in it.
#include <gtest/gtest.h>

#include <cmath>

#include "policies/registry.h"
#include "runtime/rules_check.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

LawCheckResult Check(const LawCheck& check) {
  const absl::StatusOr<LawCheckResult> result = CheckLaw(check);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : LawCheckResult{.largest_difference = 1};
}

std::vector<double> LawOf(OutcomeSweep& sweep, int64_t n_outcomes,
                          const std::function<int64_t(uint64_t run)>& outcome) {
  const absl::StatusOr<std::vector<double>> law = sweep.Run(n_outcomes, [&](std::span<int64_t> outcomes) {
    for (size_t run = 0; run < outcomes.size(); ++run) outcomes[run] = outcome(run);
    return absl::OkStatus();
  });
  EXPECT_TRUE(law.ok()) << law.status();
  return law.ok() ? *law : std::vector<double>(n_outcomes);
}

TEST(OutcomeSweep, AddsUpAKnownLaw) {
  for (const int32_t n_at_once : {1, 2, 5, 40}) {
    // Two dice of which the second is thrown only if the first shows under 2, and a key used twice.
    OutcomeSweep sweep(n_at_once);
    const auto face = [&](uint64_t run, int32_t offset) {
      const UniformKey key{.seed = run, .offset = offset};
      const int value = static_cast<int>(sweep.Draw(key) * 4);
      sweep.Cell(key, value / 4.0, (value + 1) / 4.0);
      return value;
    };
    std::vector<double> law = LawOf(sweep, 6, [&](uint64_t run) -> int64_t {
      return face(run, 0) < 2 ? face(run, 1) : 4 + face(run, 0) % 2;
    });
    EXPECT_EQ(law, (std::vector<double>{1 / 8., 1 / 8., 1 / 8., 1 / 8., 1 / 4., 1 / 4.}));
    EXPECT_EQ(sweep.n_runs(), 2 * 4 + 2);
    // The same number again: the second decision is not independent of the first.
    law = LawOf(sweep, 4, [&](uint64_t run) -> int64_t {
      const UniformKey key{.seed = run};
      const bool low = sweep.Draw(key) < 0.5;
      sweep.Cell(key, low ? 0 : 0.5, low ? 0.5 : 1);
      const bool lower = sweep.Draw(key) < 0.3;
      sweep.Cell(key, lower ? 0 : 0.3, lower ? 0.3 : 1);
      return low * 2 + lower;
    });
    EXPECT_DOUBLE_EQ(law[0], 0.5);
    EXPECT_DOUBLE_EQ(law[1], 0);
    EXPECT_DOUBLE_EQ(law[2], 0.2);
    EXPECT_DOUBLE_EQ(law[3], 0.3);
    // Behind a second number, whose branches are taken before the first one's interval is known whole.
    law = LawOf(sweep, 4, [&](uint64_t run) -> int64_t {
      const int second = face(run, 1);
      const UniformKey key{.seed = run};
      const double first = sweep.Draw(key);
      sweep.Cell(key, first < 0.75 ? 0 : 0.75, first < 0.75 ? 0.75 : 1);
      if (face(run, 2) < 2) return 0;
      const double cut = 0.25 * second;
      sweep.Cell(key, first < cut ? 0 : cut, first < cut ? cut : 1);
      return (first < 0.75) + 2 * (first < cut);
    });
    // A quarter for each cut 0, 1/4, 1/2, 3/4; half of the time nothing more is asked.
    EXPECT_EQ(law, (std::vector<double>{1 / 2. + 1 / 8., 3 / 16., 0, 3 / 16.}));
  }
}

TEST(OutcomeSweep, WhatDoesNotCountIsNotSwept) {
  OutcomeSweep sweep;
  sweep.base_end = 3;
  const std::vector<double> law = LawOf(sweep, 2, [&](uint64_t) -> int64_t {
    for (const UniformKey& key : {UniformKey{.base = 2}, UniformKey{.base = 3}}) {
      const bool low = sweep.Draw(key) < 0.5;
      sweep.Cell(key, low ? 0 : 0.5, low ? 0.5 : 1);
    }
    return sweep.Draw({.base = 2}) < 0.5;
  });
  EXPECT_EQ(law, (std::vector<double>{0.5, 0.5}));
  EXPECT_EQ(sweep.n_runs(), 2);
}

TEST(OutcomeSweep, SomethingElseThatDecidesIsSeen) {
  OutcomeSweep sweep;
  int n_calls = 0;
  const auto law = sweep.Run(1, [&](std::span<int64_t> outcomes) {
    const UniformKey key{.offset = n_calls++};
    const bool low = sweep.Draw(key) < 0.5;
    sweep.Cell(key, low ? 0 : 0.5, low ? 0.5 : 1);
    outcomes[0] = 0;
    return absl::OkStatus();
  });
  EXPECT_EQ(law.status().code(), absl::StatusCode::kInternal) << law.status();
}

TEST(Law, LosslessIsTheTargetsOverSeveralRounds) {
  for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
    for (const Sampling& sampling : {Sampling{.temperature = 0.7f}, Sampling{.temperature = 1.3f, .top_k = 2},
                                     Sampling{.temperature = 1, .top_p = 0.7f}}) {
      for (uint64_t salt : {1, 2, 3}) {
        const LawCheckResult result = Check({.policy = {.rule = "lossless", .verification = verification},
                                             .gamma = 2,
                                             .n_vocab = 3,
                                             .n_tokens = 3,
                                             .sampling = sampling,
                                             .salt = salt});
        EXPECT_TRUE(result.ok()) << result.largest_difference;
        EXPECT_LT(result.tv_to_target, 1e-6);
        EXPECT_NEAR(result.total, 1, 1e-12);
        EXPECT_GT(result.n_runs, 1);
      }
    }
  }
}

TEST(Law, FiveTokensThroughTheEngine) {
  for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
    const LawCheckResult result =
        Check({.policy = {.verification = verification}, .gamma = 2, .n_vocab = 5, .n_tokens = 2});
    EXPECT_TRUE(result.ok()) << result.largest_difference;
    EXPECT_LT(result.tv_to_target, 1e-6);
  }
}

// Laws of one, two and more rounds, of every kind of rule, with a block that ends early and with a token cascade.
std::vector<LawCheck> SomeChecks() {
  const PolicyOptions opt_block{.rule = "opt", .verification = Verification::kBlock};
  return {{.policy = opt_block, .gamma = 2, .n_tokens = 3},
          {.policy = {.rule = "lossless", .bonus = Bonus::kPi}, .gamma = 4, .n_vocab = 2, .n_tokens = 3},
          {.policy = {.rule = "typical"}, .gamma = 3, .n_vocab = 2, .n_tokens = 4},
          {.policy = {.rule = "token_v3", .verification = Verification::kBlock}, .gamma = 2},
          {.policy = {.rule = "bild"}, .gamma = 2, .prompt = {1, 0, 0, 1, 1, 1}},
          {.policy = {.rule = "chow"}, .sampling = {.temperature = 1.2f}, .token_cascade = true},
          {.policy = opt_block, .gamma = 4, .n_vocab = 2, .n_tokens = 8, .sampling = {}}};
}

// Nothing is different: not a probability's last bit, and not the number of runs.
void ExpectSame(const LawCheckResult& result, const LawCheckResult& expected, const std::string& what) {
  EXPECT_EQ(result.n_runs, expected.n_runs) << what;
  EXPECT_EQ(result.law, expected.law) << what;
  EXPECT_EQ(result.largest_difference, expected.largest_difference) << what;
  EXPECT_EQ(result.tv_to_target, expected.tv_to_target) << what;
}

// The tables of numbers, by which steps of a device are driven, give what the sweep itself gives; and many runs at a time,
// in all stages of a sequence side by side, are the runs that go one by one.
TEST(Law, ThroughTablesAndInAnyCompany) {
  for (LawCheck check : SomeChecks()) {
    const LawCheckResult alone = Check(check);
    EXPECT_TRUE(alone.ok()) << check.policy.rule << ": " << alone.largest_difference;
    EXPECT_EQ(alone.law.size(), std::pow(check.n_vocab, check.n_tokens));
    for (const bool through_table : {false, true}) {
      for (const int32_t n_at_once : {1, 2, 7, 64}) {
        check.through_table = through_table;
        check.n_at_once = n_at_once;
        ExpectSame(Check(check), alone,
                   check.policy.rule + " " + std::to_string(n_at_once) + (through_table ? " in tables" : ""));
      }
    }
  }
}

// There the steps of the slots do run at the same time.
TEST(Law, InAnyCompanyOnACudaDevice) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (LawCheck check : SomeChecks()) {
    check.device = kCudaDevice;
    check.n_at_once = 3;
    const LawCheckResult few = Check(check);
    check.n_at_once = 32;
    const LawCheckResult many = Check(check);
    ExpectSame(many, few, check.policy.rule);
    EXPECT_TRUE(many.ok()) << check.policy.rule << ": " << many.largest_difference;
  }
}

// The same for a token cascade, whose test is a step of its own.
TEST(Law, OfATokenCascadeOnACudaDevice) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (const RuleEntry& rule : Rules()) {
    if (!rule.info->draft_only) continue;
    for (const auto& params : CheckSettings(*rule.info)) {
      for (const float temperature : {0.7f, 0.f}) {
        const LawCheckResult result = Check({.policy = {.rule = rule.info->name, .params = params},
                                             .n_tokens = temperature == 0 ? 6 : 3,
                                             .sampling = {.temperature = temperature},
                                             .token_cascade = true,
                                             .n_at_once = 16,
                                             .device = kCudaDevice});
        EXPECT_TRUE(result.ok()) << rule.info->name << " T " << temperature << ": "
                                 << result.largest_difference;
        EXPECT_NEAR(result.total, 1, 1e-12);
      }
    }
  }
}

TEST(Law, OnACudaDevice) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
    for (const char* rule : {"lossless", "opt", "token_v3", "mentored"}) {
      const LawCheckResult result = Check({.policy = {.rule = rule, .verification = verification},
                                           .gamma = 2,
                                           .n_vocab = 3,
                                           .n_tokens = 2,
                                           .n_at_once = 16,
                                           .device = kCudaDevice});
      EXPECT_TRUE(result.ok()) << rule << " " << Name(verification) << ": " << result.largest_difference;
      EXPECT_NEAR(result.total, 1, 1e-12);
    }
  }
}

// Every built-in rule at every setting worth checking, at gamma 2; `tandem rules check` goes through the other lengths.
TEST(Law, EveryRuleIsWhatItClaims) {
  for (const RuleEntry& rule : Rules()) {
    for (const auto& params : CheckSettings(*rule.info)) {
      for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
        for (const Bonus bonus : {Bonus::kP, Bonus::kPi}) {
          for (const float temperature : {0.7f, 0.f}) {
            const LawCheck check{.policy = {rule.info->name, params, verification, bonus},
                                 .gamma = 2,
                                 .n_vocab = 3,
                                 .n_tokens = temperature == 0 ? 6 : 2,
                                 .sampling = {.temperature = temperature}};
            if (!Policy::Create(check.policy, true).ok()) continue;
            const LawCheckResult result = Check(check);
            std::string setting;
            for (const auto& [name, value] : params) setting += " " + name + "=" + std::to_string(value);
            EXPECT_TRUE(result.ok()) << rule.info->name << setting << " " << Name(verification) << " bonus "
                                     << Name(bonus) << " T " << temperature << ": "
                                     << result.largest_difference;
            EXPECT_NEAR(result.total, 1, 1e-12);
          }
        }
      }
    }
  }
}

// Faults. Each is a mistake that somebody has made (reference: rules.md, section 6).

TEST(Law, KeysByAbsolutePositionAreSeen) {
  // In block verification the number kept depends on coins of later positions, which the next round would reuse.
  LawCheck check{.policy = {.verification = Verification::kBlock}, .gamma = 3, .n_vocab = 2, .n_tokens = 4};
  check.rekey = [](UniformKey key) {
    key.offset += key.base;
    key.base = 0;
    return key;
  };
  EXPECT_GT(Check(check).largest_difference, 1e-3);
}

TEST(Law, AUniformUsedTwiceIsSeen) {
  LawCheck check{.gamma = 1};
  check.rekey = [](UniformKey key) {
    if (key.purpose == Purpose::kReplace) key.purpose = Purpose::kKeep;
    return key;
  };
  EXPECT_GT(Check(check).largest_difference, 1e-3);
  check.rekey = [](UniformKey key) {
    key.offset = 0;
    return key;
  };
  check.gamma = 2;
  EXPECT_GT(Check(check).largest_difference, 1e-3);
}

TEST(Law, AQOfAnotherTemperatureIsSeen) {
  RuleEntry rule = *FindRule("lossless");
  rule.value = [](const float*, const Row& row, const Solved&) { return row.p.x * row.q.x / row.q1.x; };
  const LawCheckResult result = Check({.gamma = 1, .rule = &rule});
  EXPECT_GT(result.largest_difference, 1e-3);
}

TEST(Law, ASwappedResidualIsSeen) {
  RuleEntry rule = *FindRule("lossless");
  rule.weights = [](const float*, const Row&, const Solved&, const Tokens& tokens, int32_t begin, int32_t end,
                    double factor, float* out) {
    for (int32_t v = begin; v < end; ++v) {
      out[v - begin] = std::max(0.f, tokens.q[v] - static_cast<float>(factor) * tokens.p[v]);
    }
    return true;
  };
  EXPECT_GT(Check({.gamma = 1, .rule = &rule}).largest_difference, 1e-3);
}

}  // namespace
}  // namespace tandem
