// TANDEM_HD marks what the host and a CUDA device both compile from one source.
#ifndef TANDEM_RUNTIME_CORE_PLATFORM_H_
#define TANDEM_RUNTIME_CORE_PLATFORM_H_

#ifdef __CUDACC__
#define TANDEM_HD __host__ __device__
#else
#define TANDEM_HD
#endif

#endif  // TANDEM_RUNTIME_CORE_PLATFORM_H_
