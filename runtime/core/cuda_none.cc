// runtime/core/cuda.h in a build without CUDA.
#ifndef TANDEM_CUDA
#include <absl/strings/str_cat.h>

#include "runtime/core/check.h"
#include "runtime/core/cuda.h"

namespace tandem::cuda {

bool Compiled() { return false; }

absl::Status Check(Device device) {
  if (!device.is_cuda()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(Name(device),
                   " is not there: this build runs on the CPU alone; use device: cpu, or build with "
                   "`cmake --preset cuda` (it needs nvcc)"));
}

Machine ThisMachine() { return {}; }

MemorySize Memory(Device) { TANDEM_CHECK(false) << "no CUDA in this build"; }
std::string Describe(Device) { TANDEM_CHECK(false) << "no CUDA in this build"; }
void* Allocate(Device, Access, size_t) { TANDEM_CHECK(false) << "no CUDA in this build"; }
void Free(Device, Access, void*) { TANDEM_CHECK(false) << "no CUDA in this build"; }
void Upload(Device, void*, const void*, size_t) { TANDEM_CHECK(false) << "no CUDA in this build"; }
void Download(Device, void*, const void*, size_t) { TANDEM_CHECK(false) << "no CUDA in this build"; }

}  // namespace tandem::cuda
#endif  // TANDEM_CUDA
