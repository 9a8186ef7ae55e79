// What a recorded program costs: its time on a device, and the bytes and products that its steps cannot do without.
//
// One thread, the host. Not for use while something else runs on the device.
#ifndef TANDEM_RUNTIME_PROGRAM_TIMER_H_
#define TANDEM_RUNTIME_PROGRAM_TIMER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/core/program.h"
#include "runtime/core/status.h"
#include "runtime/executor.h"

namespace tandem {

// Of at least one value.
double MedianOf(std::vector<double> values);

// Milliseconds of one execution: the median of `n_repetitions` measurements, after a warm-up, each of as many executions,
// queued one behind the other, as fill some tens of milliseconds. By the host's clock, so on a device what it idles
// between two executions is in it.
// REQUIRES: the program may run any number of times.
absl::StatusOr<double> TimeProgram(const Program& program, const ExecutorOptions& options, int n_repetitions);

// What the program's products and attention steps read and compute, by their arguments.
struct ProgramWork {
  int64_t weight_bytes = 0;  // of all products; a matrix that two products read counts twice
  int64_t cache_bytes = 0;   // keys and values
  double product_flops = 0;  // with as many rows as the products' plans have room for

  int64_t bytes() const { return weight_bytes + cache_bytes; }
};
// `n_keys`: positions that an attention step reads, of all sequences together. `only`: of this phase's steps.
ProgramWork WorkOf(const Program& program, int64_t n_keys, std::optional<Phase> only = std::nullopt);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_PROGRAM_TIMER_H_
