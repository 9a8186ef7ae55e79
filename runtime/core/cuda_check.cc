#include <absl/strings/str_cat.h>

#include "runtime/core/cuda.h"

namespace tandem::cuda {
namespace {

std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

absl::Status CheckMachine(Device device, const Machine& machine) {
  const auto refuse = [&](const auto&... why_and_cure) {
    return absl::UnavailableError(absl::StrCat(Name(device), " is not there: ", why_and_cure...));
  };
  const char* use_cpu = "; use device: cpu, or a machine with an NVIDIA GPU";
  if (machine.driver_version == 0) return refuse("this machine has no NVIDIA driver", use_cpu);
  if (machine.driver_too_old) {
    return refuse("the NVIDIA driver is too old, for CUDA ", Version(machine.driver_version),
                  ", and this build needs CUDA ", Version(machine.runtime_version),
                  "; update the driver, or use device: cpu");
  }
  if (!machine.error.empty()) return refuse(machine.error, "; use device: cpu");
  if (machine.n_devices == 0) return refuse("this machine has no GPU", use_cpu);
  if (device.cuda_index < machine.n_devices) return absl::OkStatus();
  if (machine.n_devices == 1) return refuse("this machine has one GPU; choose cuda:0");
  return refuse("this machine has ", machine.n_devices,
                " GPUs; choose one of cuda:0 to cuda:", machine.n_devices - 1);
}

absl::Status NoCodeFor(Device device, int major, int minor) {
  const std::string cure = major < 8 ? "tandem needs 8.0 or later: use another GPU, or device: cpu"
                                     : absl::StrCat("build with -DCMAKE_CUDA_ARCHITECTURES=", major, minor,
                                                    ", or use device: cpu");
  return absl::UnavailableError(
      absl::StrCat(Name(device), " is not there: this build has no code for a GPU of compute capability ",
                   major, ".", minor, "; ", cure));
}

}  // namespace tandem::cuda
