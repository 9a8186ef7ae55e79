// StampPlan: where a clock is read in a program whose steps nobody watches one by one (a CUDA graph), so that the time of
// each phase is known: on each lane where the phase changes, where it begins to wait for the other lane, and where it
// goes on. A draft forward begins with a plan step, and each is a span of its own.
//
// What the host makes of the stamps is here too; the stamps themselves are phase_stamps.h's. Plain values, any thread.
#ifndef TANDEM_RUNTIME_STAMP_PLAN_H_
#define TANDEM_RUNTIME_STAMP_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/program.h"
#include "runtime/executor.h"
#include "runtime/steps.h"

namespace tandem {

// Steps of one label that follow each other on a lane.
struct PhaseSpan {
  Lane lane;
  PhaseLabel label;
  int32_t begin, end;  // stamps; the end of one span may be the beginning of the next
};

struct StampPlan {
  // Read on `lane`, behind all that stands there before `step` (the program's number of steps: all of it).
  struct Stamp {
    size_t step;
    Lane lane;
  };
  std::vector<Stamp> stamps;     // steps do not fall
  std::vector<PhaseSpan> spans;  // by their beginning
};
StampPlan PlanStamps(const Program& program);

// Adds an execution to the times. `ns`: [stamps] of it; `previous_end_ns`: the last stamp of the execution before, where
// this one had been enqueued by then, else -1.
void AddTimes(const StampPlan& plan, const int64_t* ns, int64_t previous_end_ns, PhaseTimes* times);

// And to a trace: as program number `program`, `offset_ns` later than its stamps say.
void AddSpans(const StampPlan& plan, const int64_t* ns, int64_t offset_ns, uint64_t program,
              StepTrace* trace);

// A reading of a device's clock between two of the host's.
struct ClockReading {
  int64_t before_ns, device_ns, after_ns;
};
// How far the host's clock is ahead of the device's, by the narrowest of at least one reading, half of whose width bounds
// the error.
int64_t ClockOffset(const std::vector<ClockReading>& readings);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_STAMP_PLAN_H_
