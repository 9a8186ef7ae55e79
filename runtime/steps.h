// The table from operations to their CPU code: the one place that grows when an operation is added.
#ifndef TANDEM_RUNTIME_STEPS_H_
#define TANDEM_RUNTIME_STEPS_H_

#include "runtime/core/program.h"
#include "runtime/core/worker.h"

namespace tandem {

// A parallel step runs on every worker, with a barrier after it; a serial one on worker 0 alone.
bool IsParallel(Op op);
void RunParallelStep(const Program& program, const Step& step, Worker worker);
void RunSerialStep(const Program& program, const Step& step);

// For listings of a program: "linear", "settle", ...
const char* Name(Op op);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_STEPS_H_
