// Launch: the one way to launch a kernel. Kernels take their arguments as `const __grid_constant__`, so that a reference to
// one does not make every thread copy them all. An error is CUDA's last error afterwards (the executor looks at it after
// every step that it records).
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
  // The kernel begins with WaitForPrevious() (kernels/cuda.cuh), in every thread, and may be placed while the kernel before
  // it still runs. LetNextStart() comes after that wait, never before: then no more than two kernels run at a time, and a
  // kernel's first-level caches, empty when it is placed, hold nothing that was written since.
  bool overlap = false;
};

namespace internal {
// Whether what is launched next has one kernel to wait for, and nothing else.
inline bool FollowsOneKernel(CudaStream stream) {
  cudaStreamCaptureStatus status;
  const cudaGraphNode_t* nodes = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t n_nodes = 0;
  if (cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &nodes, &edges, &n_nodes) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  if (status != cudaStreamCaptureStatusActive) return true;
  cudaGraphNodeType type;
  return n_nodes == 1 && cudaGraphNodeGetType(nodes[0], &type) == cudaSuccess &&
         type == cudaGraphNodeTypeKernel;
}
}  // namespace internal

// Whether the code of `kernel` that this device runs was compiled for sm_90 or later: clusters, kernels that overlap.
template <typename... Params>
bool HasClusters(void (*kernel)(Params...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) == cudaSuccess &&
         attributes.ptxVersion >= 90;
}

template <typename... Params>
void Launch(void (*kernel)(Params...), const LaunchShape& shape, CudaStream stream,
            const std::type_identity_t<Params>&... args) {
  constexpr size_t kWithoutAsking = 16 * 1024;  // with static shared memory 48 KB
  if (shape.shared_bytes > kWithoutAsking) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shape.shared_bytes));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  config.attrs = attributes;
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {shape.cluster, 1, 1};
  }
  // A multiprocessor that has to split its memory in another way waits until it is empty: all ask for the same split.
  if (shape.overlap) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                         cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  if (shape.overlap && HasClusters(kernel) && internal::FollowsOneKernel(stream)) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchKernelEx(&config, kernel, args...);
}

inline unsigned BlocksFor(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(n <= per_block ? 1 : (n + per_block - 1) / per_block);
}

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_LAUNCH_CUH_
