// What differs between the host's compiler and CUDA's.
//
// TANDEM_HD marks what the host and a CUDA device both compile from one source; TANDEM_DEVICE what is for the host in a
// C++ source and for the device alone in a CUDA source, since it is handed functions of the device;
// TANDEM_DEVICE_CALL the same for what is too big to be inlined at every call. CudaStream is cudaStream_t, named here
// so that a header can declare the launcher of a kernel without CUDA's headers.
#ifndef TANDEM_RUNTIME_CORE_PLATFORM_H_
#define TANDEM_RUNTIME_CORE_PLATFORM_H_

#ifdef __CUDACC__
#define TANDEM_HD __host__ __device__
#define TANDEM_DEVICE __device__
#define TANDEM_DEVICE_CALL __device__ __noinline__
#else
#define TANDEM_HD
#define TANDEM_DEVICE
#define TANDEM_DEVICE_CALL
#endif

struct CUstream_st;

namespace tandem {
using CudaStream = CUstream_st*;
}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_PLATFORM_H_
