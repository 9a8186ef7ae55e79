// What CUDA kernels of several operations share: launching, and the instructions of sm_90 that CUDA C++ has no name for.
//
// Overlap of a kernel with the one before it (programmatic dependent launch). A kernel launched with `overlap` may start
// while the one before it in the stream still runs. Until WaitForPrevious() returns it may read what no kernel writes
// (weights), and nothing else. Every block calls it, on every path: what was complete before the previous kernel is
// complete for this one through that call alone. After it, memory that other kernels write is read with __ldcg: the
// first-level cache may hold what it was before.
#ifndef TANDEM_KERNELS_CUDA_CUH_
#define TANDEM_KERNELS_CUDA_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "runtime/core/check.h"

namespace tandem {

#define TANDEM_CUDA_CHECK(call)                                                                   \
  do {                                                                                            \
    const cudaError_t cuda_error_ = (call);                                                       \
    TANDEM_CHECK(cuda_error_ == cudaSuccess) << #call << ": " << cudaGetErrorString(cuda_error_); \
  } while (0)

// A stream of one's own on the current device, for kernels that are no step of a program: what makes or measures something
// beforehand.
class OwnStream {
 public:
  OwnStream() { TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  operator cudaStream_t() const { return stream_; }
  // For all that was launched.
  void Wait() const {
    TANDEM_CUDA_CHECK(cudaGetLastError());
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_ = nullptr;
};

struct KernelShape {
  dim3 grid;
  int threads;
  size_t shared_bytes = 0;
  int cluster = 1;  // blocks along x that share a cluster
  bool overlap = false;
};

// Fills in `config`; `attributes` has room for 2 and must outlive it.
inline void SetLaunch(const KernelShape& shape, cudaStream_t stream, cudaLaunchConfig_t& config,
                      cudaLaunchAttribute* attributes) {
  config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  if (shape.overlap) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
}

// Kernels that may share a multiprocessor with another kernel want the same split of its memory, the one with the most
// shared memory: a change of the split waits until the multiprocessor is empty.
template <typename Args>
void AllowShared(void (*kernel)(Args), size_t bytes) {
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
  TANDEM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

template <typename Args>
void LaunchKernel(void (*kernel)(Args), const KernelShape& shape, cudaStream_t stream, const Args& args) {
  cudaLaunchConfig_t config;
  cudaLaunchAttribute attributes[2];
  SetLaunch(shape, stream, config, attributes);
  TANDEM_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args));
}

// Of the current device.
inline int DeviceAttribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}
inline int MultiprocessorCount() { return DeviceAttribute(cudaDevAttrMultiProcessorCount); }
inline int ComputeCapability() {  // 90 for 9.0
  return 10 * DeviceAttribute(cudaDevAttrComputeCapabilityMajor) +
         DeviceAttribute(cudaDevAttrComputeCapabilityMinor);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define TANDEM_SM90 1
#endif

// Before sm_90 kernels do not overlap.
__device__ __forceinline__ void WaitForPrevious() {
#ifdef TANDEM_SM90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may start as soon as every block has said so or ended.
__device__ __forceinline__ void LetNextStart() {
#ifdef TANDEM_SM90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The device's own clock, in nanoseconds; the same on all multiprocessors.
__device__ __forceinline__ int64_t DeviceNs() {
  int64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns)::"memory");
  return ns;
}

// Two values as a pair of bf16, to the nearest, ties to even; a NaN becomes 0x7fff.
__device__ __forceinline__ uint32_t RoundPair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// The sum of a warp's lanes by a butterfly, in all of them. kLanes: of so many neighbours, which `mask` names.
template <int kLanes = 32>
__device__ __forceinline__ float LaneSum(float value, uint32_t mask = ~0u) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(mask, value, distance);
  return value;
}

// d += a b for a 16 x 16 tile of bf16 (rows) and a 16 x 8 tile (columns), fp32 sums.
__device__ __forceinline__ void MultiplyTiles(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                              uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#ifdef TANDEM_SM90

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Barriers in shared memory that count bytes copied.
__device__ __forceinline__ void InitBarrier(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void ExpectBytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void WaitBarrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Something is wrong, and a run that fails is better than one that hangs. Not a trap: with one in it the assembler gives
// workers no more registers than a kernel without setmaxnreg has.
__device__ __forceinline__ void Fail() {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(uint64_t{0}), "r"(0) : "memory");
}
// Some seconds of looking.
class Patience {
 public:
  __device__ __forceinline__ void Spend() {
    if (++n_ > (1u << 24)) Fail();
  }

 private:
  uint32_t n_ = 0;
};

__device__ __forceinline__ void WaitFor(uint32_t barrier, uint32_t parity) {
  Patience patience;
  uint32_t done;
  while (true) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (done) return;
    patience.Spend();
  }
}
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Clusters.
__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void ClusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// Orders nothing but what was fenced before; the other one waits for all writes of the thread to reach their place, which
// costs a microsecond if some are on their way to memory.
__device__ __forceinline__ void ClusterArriveRelaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void ClusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// A word to the shared memory of a block of the cluster, and its bytes to a barrier there (InBlock): who waits for that
// sees the word. Nothing else is waited for, unlike a release, which waits for all that a thread has written anywhere.
__device__ __forceinline__ void StoreAsync(uint32_t address, uint64_t word, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(address),
      "l"(word), "r"(barrier)
      : "memory");
}
// The address of a block's own shared memory in the block of another rank.
__device__ __forceinline__ uint32_t InBlock(uint32_t address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

#endif

}  // namespace tandem

#endif  // TANDEM_KERNELS_CUDA_CUH_
