// Where stamps stand in programs and what is made of them, against programs and figures worked out by hand, and the
// spans of an engine's round.
#include "runtime/stamp_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/plan/plan.h"
#include "kernels/sample/sample.h"
#include "runtime/settle.h"
#include "runtime/trace.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Names(const StampPlan& plan) {
  std::vector<std::string> names;
  for (const PhaseSpan& span : plan.spans) {
    names.push_back((span.lane == Lane::kDraft ? "draft: " : "target: ") + Name(span.label));
  }
  return names;
}

// Two draft steps, then verify and settle on the other lane.
Program SmallRound() {
  Program round;
  round.At(Lane::kDraft, Phase::kDraft);
  round.Wait(0);             // 0
  round.Add(PlanArgs{});     // 1
  round.Add(AdvanceArgs{});  // 2
  round.At(Lane::kDraft, Phase::kRule);
  round.Add(SampleArgs{});  // 3
  round.At(Lane::kDraft, Phase::kDraft);
  round.Add(PlanArgs{});  // 4
  round.Record(1);        // 5
  round.At(Lane::kTarget, Phase::kVerify);
  round.Wait(1);          // 6
  round.Add(PlanArgs{});  // 7
  round.At(Lane::kTarget, Phase::kSettle);
  round.Add(CutArgs{});  // 8
  round.Record(0);       // 9
  return round;
}

TEST(StampPlan, OfARound) {
  const StampPlan plan = PlanStamps(SmallRound());
  EXPECT_THAT(Names(plan), ElementsAre("draft: draft[0]", "draft: rule", "draft: draft[1]", "target: verify",
                                       "target: settle"));
  std::vector<size_t> steps;
  for (const StampPlan::Stamp& stamp : plan.stamps) steps.push_back(stamp.step);
  // The draft's last one stands before the event that the target waits for.
  EXPECT_THAT(steps, ElementsAre(1, 3, 4, 5, 7, 8, 9));
  for (size_t i = 0; i < plan.stamps.size(); ++i)
    EXPECT_EQ(plan.stamps[i].lane, i < 4 ? Lane::kDraft : Lane::kTarget);
  std::vector<int> ends;
  for (const PhaseSpan& span : plan.spans) {
    ends.push_back(span.begin);
    ends.push_back(span.end);
  }
  EXPECT_THAT(ends, ElementsAre(0, 1, 1, 2, 2, 3, 4, 5, 5, 6));
}

TEST(StampPlan, AWaitEndsASpan) {
  Program program;
  program.At(Lane::kTarget, Phase::kPrefill);
  program.Add(PlanArgs{});
  program.Wait(0);
  program.Add(PlanArgs{});
  const StampPlan plan = PlanStamps(program);
  EXPECT_THAT(Names(plan), ElementsAre("target: prefill", "target: prefill"));
  EXPECT_EQ(plan.stamps.size(), 4u);
  EXPECT_EQ(plan.stamps[1].step, 1u);
  EXPECT_EQ(plan.stamps[2].step, 2u);
}

TEST(StampPlan, StepsOfBothLanesInTurns) {
  Program program;
  for (const Lane lane : {Lane::kDraft, Lane::kTarget, Lane::kDraft, Lane::kTarget}) {
    program.At(lane, Phase::kPrefill);
    program.Add(AdvanceArgs{});
  }
  const StampPlan plan = PlanStamps(program);
  EXPECT_THAT(Names(plan), ElementsAre("draft: prefill", "target: prefill"));
  ASSERT_EQ(plan.stamps.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(plan.stamps[i].step, i < 2 ? i : i + 1);
    EXPECT_EQ(plan.stamps[i].lane, i % 2 == 0 ? Lane::kDraft : Lane::kTarget);
  }
}

TEST(StampPlan, NothingRunsNothingIsStamped) {
  Program program;
  program.Wait(0);
  program.Record(1);
  const StampPlan plan = PlanStamps(program);
  EXPECT_TRUE(plan.stamps.empty());
  EXPECT_TRUE(plan.spans.empty());
  PhaseTimes times;
  AddTimes(plan, nullptr, 5, &times);
  EXPECT_EQ(times.launch_ns, 0);
  EXPECT_FALSE(times.any());
}

// Every step but events lies in one span of its lane and phase, and the engine's rounds have as many as they should.
TEST(StampPlan, OfAnEnginesRound) {
  for (const int32_t gamma : {0, 1, 4}) {
    PairSpec pair{.target = {.model = HashTarget()}};
    if (gamma > 0) pair.draft = ModelSpec{.model = HashDraft()};
    const auto engine =
        MakeEngine({.n_slots = 2, .gamma = gamma}, std::move(pair), MakePolicy({}, gamma > 0));
    const Program& round = engine->round();
    const StampPlan plan = PlanStamps(round);
    std::vector<std::string> expected;
    for (int32_t i = 0; i < gamma; ++i) {
      expected.push_back("draft: draft[" + std::to_string(i) + "]");
      expected.push_back("draft: rule");
    }
    for (const char* phase : {"verify", "rule", "settle"})
      expected.push_back(std::string("target: ") + phase);
    EXPECT_EQ(Names(plan), expected);
    EXPECT_EQ(plan.stamps.size(), gamma > 0 ? 2u * gamma + 5 : 4u);
    for (size_t i = 0; i < round.steps().size(); ++i) {
      const Step& step = round.steps()[i];
      if (step.op == Op::kRecord || step.op == Op::kWait) continue;
      int n_holding = 0;
      for (const PhaseSpan& span : plan.spans) {
        const bool holds =
            span.lane == step.lane && plan.stamps[span.begin].step <= i && i < plan.stamps[span.end].step;
        n_holding += holds;
        if (holds) {
          EXPECT_EQ(span.label.phase, step.phase);
        }
      }
      EXPECT_EQ(n_holding, 1) << "step " << i;
    }
  }
}

TEST(StampPlan, TimesOfAnExecution) {
  const StampPlan plan = PlanStamps(SmallRound());
  const std::vector<int64_t> ns = {100, 130, 135, 155, 160, 260, 267};
  PhaseTimes times;
  AddTimes(plan, ns.data(), -1, &times);
  EXPECT_EQ(times.of(Phase::kDraft), 30 + 20);
  EXPECT_EQ(times.of(Phase::kRule), 5);
  EXPECT_EQ(times.of(Phase::kVerify), 100);
  EXPECT_EQ(times.of(Phase::kSettle), 7);
  EXPECT_EQ(times.of(Phase::kPrefill), 0);
  EXPECT_EQ(times.launch_ns, 0);
  AddTimes(plan, ns.data(), 96, &times);
  EXPECT_EQ(times.of(Phase::kVerify), 200);
  EXPECT_EQ(times.launch_ns, 4);
}

TEST(StampPlan, LanesThatOverlapBothCount) {
  Program program;
  program.At(Lane::kDraft, Phase::kPrefill);
  program.Add(PlanArgs{});
  program.At(Lane::kTarget, Phase::kPrefill);
  program.Add(PlanArgs{});
  const StampPlan plan = PlanStamps(program);
  const std::vector<int64_t> ns = {10, 50, 12, 90};  // draft's, target's
  PhaseTimes times;
  AddTimes(plan, ns.data(), 7, &times);
  EXPECT_EQ(times.of(Phase::kPrefill), 40 + 78);
  EXPECT_EQ(times.launch_ns, 3);  // to the first of both
}

TEST(StampPlan, SpansOfATrace) {
  StepTrace trace;
  const std::vector<int64_t> ns = {100'000, 130'000, 135'000, 155'000, 160'000, 260'000, 267'000};
  AddSpans(PlanStamps(SmallRound()), ns.data(), 1'000'000, 3, &trace);
  trace.AddRound(3, 0, 2, 1, 2);
  const OrderedJson json = trace.Json("cuda:0");
  std::vector<std::string> spans;
  double sent = -1, received = -1, mark = -1;
  for (const auto& event : json["traceEvents"]) {
    const std::string ph = event["ph"];
    if (ph == "X") {
      spans.push_back(static_cast<std::string>(event["name"]));
      EXPECT_EQ(event["args"]["program"], 3);
      EXPECT_EQ(event["tid"], spans.size() <= 2 ? 0 : 1);  // the target's row first
    }
    if (ph == "s") sent = event["ts"];
    if (ph == "f") received = event["ts"];
    if (ph == "i") {
      mark = event["ts"];
      EXPECT_EQ(event["name"], "rollback: kept 1 of 2");
    }
  }
  EXPECT_THAT(spans, ElementsAre("verify", "settle", "draft[0]", "rule", "draft[1]"));
  // In microseconds; 0 is the first span's beginning.
  EXPECT_DOUBLE_EQ(sent, 55);
  EXPECT_DOUBLE_EQ(received, 60);
  EXPECT_DOUBLE_EQ(mark, 167);
}

TEST(StampPlan, TheNarrowestReadingOfTwoClocksCounts) {
  EXPECT_EQ(ClockOffset({{1000, 20, 1300}, {2000, 955, 2011}, {3000, 1990, 3040}}), 2005 - 955);
}

}  // namespace
}  // namespace tandem
