// ctest-label: concurrent
#include "runtime/trace.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

// Of a run of several sequences, in each way of running lanes.
class TraceOfARun : public testing::TestWithParam<StreamMode> {
 protected:
  void SetUp() override {
    PairSpec pair;
    pair.target.model = HashTarget();
    pair.draft = ModelSpec{.model = HashDraft()};
    auto engine = MakeEngine({.n_slots = 2, .gamma = 3, .streams = GetParam(), .trace = &trace_},
                             std::move(pair), MakePolicy());
    std::vector<Request> requests(3);
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].prompt = SomePrompt(4 + static_cast<int32_t>(i), i);
      requests[i].max_new_tokens = 12;
    }
    results_ = RunAll(*engine, requests);
    json_ = trace_.Json("cpu");
  }

  StepTrace trace_;
  std::vector<RequestResult> results_;
  OrderedJson json_;
};
INSTANTIATE_TEST_SUITE_P(, TraceOfARun,
                         testing::Values(StreamMode::kInline, StreamMode::kThreaded,
                                         StreamMode::kAdversarial));

TEST_P(TraceOfARun, StepsOfALaneFollowEachOther) {
  std::map<int, double> end;
  std::map<std::string, int> names;
  for (const auto& event : json_["traceEvents"]) {
    if (event["ph"] != "X") continue;
    const double begin = event["ts"], took = event["dur"];
    EXPECT_GE(took, 0);
    // Nanoseconds as fractions of a microsecond: sums round.
    EXPECT_GE(begin, end[event["tid"]] - 1e-3);
    end[event["tid"]] = begin + took;
    ++names[event["name"]];
  }
  EXPECT_EQ(end.size(), 2u);  // both lanes
  for (const char* name : {"plan", "law", "sample", "judge", "settle", "publish"})
    EXPECT_GT(names[name], 0) << name;
  EXPECT_EQ(names["judge"], names["settle"]);
}

TEST_P(TraceOfARun, ArrowsLeadFromProposalsToVerifications) {
  std::map<int64_t, double> sent;
  int n = 0;
  for (const auto& event : json_["traceEvents"]) {
    if (event["ph"] == "s") {
      EXPECT_EQ(event["tid"], 1);
      sent[event["id"]] = event["ts"];
    } else if (event["ph"] == "f") {
      ++n;
      EXPECT_EQ(event["tid"], 0);
      ASSERT_TRUE(sent.contains(event["id"]));
      EXPECT_GE(static_cast<double>(event["ts"]), sent[event["id"]]);
    }
  }
  EXPECT_GT(n, 0);
  EXPECT_EQ(static_cast<size_t>(n), sent.size());
}

// The marks tell what the results tell.
TEST_P(TraceOfARun, MarksTellWhatRoundsKept) {
  int64_t n_rounds = 0, n_back = 0, n_emitted = 0;
  for (const auto& event : json_["traceEvents"]) {
    if (event["ph"] != "i") continue;
    ++n_rounds;
    const bool back = event["cat"] == "rollback";
    n_back += back;
    EXPECT_EQ(static_cast<std::string>(event["name"]).rfind("rollback", 0) == 0, back);
    n_emitted += static_cast<int64_t>(event["args"]["emitted"]);
  }
  int64_t tokens = 0;
  for (const RequestResult& result : results_) tokens += static_cast<int64_t>(result.token_ids.size());
  EXPECT_EQ(n_emitted, tokens);
  EXPECT_GE(n_rounds, static_cast<int64_t>(results_.size()));
  EXPECT_GT(n_back, 0);  // the two models have nothing in common
}

}  // namespace
}  // namespace tandem
