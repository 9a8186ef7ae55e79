// Launch: the one way to launch a kernel. An error is CUDA's last error afterwards (the executor looks at it after every
// step that it records).
#ifndef TANDEM_RUNTIME_CORE_LAUNCH_CUH_
#define TANDEM_RUNTIME_CORE_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "runtime/core/platform.h"

namespace tandem {

struct LaunchShape {
  dim3 grid = 1;
  dim3 block = 1;
  unsigned cluster = 1;  // blocks of one, along x; more than 1 from sm_90 on
  size_t shared_bytes = 0;
};

template <typename... Params>
void Launch(void (*kernel)(Params...), const LaunchShape& shape, CudaStream stream,
            const std::type_identity_t<Params>&... args) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shape.shared_bytes > kWithoutAsking) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shape.shared_bytes));
  }
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, args...);
}

// Whether the code of `kernel` that this device runs was compiled for clusters.
template <typename... Params>
bool HasClusters(void (*kernel)(Params...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) == cudaSuccess &&
         attributes.ptxVersion >= 90;
}

inline unsigned BlocksFor(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(n <= per_block ? 1 : (n + per_block - 1) / per_block);
}

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_LAUNCH_CUH_
