#include "runtime/executor.h"

#include "runtime/core/cuda.h"

namespace tandem {

absl::StatusOr<std::unique_ptr<Executor>> NewExecutor(const ExecutorOptions& options) {
  if (!options.device.is_cuda()) return NewCpuExecutor(options);
  TANDEM_RETURN_IF_ERROR(cuda::Check(options.device));
#ifdef TANDEM_CUDA
  return NewCudaExecutor(options);
#else
  return absl::InternalError("cuda::Check found a device in a build without CUDA");
#endif
}

}  // namespace tandem
