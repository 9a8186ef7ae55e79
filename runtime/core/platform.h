// What differs between the host's compiler and CUDA's.
//
// TANDEM_HD marks what the host and a CUDA device both compile from one source; TANDEM_DEVICE what is for the host in a
// C++ source and for the device alone in a CUDA source, since it is handed functions of the device; there it is always
// inlined, for an object that a function is called with lives in memory. CudaStream is cudaStream_t, named here so that a
// header can declare the launcher of a kernel without CUDA's headers.
#ifndef TANDEM_RUNTIME_CORE_PLATFORM_H_
#define TANDEM_RUNTIME_CORE_PLATFORM_H_

#ifdef __CUDACC__
#define TANDEM_HD __host__ __device__
#define TANDEM_DEVICE __device__ __forceinline__
#else
#define TANDEM_HD
#define TANDEM_DEVICE
#endif

struct CUstream_st;

namespace tandem {
using CudaStream = CUstream_st*;
}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_PLATFORM_H_
