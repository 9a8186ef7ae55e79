// PhaseStamps: readings of a CUDA device's clock in captured graphs, at the places of a StampPlan, and on the host once an
// execution has finished.
//
// A stamp writes to device memory, since one that wrote to the host's would wait for the bus, and the lane for it. At a
// program's end one kernel hands them all over, to a slot of mapped memory. Which slot, the device counts itself, so that
// a graph is launched as it is.
//
// Owned by a CUDA executor, whose thread calls everything. Executions follow each other on one stream. TANDEM_CUDA.
#ifndef TANDEM_RUNTIME_PHASE_STAMPS_H_
#define TANDEM_RUNTIME_PHASE_STAMPS_H_

#include <cstdint>

#include "runtime/core/buffer.h"
#include "runtime/core/device.h"
#include "runtime/core/platform.h"
#include "runtime/stamp_plan.h"

namespace tandem {

class PhaseStamps {
 public:
  static constexpr int32_t kMost = 128;  // stamps of a program

  // Executions may be `n_slots` ahead of those that were read. Allocates, and reads both clocks a few times, on `stream`.
  PhaseStamps(Device device, int32_t n_slots, CudaStream stream);

  // Stamp number `which` of the program whose steps are being captured on `stream`. An error is CUDA's last error.
  void Stamp(int32_t which, CudaStream stream) const;
  // Behind everything else, in every program: `n_stamps` of them go to the host.
  void HandOver(int32_t n_stamps, CudaStream stream) const;

  // [n_stamps] of an execution that has finished; they stand until `n_slots` more have begun.
  const int64_t* of(uint64_t execution) const { return ring_ + execution % n_slots_ * kMost; }

  // From the device's clock to the host's steady clock: some microseconds off when it was read, and the two drift apart by
  // some millionths.
  int64_t offset_ns() const { return offset_ns_; }

 private:
  ClockReading ReadClocks(CudaStream stream) const;

  Arena arena_, shared_;
  uint64_t n_slots_;
  int64_t* stamps_;       // [kMost] of the execution in progress; device
  uint64_t* n_executed_;  // device
  int64_t* ring_;         // [n_slots][kMost], shared
  int64_t offset_ns_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_PHASE_STAMPS_H_
