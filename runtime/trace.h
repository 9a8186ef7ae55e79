// StepTrace: which step, or which phase of a graph, ran when, on which lane, and what became of each round: for
// `tandem run --trace FILE`. The file is in the Chrome trace format, which chrome://tracing and ui.perfetto.dev show: a row
// per lane, an arrow from a round's proposal to its verification, a mark where a round kept less than was proposed.
//
// Owned by the caller of an engine; outlives it. Executors add steps, each lane from one thread at a time; the engine adds
// rounds; Json is for when the engine is idle.
#ifndef TANDEM_RUNTIME_TRACE_H_
#define TANDEM_RUNTIME_TRACE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/program.h"
#include "runtime/report_json.h"
#include "runtime/steps.h"

namespace tandem {

class StepTrace {
 public:
  StepTrace();

  // Nanoseconds of the steady clock. `program`: the how-manieth that was enqueued. Beyond kMaxSteps of a lane nothing is kept.
  void AddStep(Lane lane, uint64_t program, Op op, Phase phase, int64_t begin_ns, int64_t end_ns);
  // The same of a phase as a whole, where its steps cannot be told apart.
  void AddPhase(Lane lane, uint64_t program, PhaseLabel label, int64_t begin_ns, int64_t end_ns);
  // What the round that was `program` did to a slot.
  void AddRound(uint64_t program, int32_t slot, int32_t n_proposed, int32_t n_keep, int32_t n_emit);

  bool full() const;
  // {"traceEvents": [...]}; `device` names the process. Times in microseconds from the first step on.
  OrderedJson Json(const std::string& device) const;

  static constexpr size_t kMaxSteps = 1 << 20;

 private:
  struct StepSpan {
    uint64_t program;
    Op op;  // kCount: a phase as a whole
    PhaseLabel label;
    int64_t begin_ns, end_ns;
  };
  void Add(Lane lane, const StepSpan& span);

  struct Round {
    uint64_t program;
    int32_t slot, n_proposed, n_keep, n_emit;
  };
  std::array<std::vector<StepSpan>, kNumLanes> steps_;
  std::vector<Round> rounds_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_TRACE_H_
