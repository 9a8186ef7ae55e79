// One test body for both backends: which one runs, and memory of the device in place of the host's.
#ifndef TANDEM_TESTS_KERNELS_BACKEND_H_
#define TANDEM_TESTS_KERNELS_BACKEND_H_

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/core/cuda.h"
#include "runtime/core/device.h"
#include "runtime/core/sequence.h"
#include "runtime/core/view.h"
#include "tests/on_device.h"

namespace tandem {

enum class Backend { kReference, kCpu, kCuda };

inline constexpr Device kTestGpu = kCudaDevice;

// A test of both backends; that of CUDA says why it does not run.
class BackendTest : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (is_cuda()) {
      TANDEM_SKIP_WITHOUT(kTestGpu);
    }
  }
  bool is_cuda() const { return GetParam() == Backend::kCuda; }
};
inline std::string NameOf(const testing::TestParamInfo<Backend>& info) {
  return info.param == Backend::kCpu ? "Cpu" : "Cuda";
}

// A copy in the device's memory, aligned but for `offset` bytes, between edges that must stay as they are.
class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes, size_t offset = 0) : bytes_(bytes), begin_(kEdge + offset) {
    size_ = (begin_ + bytes + kEdge + 255) / 256 * 256;
    base_ = static_cast<unsigned char*>(cuda::Allocate(kTestGpu, Access::kDevice, size_));
    TANDEM_CHECK(base_ != nullptr) << "out of device memory: " << size_ << " bytes";
    const std::vector<unsigned char> all(size_, 0xff);
    cuda::Upload(kTestGpu, base_, all.data(), size_);
  }
  DeviceBytes(const void* from, size_t bytes, size_t offset = 0) : DeviceBytes(bytes, offset) {
    if (bytes != 0) cuda::Upload(kTestGpu, data(), from, bytes);
  }
  ~DeviceBytes() { cuda::Free(kTestGpu, Access::kDevice, base_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  unsigned char* data() const { return base_ + begin_; }
  // Waits for the device.
  void Download(void* to) const {
    std::vector<unsigned char> all(size_);
    cuda::Download(kTestGpu, all.data(), base_, size_);
    for (size_t i = 0; i < size_; ++i) {
      if (i == begin_) i += bytes_;
      ASSERT_EQ(all[i], 0xff) << "written outside, at "
                              << static_cast<int64_t>(i) - static_cast<int64_t>(begin_);
    }
    if (bytes_ != 0) std::memcpy(to, all.data() + begin_, bytes_);
  }

 private:
  static constexpr size_t kEdge = 256;
  size_t bytes_, begin_, size_;
  unsigned char* base_;
};

// Copies of what a step reads, alive until it has run.
class DeviceInputs {
 public:
  template <typename T>
  T* Copy(const T* from, size_t n, size_t offset = 0) {
    if (from == nullptr) return nullptr;
    copies_.push_back(std::make_unique<DeviceBytes>(from, n * sizeof(T), offset));
    return reinterpret_cast<T*>(copies_.back()->data());
  }
  View Copy(View view, size_t offset = 0) {
    if (view) view.data = Copy(static_cast<const unsigned char*>(view.data), view.bytes(), offset);
    return view;
  }
  RowPlan Copy(RowPlan plan, int n_rows) {
    plan.n_rows = Copy(plan.n_rows, 1);
    plan.slot = Copy(plan.slot, n_rows);
    plan.position = Copy(plan.position, n_rows);
    plan.token = Copy(plan.token, n_rows);
    return plan;
  }

 private:
  std::vector<std::unique_ptr<DeviceBytes>> copies_;
};

}  // namespace tandem

#endif  // TANDEM_TESTS_KERNELS_BACKEND_H_
