// The part of CUDA that host code uses, without its headers: is it there, memory, copies. A build without CUDA
// (TANDEM_CUDA off) has the same functions; Check says how to get a build with it, and the others are never reached.
//
// Any thread. For set-up and for after a run: Allocate and the copies wait for the device.
#ifndef TANDEM_RUNTIME_CORE_CUDA_H_
#define TANDEM_RUNTIME_CORE_CUDA_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime/core/device.h"
#include "runtime/core/status.h"

namespace tandem::cuda {

bool Compiled();  // into this build

// That `device` can be used: OK for the CPU. kUnavailable in one line, with the cure: no CUDA in this build, no GPU, a
// driver too old, an index out of range, a GPU that this build has no code for.
absl::Status Check(Device device);

// A machine as its driver describes it.
struct Machine {
  int driver_version = 0;   // the newest CUDA that the driver supports: 12040 for 12.4; 0: there is no driver
  int runtime_version = 0;  // of this build
  bool driver_too_old = false;
  std::string error;  // of counting the devices, if it failed in another way
  int n_devices = 0;
};
Machine ThisMachine();  // nothing in a build without CUDA
// What Check makes of a machine; and of a device that this build's kernels cannot run on.
absl::Status CheckMachine(Device device, const Machine& machine);
absl::Status NoCodeFor(Device device, int major, int minor);

// REQUIRES of all that follow: Check(device).ok(), and a CUDA device.

struct MemorySize {
  int64_t free = 0;
  int64_t total = 0;
};
MemorySize Memory(Device device);
std::string Describe(Device device);  // "NVIDIA H200, 132 SMs, 139.8 GiB"

// Zeroed, aligned to 256 bytes. Null if there is not enough.
void* Allocate(Device device, Access access, size_t bytes);
void Free(Device device, Access access, void* data);

void Upload(Device device, void* to, const void* from, size_t bytes);    // host to device
void Download(Device device, void* to, const void* from, size_t bytes);  // device to host

}  // namespace tandem::cuda

#endif  // TANDEM_RUNTIME_CORE_CUDA_H_
