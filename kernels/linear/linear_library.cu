#include "kernels/linear/linear_library.h"

#include <cublas_v2.h>

#include <utility>

#include "kernels/cuda.cuh"

namespace tandem {

struct LinearLibrary::Impl {
  cublasHandle_t handle = nullptr;
  void* workspace = nullptr;

  ~Impl() {
    if (handle != nullptr) cublasDestroy(handle);
    cudaFree(workspace);
  }
};

LinearLibrary::LinearLibrary(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LinearLibrary::~LinearLibrary() = default;

std::unique_ptr<LinearLibrary> LinearLibrary::Make() {
  auto impl = std::make_unique<Impl>();
  if (cudaMalloc(&impl->workspace, kLibraryWorkspaceBytes) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  if (cublasCreate(&impl->handle) != CUBLAS_STATUS_SUCCESS) return nullptr;
  return std::unique_ptr<LinearLibrary>(new LinearLibrary(std::move(impl)));
}

// cuBLAS's matrices stand in columns: the rows of `in` and `out` are its columns, and the weight is transposed.
void LinearLibrary::Multiply(const View& weight, const void* in, int32_t n_rows, float* out,
                             int64_t out_stride, bool accumulate, CudaStream stream) {
  const float one = 1, beta = accumulate ? 1 : 0;
  const auto n_outputs = static_cast<int>(weight.n_rows), in_dim = static_cast<int>(weight.n_cols);
  cublasStatus_t status = cublasSetStream(impl_->handle, stream);
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasSetWorkspace(impl_->handle, impl_->workspace,
                                kLibraryWorkspaceBytes);  // SetStream takes it away
  }
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasGemmEx(impl_->handle, CUBLAS_OP_T, CUBLAS_OP_N, n_outputs, n_rows, in_dim, &one,
                          weight.data, CUDA_R_16BF, in_dim, in, CUDA_R_16BF, in_dim, &beta, out, CUDA_R_32F,
                          static_cast<int>(out_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  }
  TANDEM_CHECK(status == CUBLAS_STATUS_SUCCESS) << "cuBLAS: error " << static_cast<int>(status) << ", "
                                                << n_rows << " rows, " << n_outputs << " x " << in_dim;
}

}  // namespace tandem
