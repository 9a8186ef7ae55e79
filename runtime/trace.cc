#include "runtime/trace.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <limits>
#include <map>

#include "runtime/steps.h"

namespace tandem {
namespace {

constexpr const char* kLaneNames[kNumLanes] = {"target", "draft"};

// One of a program's moments that arrows and marks refer to.
struct Moment {
  int lane = 0;
  int64_t ns = -1;  // -1: there is none
};
struct Moments {
  Moment proposed;  // the end of the last draft step
  Moment verified;  // the beginning of the first verification step
  Moment settled;   // the end of settle
};

}  // namespace

StepTrace::StepTrace() {
  for (auto& steps : steps_) steps.reserve(1 << 16);
}

void StepTrace::AddStep(Lane lane, uint64_t program, Op op, Phase phase, int64_t begin_ns, int64_t end_ns) {
  Add(lane, {program, op, {phase, -1}, begin_ns, end_ns});
}

void StepTrace::AddPhase(Lane lane, uint64_t program, PhaseLabel label, int64_t begin_ns, int64_t end_ns) {
  Add(lane, {program, Op::kCount, label, begin_ns, end_ns});
}

void StepTrace::Add(Lane lane, const StepSpan& span) {
  auto& steps = steps_[static_cast<int>(lane)];
  if (steps.size() < kMaxSteps) steps.push_back(span);
}

void StepTrace::AddRound(uint64_t program, int32_t slot, int32_t n_proposed, int32_t n_keep, int32_t n_emit) {
  if (rounds_.size() < kMaxSteps) rounds_.push_back({program, slot, n_proposed, n_keep, n_emit});
}

bool StepTrace::full() const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const auto& steps) { return steps.size() == kMaxSteps; });
}

OrderedJson StepTrace::Json(const std::string& device) const {
  int64_t origin = std::numeric_limits<int64_t>::max();
  for (const auto& steps : steps_) {
    if (!steps.empty()) origin = std::min(origin, steps.front().begin_ns);
  }
  const auto us = [&](int64_t ns) { return static_cast<double>(ns - origin) * 1e-3; };
  OrderedJson events = OrderedJson::array();
  events.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", 0}, {"args", {{"name", device}}}});
  std::map<uint64_t, Moments> moments;
  for (int lane = 0; lane < kNumLanes; ++lane) {
    events.push_back({{"name", "thread_name"},
                      {"ph", "M"},
                      {"pid", 0},
                      {"tid", lane},
                      {"args", {{"name", kLaneNames[lane]}}}});
    for (const StepSpan& step : steps_[lane]) {
      const bool whole = step.op == Op::kCount;
      events.push_back({{"name", whole ? Name(step.label) : Name(step.op)},
                        {"cat", Name(step.label.phase)},
                        {"ph", "X"},
                        {"pid", 0},
                        {"tid", lane},
                        {"ts", us(step.begin_ns)},
                        {"dur", static_cast<double>(step.end_ns - step.begin_ns) * 1e-3},
                        {"args", {{"program", step.program}}}});
      Moments& at = moments[step.program];
      if (step.label.phase == Phase::kDraft) at.proposed = {lane, step.end_ns};
      if (step.label.phase == Phase::kVerify && at.verified.ns < 0) at.verified = {lane, step.begin_ns};
      if (whole ? step.label.phase == Phase::kSettle : step.op == Op::kSettle)
        at.settled = {lane, step.end_ns};
    }
  }
  for (const auto& [program, at] : moments) {
    if (at.proposed.ns < 0 || at.verified.ns < at.proposed.ns) continue;
    const auto arrow = [&, number = program](const char* phase, const Moment& moment) {
      OrderedJson event = {{"name", "proposal"}, {"cat", "round"},     {"ph", phase},        {"id", number},
                           {"pid", 0},           {"tid", moment.lane}, {"ts", us(moment.ns)}};
      if (*phase == 'f') event["bp"] = "e";
      events.push_back(std::move(event));
    };
    arrow("s", at.proposed);
    arrow("f", at.verified);
  }
  for (const Round& round : rounds_) {
    const auto at = moments.find(round.program);
    if (at == moments.end() || at->second.settled.ns < 0) continue;
    const bool back = round.n_keep < round.n_proposed;
    events.push_back(
        {{"name", absl::StrCat(back ? "rollback: " : "", "kept ", round.n_keep, " of ", round.n_proposed)},
         {"cat", back ? "rollback" : "round"},
         {"ph", "i"},
         {"s", "t"},
         {"pid", 0},
         {"tid", at->second.settled.lane},
         {"ts", us(at->second.settled.ns)},
         {"args", {{"program", round.program}, {"slot", round.slot}, {"emitted", round.n_emit}}}});
  }
  return {{"displayTimeUnit", "ns"}, {"traceEvents", std::move(events)}};
}

}  // namespace tandem
