// Device: where a model's weights, its caches and the steps of its programs live: the CPU, or one CUDA device.
//
// Access: whose memory a buffer is. On the CPU there is one memory and both are the same; on a CUDA device
//   kDevice   the device's own: steps alone read and write it; the host copies to and from it before and after a run
//   kShared   the host's, pinned and mapped: both sides use the same pointer. For what the host stages before a program
//             that reads it is enqueued, and for what it reads after one has finished
#ifndef TANDEM_RUNTIME_CORE_DEVICE_H_
#define TANDEM_RUNTIME_CORE_DEVICE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/core/status.h"

namespace tandem {

struct Device {
  int32_t cuda_index = -1;  // -1: the CPU

  bool is_cuda() const { return cuda_index >= 0; }
  friend bool operator==(Device, Device) = default;
};

enum class Access : int32_t { kDevice, kShared };

// "cpu", "cuda" (the first one) or "cuda:1". kInvalidArgument for anything else. Does not look whether it is there:
// that is cuda::Check (runtime/core/cuda.h).
absl::StatusOr<Device> ParseDevice(std::string_view text);
std::string Name(Device device);  // "cpu", "cuda:0"

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_DEVICE_H_
