// Counts, metrics and reports, against figures worked out by hand from a few rounds.
#include "runtime/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "runtime/metrics_help.h"
#include "runtime/report_json.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SlotRecord Round(int n_proposed, int n_keep, int n_judged, uint32_t deferred = 0) {
  SlotRecord record;
  record.ran = true;
  record.n_proposed = n_proposed;
  record.n_keep = n_keep;
  record.n_judged = n_judged;
  record.n_emit = n_keep + 1;
  record.deferred = deferred;
  return record;
}

TEST(SpeculationCounts, CountsRounds) {
  SpeculationCounts counts;
  counts.AddRound(Round(3, 3, 3), 4);        // all kept, and a bonus
  counts.AddRound(Round(3, 1, 2, 0b10), 2);  // the second one replaced
  counts.AddRound(Round(0, 0, 0), 1);        // nothing proposed
  counts.AddRound(Round(3, 0, 1, 0b1), 1);   // the first one replaced
  EXPECT_EQ(counts.num_drafts, 3);
  EXPECT_EQ(counts.num_draft_tokens, 9);
  EXPECT_EQ(counts.num_accepted_tokens, 4);
  EXPECT_EQ(counts.target_calls, 4);
  EXPECT_EQ(counts.num_emitted_tokens, 8);
  EXPECT_EQ(counts.num_judged, 6);
  EXPECT_EQ(counts.num_deferred, 2);
  EXPECT_THAT(counts.drafted_per_pos, ElementsAre(3, 3, 3));
  EXPECT_THAT(counts.reached_per_pos, ElementsAre(3, 2, 1));
  EXPECT_THAT(counts.accepted_per_pos, ElementsAre(2, 1, 1));
  EXPECT_THAT(counts.acceptance_histogram, ElementsAre(1, 1, 0, 1));
}

TEST(SpeculationCounts, WhatFollowsTheEndCountsNowhere) {
  SpeculationCounts counts;
  counts.AddRound(Round(5, 4, 5, 0b11100), 2);  // the second kept token ended the output
  EXPECT_EQ(counts.num_draft_tokens, 2);
  EXPECT_EQ(counts.num_accepted_tokens, 2);
  EXPECT_EQ(counts.num_emitted_tokens, 2);
  EXPECT_EQ(counts.num_judged, 2);
  EXPECT_EQ(counts.num_deferred, 0);
  EXPECT_THAT(counts.acceptance_histogram, ElementsAre(0, 0, 1));
  counts.AddRound(Round(5, 4, 5, 0b10000), 5);  // ends with the added token: all of the round counts
  EXPECT_EQ(counts.num_draft_tokens, 7);
  EXPECT_EQ(counts.num_deferred, 1);
  EXPECT_EQ(counts.num_accepted_tokens, 6);
}

TEST(SpeculationCounts, AddJoinsDifferentGammas) {
  SpeculationCounts a, b;
  a.AddRound(Round(1, 1, 1), 2);
  b.AddRound(Round(3, 2, 3), 3);
  a.Add(b);
  EXPECT_THAT(a.drafted_per_pos, ElementsAre(2, 1, 1));
  EXPECT_THAT(a.accepted_per_pos, ElementsAre(2, 1, 0));
  EXPECT_THAT(a.reached_per_pos, ElementsAre(2, 1, 1));
  EXPECT_THAT(a.acceptance_histogram, ElementsAre(0, 1, 1));
  EXPECT_EQ(a.num_emitted_tokens, 5);
}

TEST(SpeculationCounts, CountsTheRoundsOfATokenCascade) {
  const auto round = [](int n_keep, bool target_added, int n_judged) {
    SlotRecord record;
    record.n_proposed = record.n_keep = n_keep;
    record.target_added = target_added;
    record.n_judged = n_judged;
    record.deferred = target_added ? 1 : 0;
    record.n_emit = n_keep + (target_added ? 1 : 0);
    return record;
  };
  SpeculationCounts counts;
  counts.AddRound(round(1, false, 1), 1);  // the draft's token
  counts.AddRound(round(0, false, 0), 0);  // the target catches up
  counts.AddRound(round(0, true, 1), 1);   // and writes
  counts.AddRound(round(1, false, 1), 1);
  EXPECT_EQ(counts.num_emitted_tokens, 3);
  EXPECT_EQ(counts.num_tokens_by_draft, 2);
  EXPECT_EQ(counts.target_calls, 1);
  EXPECT_EQ(counts.draft_calls, 3);
  EXPECT_EQ(counts.num_judged, 3);
  EXPECT_EQ(counts.num_deferred, 1);
  EXPECT_EQ(counts.num_drafts, 0);
  EXPECT_EQ(counts.num_draft_tokens, 0);
}

constexpr int64_t kMs = 1'000'000;

// Admitted at 10 ms; outputs at 30 ms (2 tokens), 36 ms (3 tokens) and 40 ms (1 token).
RequestResult Result(const std::string& id, int64_t shift_ms = 0) {
  RequestResult result;
  result.request.id = id;
  result.request.prompt = {1, 2, 3};
  result.token_ids = {4, 5, 6, 7, 8, 9};
  result.origin = {Origin::kDraft, Origin::kReplaced, Origin::kDraft,
                   Origin::kDraft, Origin::kBonus,    Origin::kTarget};
  result.text = "six";
  result.finish = FinishReason::kLength;
  result.counts.AddRound(Round(2, 1, 2, 0b10), 2);
  result.counts.AddRound(Round(2, 2, 2), 3);
  result.counts.AddRound(Round(0, 0, 0), 1);
  result.submitted_ns = 4 * kMs + shift_ms * kMs;
  result.admitted_ns = 10 * kMs + shift_ms * kMs;
  for (const int64_t ms : {30, 30, 36, 36, 36, 40}) result.token_ns.push_back((ms + shift_ms) * kMs);
  result.first_token_ns = result.token_ns.front();
  result.finished_ns = result.token_ns.back();
  return result;
}

TEST(Metrics, OfOneRequest) {
  const Measured m = Measure(Result("a"));
  EXPECT_DOUBLE_EQ(NumberOf("queue_time_ms", m), 6);
  EXPECT_DOUBLE_EQ(NumberOf("time_to_first_token_ms", m), 20);
  // Gaps: 6 ms over 3 tokens, 4 ms over 1 token.
  EXPECT_DOUBLE_EQ(NumberOf("inter_token_latency_ms.mean", m), 10.0 / 4);
  EXPECT_DOUBLE_EQ(NumberOf("inter_token_latency_ms.p50", m), 2);
  EXPECT_DOUBLE_EQ(NumberOf("inter_token_latency_ms.p99", m), 4);
  EXPECT_DOUBLE_EQ(NumberOf("tokens_per_second.decode", m), 4 / 0.010);
  EXPECT_DOUBLE_EQ(NumberOf("tokens_per_second.end_to_end", m), 6 / 0.036);
  EXPECT_DOUBLE_EQ(NumberOf("mean_acceptance_length", m), 2);
  EXPECT_DOUBLE_EQ(NumberOf("draft_acceptance_rate", m), 0.75);
  EXPECT_DOUBLE_EQ(NumberOf("deferral_rate", m), 0.25);
  EXPECT_THAT(std::get<std::vector<double>>(ValueOf("conditional_acceptance_by_position", m)),
              ElementsAre(1, 0.5));
  EXPECT_THAT(std::get<std::vector<int64_t>>(ValueOf("num_accepted_tokens_per_pos", m)), ElementsAre(2, 1));
}

TEST(Metrics, OfARun) {
  // The second decodes from 35 to 45 ms: together 30 to 45 ms.
  const RequestResult a = Result("a"), b = Result("b", 5);
  const RequestResult* both[] = {&a, &b};
  PhaseTimes times;
  times.ns = {2 * kMs, 8 * kMs, 16 * kMs, 3 * kMs,
              1 * kMs};  // prefill, draft, verify, rule, settle: 30 of 41 ms
  const Measured m = Measure(both, times);
  EXPECT_DOUBLE_EQ(NumberOf("tokens_per_second.decode", m), 8 / 0.015);
  EXPECT_DOUBLE_EQ(NumberOf("tokens_per_second.end_to_end", m), 12 / 0.041);
  // Served from 10 to 45 ms, 30 ms each.
  EXPECT_DOUBLE_EQ(NumberOf("tokens_per_second.serving", m), 12 / 0.035);
  EXPECT_DOUBLE_EQ(NumberOf("request_latency_ms", m), 30);
  EXPECT_DOUBLE_EQ(NumberOf("draft_token_share", m), 0.5);
  EXPECT_DOUBLE_EQ(NumberOf("time_to_first_token_ms", m), 20);
  EXPECT_NEAR(NumberOf("time_ms.idle", m), 11, 1e-9);
  EXPECT_NEAR(NumberOf("draft_overhead", m), 8.0 / 39, 1e-9);
  EXPECT_EQ(NumberOf("num_requests", m), 2);
  EXPECT_EQ(NumberOf("num_emitted_tokens", m), 12);
}

TEST(Metrics, GapsBetweenBurstsOfDecodingDoNotCount) {
  const RequestResult a = Result("a"), b = Result("b", 100);
  const RequestResult* both[] = {&a, &b};
  EXPECT_DOUBLE_EQ(NumberOf("tokens_per_second.decode", Measure(both, std::nullopt)), 8 / 0.020);
}

TEST(Metrics, UndefinedIsNull) {
  RequestResult empty;
  empty.request.prompt = {1};
  empty.finish = FinishReason::kCancelled;
  const Measured m = Measure(empty);
  EXPECT_TRUE(std::isnan(NumberOf("draft_acceptance_rate", m)));
  EXPECT_TRUE(std::isnan(NumberOf("tokens_per_second.decode", m)));
  EXPECT_TRUE(MetricsJson(m, true)["inter_token_latency_ms"]["p50"].is_null());
}

TEST(Spread, OfValues) {
  const double values[] = {1, 2, 4, 5};
  const Spread spread = SpreadOf(values);
  EXPECT_DOUBLE_EQ(spread.mean, 3);
  EXPECT_DOUBLE_EQ(spread.sd, std::sqrt(10.0 / 3));
  EXPECT_DOUBLE_EQ(spread.min, 1);
  EXPECT_DOUBLE_EQ(spread.max, 5);
  EXPECT_DOUBLE_EQ(SpreadOf(std::span(values, 1)).sd, 0);
}

TEST(Format, Numbers) {
  EXPECT_EQ(FormatNumber(0), "0");
  EXPECT_EQ(FormatNumber(1.234), "1.23");
  EXPECT_EQ(FormatNumber(9.996), "10.0");
  EXPECT_EQ(FormatNumber(12.34), "12.3");
  EXPECT_EQ(FormatNumber(99.96), "100");
  EXPECT_EQ(FormatNumber(123.4), "123");
  EXPECT_EQ(FormatNumber(999.6), "1,000");
  EXPECT_EQ(FormatNumber(1234567), "1,234,567");
  EXPECT_EQ(FormatNumber(0.01234), "0.0123");
  EXPECT_EQ(FormatNumber(-2.5), "-2.50");
  EXPECT_EQ(FormatNumber(std::nan("")), "-");
  EXPECT_EQ(FormatCount(-1000), "-1,000");
  EXPECT_EQ(FormatCount(-100), "-100");
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(int64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(FormatParameters(25'200'000), "25.2 M");
  EXPECT_EQ(FormatMs(1234), "1.23 s");
  EXPECT_EQ(FormatPercent(0.7834), "78.3 %");
  EXPECT_EQ(FormatPercent(std::nan("")), "-");
}

ReportHeader Header() {
  return {.target = "big, 25.2 M parameters, bf16",
          .draft = "small, 2.50 M parameters, bf16",
          .rule = "lossless, token verification, gamma 2",
          .guarantee = "exact",
          .guarantee_text = "exact: the output law is the target's",
          .bonus = "p",
          .dtype = "fp32",
          .cpu = "A CPU",
          .n_threads = 2};
}

TEST(Report, Text) {
  const RequestResult a = Result("a"), b = Result("b", 5);
  const RequestResult* both[] = {&a, &b};
  PhaseTimes times;
  times.ns = {2 * kMs, 8 * kMs, 16 * kMs, 3 * kMs, 1 * kMs};
  EXPECT_EQ(TextReport(Header(), Measure(both, times), false),
            "  target      big, 25.2 M parameters, bf16\n"
            "  draft       small, 2.50 M parameters, bf16\n"
            "  rule        lossless, token verification, gamma 2\n"
            "  guarantee   exact: the output law is the target's; bonus token from p\n"
            "  machine     A CPU, 2 threads; products in fp32\n"
            "  output      12 tokens from 6 target calls; 2 requests, 6 prompt tokens\n"
            "  acceptance  2.00 tokens per target call; 75.0 % of 8 draft tokens kept\n"
            "              by position  100 %   50 %  (given that all before it were kept)\n"
            "              kept 0 to 2    0 %   50 %   50 %  of the blocks\n"
            "  deferral    25.0 % of judged positions handed to the target\n"
            "  latency     first token after 20.0 ms; then 2.50 ms per token (median 2.00, p99 4.00)\n"
            "  speed       533 tokens/s decoding, 293 end to end\n"
            "  time        41.0 ms: prefill 4.9 %, draft 19.5 %, verify 39.0 %, rule 7.3 %, settle 2.4 %, "
            "idle 26.8 %\n");
}

TEST(Report, SaysHowOftenPagesWereWanting) {
  RequestResult a = Result("a"), b = Result("b", 5);
  const RequestResult* both[] = {&a, &b};
  EXPECT_THAT(TextReport(Header(), Measure(both, PhaseTimes()), false),
              ::testing::Not(HasSubstr("preemption")));
  a.counts.num_preemptions = 2;
  b.counts.num_preemptions = 1;
  const Measured m = Measure(both, PhaseTimes());
  EXPECT_EQ(NumberOf("num_preemptions", m), 3);
  EXPECT_EQ(MetricsJson(Measure(a), false)["num_preemptions"], 2);
  EXPECT_THAT(TextReport(Header(), m, false),
              HasSubstr("  cache       3 preemptions for want of pages, after which a sequence is computed "
                        "again; raise cache.tokens\n"));
}

TEST(Report, WithoutADraftSaysNothingOfAcceptance) {
  RequestResult plain = Result("a");
  plain.counts = {};
  for (int i = 0; i < 6; ++i) plain.counts.AddRound(Round(0, 0, 0), 1);
  ReportHeader header = Header();
  header.draft = "";
  const RequestResult* one[] = {&plain};
  const std::string text = TextReport(header, Measure(one, PhaseTimes()), false);
  EXPECT_THAT(text, ::testing::Not(HasSubstr("acceptance")));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("guarantee")));
  EXPECT_THAT(text, HasSubstr("6 tokens from 6 target calls"));
}

void LeafNames(const OrderedJson& json, const std::string& prefix, std::set<std::string>* names) {
  for (const auto& [key, value] : json.items()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (value.is_object()) {
      LeafNames(value, name, names);
    } else {
      names->insert(name);
    }
  }
}

TEST(Json, EveryMetricIsInTheHelp) {
  const RequestResult a = Result("a");
  const RequestResult* one[] = {&a};
  std::set<std::string> names;
  LeafNames(MetricsJson(Measure(one, PhaseTimes()), true), "", &names);
  EXPECT_GT(names.size(), 20u);
  const std::string help = MetricsHelp();
  for (const std::string& name : names) EXPECT_THAT(help, HasSubstr("\n  " + name + " ")) << name;
  for (const char* known :
       {"num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos",
        "draft_acceptance_rate", "mean_acceptance_length", "acceptance_histogram"}) {
    EXPECT_TRUE(names.contains(known)) << known;
  }
}

TEST(Json, Shape) {
  Config config = *ParseConfig(
      "target: {model: /m}\nrule: {name: opt, alpha: 0.5}\nsampling: {temperature: 0.7}", "/x.yaml", {});
  const RequestResult a = Result("a");
  const RequestResult* one[] = {&a};
  const OrderedJson json = RunJson(config, Header(), one, Measure(one, PhaseTimes()), true);
  EXPECT_EQ(json["config"]["target"]["model"], "/m");
  EXPECT_EQ(json["config"]["rule"]["alpha"], 0.5);
  EXPECT_EQ(json["config"]["sampling"]["temperature"], 0.7);
  EXPECT_TRUE(json["config"]["draft"].is_null());
  ASSERT_EQ(json["requests"].size(), 1u);
  const OrderedJson& request = json["requests"][0];
  EXPECT_EQ(request["id"], "a");
  EXPECT_EQ(request["prompt_token_ids"], OrderedJson({1, 2, 3}));
  EXPECT_EQ(request["token_ids"], OrderedJson({4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(request["text"], "six");
  EXPECT_EQ(request["finish_reason"], "length");
  EXPECT_EQ(request["origin"], OrderedJson({"draft", "replaced", "draft", "draft", "bonus", "target"}));
  EXPECT_EQ(request["metrics"]["target_calls"], 3);
  EXPECT_FALSE(request["metrics"].contains("time_ms"));
  EXPECT_TRUE(json["total"].contains("time_ms"));
  EXPECT_TRUE(RequestJson(a, false)["text"].is_null());
  EXPECT_EQ(OrderedJson::parse(PrettyJson(json)), json);
}

TEST(Json, IsWrittenWholeOrNotAtAll) {
  const std::string folder = testing::TempDir() + "/report_test";
  std::filesystem::create_directory(folder);
  const std::string path = folder + "/out.json";
  std::filesystem::remove(path);
  EXPECT_TRUE(WriteJson({{"a", 1}}, path).ok());
  std::ifstream stream(path);
  std::stringstream text;
  text << stream.rdbuf();
  EXPECT_EQ(text.str(), "{\n  \"a\": 1\n}\n");
  EXPECT_THAT(std::string(WriteJson({{"a", 1}}, folder + "/none/out.json").message()),
              HasSubstr("/none/out.json: cannot write: No such file or directory"));
  EXPECT_FALSE(WriteJson({{"a", 1}}, folder).ok());  // a folder cannot be replaced
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) n += entry.is_regular_file();
  EXPECT_EQ(n, 1);
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
}

}  // namespace
}  // namespace tandem
