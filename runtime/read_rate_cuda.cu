#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda.cuh"
#include "runtime/read_rate.h"

namespace tandem {
namespace {

constexpr int kThreads = 512;
constexpr int kPasses = 7;

// Four loads of 16 bytes in flight a thread, as measured to be best (an H200: 4.6 TB/s).
__global__ void __launch_bounds__(kThreads) ReadKernel(const uint4* data, int64_t n, uint4* out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  uint4 all = {0, 0, 0, 0};
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + 3 * stride < n; i += 4 * stride) {
    uint4 part[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) part[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      all.x ^= part[j].x;
      all.y ^= part[j].y;
      all.z ^= part[j].z;
      all.w ^= part[j].w;
    }
  }
  for (; i < n; i += stride) all.x ^= __ldcs(data + i).x;
  // Hardly ever true, and the compiler does not know: the loads cannot be left out.
  if ((all.x ^ all.y ^ all.z ^ all.w) == 0x7a6e6d21u) *out = all;
}

}  // namespace

double ReadRateCuda(Device device, const void* data, int64_t bytes) {
  TANDEM_CUDA_CHECK(cudaSetDevice(device.cuda_index));
  int n_multiprocessors = 0;
  TANDEM_CUDA_CHECK(
      cudaDeviceGetAttribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount, device.cuda_index));
  cudaEvent_t begin = nullptr, end = nullptr;
  uint4* out = nullptr;
  TANDEM_CUDA_CHECK(cudaEventCreate(&begin));
  TANDEM_CUDA_CHECK(cudaEventCreate(&end));
  TANDEM_CUDA_CHECK(cudaMalloc(&out, sizeof(uint4)));
  const OwnStream stream;
  double best = 0;
  for (const int blocks : {1, 2, 4}) {
    std::vector<float> ms(kPasses);
    for (int pass = -2; pass < kPasses; ++pass) {
      TANDEM_CUDA_CHECK(cudaEventRecord(begin, stream));
      ReadKernel<<<n_multiprocessors * blocks, kThreads, 0, stream>>>(
          static_cast<const uint4*>(data), bytes / static_cast<int64_t>(sizeof(uint4)), out);
      TANDEM_CUDA_CHECK(cudaGetLastError());
      TANDEM_CUDA_CHECK(cudaEventRecord(end, stream));
      TANDEM_CUDA_CHECK(cudaEventSynchronize(end));
      if (pass >= 0) TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms[pass], begin, end));
    }
    std::sort(ms.begin(), ms.end());
    best = std::max(best, static_cast<double>(bytes) / (ms[kPasses / 2] * 1e-3));
  }
  TANDEM_CUDA_CHECK(cudaFree(out));
  TANDEM_CUDA_CHECK(cudaEventDestroy(begin));
  TANDEM_CUDA_CHECK(cudaEventDestroy(end));
  return best;
}

}  // namespace tandem
