#include "runtime/stamp_plan.h"

#include <algorithm>

#include "runtime/core/check.h"
#include "runtime/trace.h"

namespace tandem {
namespace {

// Whether the lane of each step has work behind it that waits for nothing.
std::vector<bool> GoesOn(const Program& program) {
  const std::vector<Step>& steps = program.steps();
  std::vector<bool> goes_on(steps.size());
  bool next[kNumLanes] = {};
  for (size_t i = steps.size(); i-- > 0;) {
    bool& of_lane = next[static_cast<int>(steps[i].lane)];
    goes_on[i] = of_lane;
    if (steps[i].op != Op::kRecord) of_lane = steps[i].op != Op::kWait;
  }
  return goes_on;
}

}  // namespace

StampPlan PlanStamps(const Program& program) {
  const std::vector<Step>& steps = program.steps();
  const std::vector<PhaseLabel> labels = LabelsOf(program);
  const std::vector<bool> goes_on = GoesOn(program);
  StampPlan plan;
  int open[kNumLanes] = {-1, -1};  // the lane's span that has not ended
  const auto stamp = [&](size_t step, Lane lane) {
    plan.stamps.push_back({step, lane});
    return static_cast<int32_t>(plan.stamps.size()) - 1;
  };
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].op == Op::kRecord || steps[i].op == Op::kWait) continue;
    const Lane lane = steps[i].lane;
    int& span = open[static_cast<int>(lane)];
    if (span < 0 || labels[i] != plan.spans[span].label) {
      const int32_t at = stamp(i, lane);
      if (span >= 0) plan.spans[span].end = at;
      span = static_cast<int>(plan.spans.size());
      plan.spans.push_back({lane, labels[i], at, -1});
    }
    if (goes_on[i]) continue;
    plan.spans[span].end = stamp(i + 1, lane);
    span = -1;
  }
  return plan;
}

void AddTimes(const StampPlan& plan, const int64_t* ns, int64_t previous_end_ns, PhaseTimes* times) {
  for (const PhaseSpan& span : plan.spans) times->Add(span.label.phase, ns[span.end] - ns[span.begin]);
  if (previous_end_ns < 0 || plan.stamps.empty()) return;
  const int64_t begin_ns = *std::min_element(ns, ns + plan.stamps.size());
  times->launch_ns += std::max<int64_t>(0, begin_ns - previous_end_ns);
}

void AddSpans(const StampPlan& plan, const int64_t* ns, int64_t offset_ns, uint64_t program,
              StepTrace* trace) {
  for (const PhaseSpan& span : plan.spans) {
    trace->AddPhase(span.lane, program, span.label, ns[span.begin] + offset_ns, ns[span.end] + offset_ns);
  }
}

int64_t ClockOffset(const std::vector<ClockReading>& readings) {
  TANDEM_CHECK(!readings.empty());
  const ClockReading best = *std::min_element(
      readings.begin(), readings.end(),
      [](const auto& a, const auto& b) { return a.after_ns - a.before_ns < b.after_ns - b.before_ns; });
  return best.before_ns + (best.after_ns - best.before_ns) / 2 - best.device_ns;
}

}  // namespace tandem
