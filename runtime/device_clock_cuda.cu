#include <cuda_runtime.h>

#include "kernels/cuda.cuh"
#include "runtime/device_clock.h"

namespace tandem {
namespace {

__global__ void StampKernel(DeviceClock::Log* log, int which) {
  const int64_t now = DeviceNs();
  const int32_t n = log->n[which]++;
  if (n < DeviceClock::kCapacity) log->ns[which][n] = now;
}

}  // namespace

// An error is CUDA's last error afterwards.
void StampCuda(const JudgeArgs& args, CudaStream stream) {
  StampKernel<<<1, 1, 0, stream>>>(static_cast<DeviceClock::Log*>(args.scratch),
                                   static_cast<int>(args.scratch_stride));
}

}  // namespace tandem
