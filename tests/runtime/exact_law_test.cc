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

TEST(OutcomeSweep, AddsUpAKnownLaw) {
  // Two dice of which the second is thrown only if the first shows under 2, and a key used twice.
  OutcomeSweep sweep(6);
  const auto face = [&](int32_t offset) {
    const UniformKey key{.offset = offset};
    const int value = static_cast<int>(sweep.Draw(key) * 4);
    sweep.Cell(key, value / 4.0, (value + 1) / 4.0);
    return value;
  };
  std::vector<double> law = sweep.Run([&]() -> int64_t { return face(0) < 2 ? face(1) : 4 + face(0) % 2; });
  EXPECT_EQ(law, (std::vector<double>{1 / 8., 1 / 8., 1 / 8., 1 / 8., 1 / 4., 1 / 4.}));
  EXPECT_EQ(sweep.n_runs(), 2 * 4 + 2);
  // The same number again: the second decision is not independent of the first.
  law = sweep.Run([&]() -> int64_t {
    const UniformKey key{};
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

// The table of numbers, by which steps of a device are driven, gives what the sweep itself gives.
TEST(Law, ThroughATable) {
  LawCheck check{.policy = {.rule = "opt", .verification = Verification::kBlock}, .gamma = 2, .n_tokens = 3};
  const LawCheckResult direct = Check(check);
  check.through_table = true;
  const LawCheckResult result = Check(check);
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.n_runs, direct.n_runs);
  EXPECT_EQ(result.largest_difference, direct.largest_difference);
  EXPECT_EQ(result.tv_to_target, direct.tv_to_target);
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
