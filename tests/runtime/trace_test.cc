// ctest-label: concurrent
#include "runtime/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

constexpr int32_t kGamma = 3;

// Of a run of several sequences, in each way of running lanes.
struct Way {
  const char* name;
  Device device;
  StreamMode streams = StreamMode::kInline;
  bool check_steps = false;

  // The trace tells of phases, not of steps.
  bool whole_phases() const { return device.is_cuda() && !check_steps; }
};

class TraceOfARun : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    const Way& way = GetParam();
    TANDEM_SKIP_WITHOUT(way.device);
    PairSpec pair;
    pair.target.model = HashTarget(way.device);
    pair.draft = ModelSpec{.model = HashDraft(way.device)};
    auto engine = MakeEngine({.n_slots = 2,
                              .gamma = kGamma,
                              .streams = way.streams,
                              .check_steps = way.check_steps,
                              .trace = &trace_},
                             std::move(pair), MakePolicy());
    const int64_t begin_ns = NowNs();
    std::vector<Request> requests(3);
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].prompt = SomePrompt(4 + static_cast<int32_t>(i), i);
      requests[i].max_new_tokens = 12;
    }
    results_ = RunAll(*engine, requests);
    run_us_ = static_cast<double>(NowNs() - begin_ns) * 1e-3;
    times_ = engine->times();
    json_ = trace_.Json("a device");
  }

  StepTrace trace_;
  std::vector<RequestResult> results_;
  double run_us_ = 0;
  PhaseTimes times_;
  OrderedJson json_;
};
INSTANTIATE_TEST_SUITE_P(, TraceOfARun,
                         testing::Values(Way{"Inline", kCpuDevice},
                                         Way{"Threaded", kCpuDevice, StreamMode::kThreaded},
                                         Way{"Adversarial", kCpuDevice, StreamMode::kAdversarial},
                                         Way{"Cuda", kCudaDevice},
                                         Way{"CudaChecked", kCudaDevice, StreamMode::kInline, true}),
                         [](const auto& info) { return info.param.name; });

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
  if (GetParam().whole_phases()) {
    for (const char* name : {"prefill", "draft[0]", "draft[1]", "draft[2]", "verify", "rule", "settle"})
      EXPECT_GT(names[name], 0) << name;
    EXPECT_EQ(names["draft[0]"], names["verify"]);
    EXPECT_EQ(names["draft[2]"], names["verify"]);
    EXPECT_EQ(names["rule"], names["verify"] * (kGamma + 1));
    EXPECT_EQ(names["draft[3]"], 0);
    return;
  }
  for (const char* name : {"plan", "law", "sample", "judge", "settle", "publish"})
    EXPECT_GT(names[name], 0) << name;
  EXPECT_EQ(names["judge"], names["settle"]);
}

// The executor's times are the sums of what it told the trace.
TEST_P(TraceOfARun, TimesAreTheSumsOfSpans) {
  std::map<std::string, double> us;
  double end = 0;
  for (const auto& event : json_["traceEvents"]) {
    if (event["ph"] != "X") continue;
    us[event["cat"]] += static_cast<double>(event["dur"]);
    end = std::max(end, static_cast<double>(event["ts"]) + static_cast<double>(event["dur"]));
  }
  for (const auto& [name, phase] : {std::pair{"prefill", Phase::kPrefill}, std::pair{"draft", Phase::kDraft},
                                    std::pair{"verify", Phase::kVerify}, std::pair{"rule", Phase::kRule},
                                    std::pair{"settle", Phase::kSettle}}) {
    const double booked = static_cast<double>(times_.of(phase)) * 1e-3;
    EXPECT_GT(booked, 0) << name;
    if (GetParam().device.is_cuda()) {
      EXPECT_NEAR(booked, us[name], 1e-6 * booked + 1e-3) << name;
    } else {
      EXPECT_GE(booked, us[name] - 1e-3) << name;  // and what is between two steps of a phase
    }
  }
  // All of it within the run, by another clock.
  EXPECT_LT(end, run_us_);
  EXPECT_LT(static_cast<double>(times_.launch_ns) * 1e-3, run_us_);
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
