// The tables from operations to their code for the CPU and for CUDA: the places that grow when an operation is added.
#ifndef TANDEM_RUNTIME_STEPS_H_
#define TANDEM_RUNTIME_STEPS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/linear/linear.h"
#include "runtime/core/platform.h"
#include "runtime/core/program.h"
#include "runtime/core/status.h"
#include "runtime/core/worker.h"

namespace tandem {

// A parallel step runs on every worker, with a barrier after it; a serial one on worker 0 alone.
bool IsParallel(Op op);
void RunParallelStep(const Program& program, const Step& step, Worker worker);
void RunSerialStep(const Program& program, const Step& step);

// Launches the kernels of a step, one of program.steps(), on the current device (TANDEM_CUDA). `library`: as LinearCuda's, and
// the same for all steps: what only the product behind a step reads may go there rounded (RoundedInput). kInvalidArgument:
// the step cannot run on a CUDA device. An error of the launch is CUDA's last error.
absl::Status LaunchCudaStep(const Program& program, const Step& step, LinearLibrary* library,
                            CudaStream stream);

// For listings of a program and for traces: "linear", "settle", ...
const char* Name(Op op);
// "prefill", "draft", "verify", "rule", "settle".
const char* Name(Phase phase);

// A phase, and which of a program's draft forwards (each begins with a plan); -1: another phase, or a drafter without a
// model.
struct PhaseLabel {
  Phase phase;
  int32_t draft;
  friend bool operator==(PhaseLabel, PhaseLabel) = default;
};
std::string Name(PhaseLabel label);  // "draft[1]", "verify"
// Of each step; an event's says nothing.
std::vector<PhaseLabel> LabelsOf(const Program& program);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_STEPS_H_
