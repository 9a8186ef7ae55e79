// What a bench says, against figures worked out by hand: 1 repetition of 10 ms, 1 of 20 ms for the target
// alone.
#include "runtime/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kMs = 1'000'000;

// `n_rounds` rounds of `n_tokens` tokens, `round_ms` apart, from 0 on; all but one token of a round are kept.
RequestResult Output(const std::string& id, const std::string& category, int n_rounds, int n_tokens,
                     int64_t round_ms) {
  RequestResult result;
  result.request.id = id;
  result.request.category = category;
  result.request.prompt = {1};
  for (int r = 0; r < n_rounds; ++r) {
    SlotRecord record;
    record.n_proposed = record.n_keep = record.n_judged = n_tokens - 1;
    result.counts.AddRound(record, n_tokens);
    for (int t = 0; t < n_tokens; ++t) {
      result.token_ids.push_back(100 + static_cast<int>(result.token_ids.size()));
      result.token_ns.push_back((r + 1) * round_ms * kMs);
    }
  }
  return result;
}

PhaseTimes Times(int64_t draft_ms, int64_t verify_ms) {
  PhaseTimes times;
  times.ns[static_cast<int>(Phase::kDraft)] = draft_ms * kMs;
  times.ns[static_cast<int>(Phase::kVerify)] = verify_ms * kMs;
  return times;
}

// The target alone: 12 rounds of 1 token, 1 ms (then 2 ms) each. The pair: 4 rounds of 3 tokens, 2 ms each.
BenchResult Result() {
  BenchResult result;
  for (const int64_t ms : {1, 2}) {
    result.target.push_back(MeasurePass({Output("a", "x", 12, 1, ms)}, Times(0, 12 * ms)));
    result.pair.push_back(MeasurePass({Output("a", "x", 4, 3, 2)}, Times(2, 6)));
  }
  return result;
}

TEST(BenchReport, SpeedupsOfRepetitions) {
  // Decoding: 1 then 0.5 tokens per ms alone; 9 tokens in 6 ms as a pair.
  EXPECT_THAT(Speedups(Result(), ""), ElementsAre(DoubleEq(1.5), DoubleEq(3.0)));
  EXPECT_THAT(Speedups(Result(), "x"), ElementsAre(DoubleEq(1.5), DoubleEq(3.0)));
}

TEST(BenchReport, Text) {
  BenchResult result = Result();
  const std::vector<RequestResult> outputs = {Output("a", "x", 12, 1, 1)};
  result.Compare(outputs, outputs);
  const ReportHeader header = {.target = "big", .draft = "small", .rule = "lossless", .guarantee = "exact"};
  const std::string text = BenchText(header, result, false);
  EXPECT_THAT(text,
              HasSubstr("  speedup     2.250 x in decoding, sd 1.061, 1.500 to 3.000 in 2 repetitions\n"));
  // Alone: 22 tokens after the first output in 33 ms; 36 ms of rounds for 24 tokens.
  EXPECT_THAT(text, HasSubstr("target alone         667      1.50        -    1.500"));
  EXPECT_THAT(text, HasSubstr("pair               1,500     0.667    0.167    0.500"));
  // A plain step takes 36 ms / 24; a round of the pair 2 ms.
  EXPECT_THAT(text,
              HasSubstr("a round of the pair yields 3.00 tokens and costs 1.33 plain steps of the target\n"
                        "              (draft 0.333, verify 1.00, the rest 0)\n"));
  EXPECT_THAT(text, HasSubstr("  outputs     equal, token by token: 1 of 1 (greedy)\n"));
  EXPECT_THAT(text, Not(HasSubstr("slower")));
}

// 4 rounds of 2 ms; in each the draft's forwards take 0.5 ms, 0.3 of them reading, and the target's 1.25, 1.0 of them reading.
TEST(BenchReport, RoundAndWhatLimitsIt) {
  BenchResult result = Result();
  PhaseTimes times = Times(2, 5);
  times.ns[static_cast<int>(Phase::kRule)] = kMs / 2;
  times.launch_ns = kMs / 8;
  constexpr double kRate = 1e9;  // a megabyte a millisecond
  const RoundReads reads = {.n_rounds = 4, .draft_bytes = 1.2e6, .verify_bytes = 4e6};
  result.target.resize(1);
  result.pair = {MeasurePass({Output("a", "x", 4, 3, 2)}, times, reads)};
  EXPECT_THAT(BenchText({.draft = "small"}, result, false), Not(HasSubstr("floor")));
  result.read_rate = kRate;
  const std::string text = BenchText({.draft = "small"}, result, false);
  EXPECT_THAT(
      text,
      HasSubstr(
          "  round       2.00 ms, 1.54 x its floor of 1.30 ms: weights and cache, read at 1.00 GB/s\n"));
  EXPECT_THAT(text, HasSubstr("  limited by  bandwidth: 65.0 % of a round is reading weights and cache; "
                              "beside that verify 12.5 %, "
                              "draft 10.0 %, rule 6.2 %, host 4.7 %, launch 1.6 %\n"));
  const OrderedJson json = BenchJson(*ParseConfig("target: {model: /m}", "/x.yaml", {}), {}, result)["round"];
  EXPECT_EQ(json["ms"], 2.0);
  EXPECT_EQ(json["floor_ms"], 1.3);
  EXPECT_EQ(json["over_floor"], 1.53846);
  EXPECT_EQ(json["limited_by"], "bandwidth");
  EXPECT_EQ(json["share"]["verify"], 0.125);
  EXPECT_EQ(json["share"]["launch"], 0.015625);
  result.is_cascade = true;
  EXPECT_THAT(BenchText({.draft = "small"}, result, false), Not(HasSubstr("limited by")));
}

TEST(BenchReport, SaysSoWhenSpeculationIsSlower) {
  BenchResult result;
  result.target.push_back(MeasurePass({Output("a", "x", 12, 1, 1)}, Times(0, 12)));
  result.pair.push_back(MeasurePass({Output("a", "x", 4, 3, 4)}, Times(10, 6)));
  EXPECT_THAT(BenchText({.draft = "small"}, result, false), HasSubstr("): speculation is slower here\n"));
}

TEST(BenchReport, FirstDifference) {
  std::vector<RequestResult> alone = {Output("a", "", 4, 1, 1), Output("b", "", 4, 1, 1),
                                      Output("c", "", 4, 1, 1)};
  std::vector<RequestResult> pair = alone;
  pair[1].token_ids[2] = 7;
  pair[2].token_ids.pop_back();
  BenchResult result = Result();
  result.Compare(alone, pair);
  EXPECT_EQ(result.n_compared, 3);
  EXPECT_EQ(result.n_different, 2);
  const std::string text = BenchText({.draft = "small", .guarantee = "lossy"}, result, false);
  EXPECT_THAT(
      text,
      HasSubstr("2 of 3 differ (greedy); first in b at token 2: 102 alone, 7 from the pair; the rule may "
                "do that\n"));
  BenchResult shorter = Result();
  shorter.Compare({alone[2]}, {pair[2]});
  EXPECT_EQ(shorter.first_difference->position, 3);
  EXPECT_EQ(shorter.first_difference->pair_token, -1);
}

TEST(BenchReport, CategoriesInTextAndJson) {
  BenchResult result;
  result.target.push_back(
      MeasurePass({Output("a", "x", 12, 1, 1), Output("b", "y", 12, 1, 1)}, Times(0, 24)));
  result.pair.push_back(MeasurePass({Output("a", "x", 4, 3, 2), Output("b", "y", 12, 1, 1)}, Times(2, 18)));
  const std::string text = BenchText({.draft = "small"}, result, false);
  EXPECT_THAT(text, HasSubstr("x                        1          3.00     100.0 %   1.500 x\n"));
  EXPECT_THAT(text, HasSubstr("y                        1          1.00           -   1.000 x\n"));
  const OrderedJson json = BenchJson(*ParseConfig("target: {model: /m}", "/x.yaml", {}), {}, result);
  EXPECT_EQ(json["categories"][0]["category"], "x");
  EXPECT_EQ(json["categories"][0]["speedup"]["mean"], 1.5);
  EXPECT_EQ(json["repetitions"].size(), 1u);
  EXPECT_TRUE(json["outputs"]["first_difference"].is_null());
}

}  // namespace
}  // namespace tandem
