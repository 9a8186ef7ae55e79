#include "runtime/core/cuda.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <cuda_runtime.h>

#include <cstring>

#include "runtime/core/check.h"

namespace tandem::cuda {
namespace {

constexpr double kGiB = 1 << 30;

__global__ void Nothing() {}

void Must(cudaError_t error, const char* what) {
  TANDEM_CHECK(error == cudaSuccess) << what << ": " << cudaGetErrorString(error);
}

}  // namespace

bool Compiled() { return true; }

Machine ThisMachine() {
  Machine machine;
  cudaDriverGetVersion(&machine.driver_version);
  cudaRuntimeGetVersion(&machine.runtime_version);
  const cudaError_t error = cudaGetDeviceCount(&machine.n_devices);
  cudaGetLastError();
  machine.driver_too_old = error == cudaErrorInsufficientDriver;
  if (error != cudaSuccess) machine.n_devices = 0;
  if (error != cudaSuccess && error != cudaErrorNoDevice) machine.error = cudaGetErrorString(error);
  return machine;
}

absl::Status Check(Device device) {
  if (!device.is_cuda()) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(CheckMachine(device, ThisMachine()));
  if (const cudaError_t used = cudaSetDevice(device.cuda_index); used != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat(Name(device), " is not there: ", cudaGetErrorString(used),
                                               "; use another GPU or device: cpu"));
  }
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&Nothing)) == cudaSuccess)
    return absl::OkStatus();
  cudaDeviceProp properties = {};
  cudaGetLastError();
  cudaGetDeviceProperties(&properties, device.cuda_index);
  return NoCodeFor(device, properties.major, properties.minor);
}

MemorySize Memory(Device device) {
  Must(cudaSetDevice(device.cuda_index), "cudaSetDevice");
  size_t free = 0, total = 0;
  Must(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

std::string Describe(Device device) {
  cudaDeviceProp properties = {};
  Must(cudaGetDeviceProperties(&properties, device.cuda_index), "cudaGetDeviceProperties");
  return absl::StrFormat("%s, %d SMs, %.1f GiB", properties.name, properties.multiProcessorCount,
                         static_cast<double>(properties.totalGlobalMem) / kGiB);
}

void* Allocate(Device device, Access access, size_t bytes) {
  Must(cudaSetDevice(device.cuda_index), "cudaSetDevice");
  void* data = nullptr;
  if (bytes == 0) bytes = 1;
  const cudaError_t error =
      access == Access::kDevice ? cudaMalloc(&data, bytes) : cudaHostAlloc(&data, bytes, cudaHostAllocMapped);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  Must(error, "allocating memory");
  if (access == Access::kDevice) {
    Must(cudaMemset(data, 0, bytes), "cudaMemset");
    Must(cudaDeviceSynchronize(),
         "clearing memory");  // streams that do not wait for the default one may come next
  } else {
    std::memset(data, 0, bytes);
  }
  return data;
}

// A device that failed cannot free its memory, and need not.
void Free(Device device, Access access, void* data) {
  if (data == nullptr) return;
  cudaSetDevice(device.cuda_index);
  access == Access::kDevice ? cudaFree(data) : cudaFreeHost(data);
}

void Upload(Device device, void* to, const void* from, size_t bytes) {
  Must(cudaSetDevice(device.cuda_index), "cudaSetDevice");
  Must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the device");
  Must(cudaDeviceSynchronize(), "copying to the device");
}

void Download(Device device, void* to, const void* from, size_t bytes) {
  Must(cudaSetDevice(device.cuda_index), "cudaSetDevice");
  Must(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copying from the device");
}

}  // namespace tandem::cuda
