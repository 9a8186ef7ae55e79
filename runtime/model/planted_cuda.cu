// Weights of planted models, made where they are used: an 8B in well under a second.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda.cuh"
#include "runtime/core/buffer.h"
#include "runtime/model/planted_fill.h"

namespace tandem::planted {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 132 * 16;  // they stride over the rest

__device__ int64_t First() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }
__device__ int64_t Stride() { return static_cast<int64_t>(gridDim.x) * kThreads; }

__global__ void __launch_bounds__(kThreads)
    RandomKernel(uint16_t* data, int64_t n, uint64_t seed, float deviation) {
  for (int64_t i = First(); i < n; i += Stride()) data[i] = RandomWeight(seed, i, deviation);
}

__global__ void __launch_bounds__(kThreads) ValueKernel(uint16_t* data, int64_t n, uint16_t value) {
  for (int64_t i = First(); i < n; i += Stride()) data[i] = value;
}

__global__ void __launch_bounds__(kThreads)
    HeadKernel(uint16_t* head, const uint16_t* embedding, const int32_t* successor, int64_t n_vocab,
               int64_t hidden) {
  for (int64_t i = First(); i < n_vocab * hidden; i += Stride()) {
    const int64_t v = i / hidden;
    head[successor[v] * hidden + (i - v * hidden)] = HeadWeight(embedding[i], static_cast<float>(hidden));
  }
}

unsigned BlocksOf(int64_t n) {
  return static_cast<unsigned>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, kMaxBlocks));
}

void Use(Device device) { TANDEM_CUDA_CHECK(cudaSetDevice(device.cuda_index)); }

}  // namespace

void FillRandomCuda(Device device, uint16_t* data, int64_t n, uint64_t seed, float deviation) {
  Use(device);
  const OwnStream stream;
  RandomKernel<<<BlocksOf(n), kThreads, 0, stream>>>(data, n, seed, deviation);
  stream.Wait();
}

void FillCuda(Device device, uint16_t* data, int64_t n, uint16_t value) {
  Use(device);
  const OwnStream stream;
  ValueKernel<<<BlocksOf(n), kThreads, 0, stream>>>(data, n, value);
  stream.Wait();
}

void FillHeadCuda(Device device, uint16_t* head, const uint16_t* embedding, const int32_t* successor,
                  int64_t n_vocab, int64_t hidden) {
  Use(device);
  Arena arena(device);
  const int32_t* there = arena.Copy(successor, static_cast<size_t>(n_vocab));
  const OwnStream stream;
  HeadKernel<<<BlocksOf(n_vocab * hidden), kThreads, 0, stream>>>(head, embedding, there, n_vocab, hidden);
  stream.Wait();
}

}  // namespace tandem::planted
