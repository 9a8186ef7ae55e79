// LinearLibrary: cuBLAS, for products of many rows (prefill). Owned by an executor of a CUDA device, used by its thread for
// one stream at a time; a product allocates nothing and may be captured into a graph.
#ifndef TANDEM_KERNELS_LINEAR_LINEAR_LIBRARY_H_
#define TANDEM_KERNELS_LINEAR_LINEAR_LIBRARY_H_

#include <cstdint>
#include <memory>

#include "runtime/core/platform.h"
#include "runtime/core/view.h"

namespace tandem {

// What cuBLAS asks for on sm_90, of every library.
inline constexpr int64_t kLibraryWorkspaceBytes = int64_t{32} << 20;

class LinearLibrary {
 public:
  // On the current device, with a workspace of its own. Null if cuBLAS cannot start there, or memory is short.
  static std::unique_ptr<LinearLibrary> Make();
  ~LinearLibrary();
  LinearLibrary(const LinearLibrary&) = delete;
  LinearLibrary& operator=(const LinearLibrary&) = delete;

  // out[m, o] (+)= sum over k of in[m, k] weight[o, k]; weight and in (rows of weight.n_cols) in bf16, sums in fp32.
  void Multiply(const View& weight, const void* in, int32_t n_rows, float* out, int64_t out_stride,
                bool accumulate, CudaStream stream);

 private:
  struct Impl;
  explicit LinearLibrary(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem

#endif  // TANDEM_KERNELS_LINEAR_LINEAR_LIBRARY_H_
