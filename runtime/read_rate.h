// The rate at which a device reads its memory when it does nothing else: what floors are computed from.
#ifndef TANDEM_RUNTIME_READ_RATE_H_
#define TANDEM_RUNTIME_READ_RATE_H_

#include <cstdint>

#include "runtime/core/device.h"
#include "runtime/core/status.h"

namespace tandem {

// Bytes per second of one pass over a buffer far larger than the caches (8 GiB on a CUDA device, 256 MiB on the CPU, or
// what there is room for): the median of seven passes, for the best of a few launch shapes. `n_threads`: the CPU's.
// kResourceExhausted: no room.
absl::StatusOr<double> MeasureReadRate(Device device, int n_threads);

// The part on a device. REQUIRES: a build with CUDA, `data` of the device, 16-byte aligned, bytes a multiple of 16.
double ReadRateCuda(Device device, const void* data, int64_t bytes);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_READ_RATE_H_
