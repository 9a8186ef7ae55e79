// What differs between the host's compiler and CUDA's.
//
// TANDEM_HD marks what the host and a CUDA device both compile from one source. CudaStream is cudaStream_t, named here
// so that a header can declare the launcher of a kernel without CUDA's headers.
#ifndef TANDEM_RUNTIME_CORE_PLATFORM_H_
#define TANDEM_RUNTIME_CORE_PLATFORM_H_

#ifdef __CUDACC__
#define TANDEM_HD __host__ __device__
#else
#define TANDEM_HD
#endif

struct CUstream_st;

namespace tandem {
using CudaStream = CUstream_st*;
}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_PLATFORM_H_
