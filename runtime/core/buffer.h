// Buffer: zeroed memory on one device, aligned to a cache line, owned. Made before the first round; never inside one.
#ifndef TANDEM_RUNTIME_CORE_BUFFER_H_
#define TANDEM_RUNTIME_CORE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/core/cuda.h"
#include "runtime/core/device.h"

namespace tandem {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, Device device = {}, Access access = Access::kDevice)
      : block_(Allocate(bytes, device, access), {device, access}), bytes_(bytes) {
    TANDEM_CHECK(block_ != nullptr) << "out of memory on " << Name(device) << ": " << bytes << " bytes";
  }

  std::byte* data() const {
    const auto address = reinterpret_cast<uintptr_t>(block_.get());
    return reinterpret_cast<std::byte*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 64;
  struct Release {
    void operator()(void* p) const { device.is_cuda() ? cuda::Free(device, access, p) : std::free(p); }
    Device device;
    Access access = Access::kDevice;
  };
  static void* Allocate(size_t bytes, Device device, Access access) {
    if (device.is_cuda()) return cuda::Allocate(device, access, bytes);
    // calloc: pages that are never used are never touched, so a cache costs what it holds.
    return std::calloc(bytes + kAlignment, 1);
  }

  std::unique_ptr<void, Release> block_;
  size_t bytes_ = 0;
};

// Arena: the buffers that belong together (a workspace, a cache), on one device, freed together.
class Arena {
 public:
  explicit Arena(Device device = {}, Access access = Access::kDevice) : device_(device), access_(access) {}

  // n default values; of a buffer that was there before Rewind, trivial ones are what they were.
  template <typename T>
  T* New(size_t n) {
    static_assert(std::is_trivially_destructible_v<T>, "an arena runs no destructors");
    T* data = Take<T>(n);
    if constexpr (!std::is_trivially_default_constructible_v<T>) {
      if (on_host()) {
        for (size_t i = 0; i < n; ++i) new (data + i) T();
      } else {
        const std::vector<T> values(n);
        cuda::Upload(device_, data, values.data(), n * sizeof(T));
      }
    }
    return data;
  }
  // A copy of n values of the host's.
  template <typename T>
  T* Copy(const T* values, size_t n) {
    static_assert(std::is_trivially_copyable_v<T>);
    T* data = Take<T>(n);
    if (on_host()) {
      if (n > 0) std::memcpy(static_cast<void*>(data), values, n * sizeof(T));
    } else {
      cuda::Upload(device_, data, values, n * sizeof(T));
    }
    return data;
  }
  // What is made next takes the buffers that are there, in the order in which they were made, as far as they are large
  // enough: for programs that never run at the same time and leave each other nothing.
  void Rewind() { n_taken_ = 0; }
  // Where what comes next is made. REQUIRES: nothing was made elsewhere.
  void Place(Device device) {
    TANDEM_CHECK(buffers_.empty() || device == device_) << "an arena on " << Name(device_);
    device_ = device;
  }

  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  bool on_host() const { return !device_.is_cuda() || access_ == Access::kShared; }
  template <typename T>
  T* Take(size_t n) {
    const size_t bytes = n * sizeof(T);
    while (n_taken_ < buffers_.size() && buffers_[n_taken_].bytes() < bytes) ++n_taken_;
    if (n_taken_ == buffers_.size()) {
      buffers_.emplace_back(bytes, device_, access_);
      bytes_ += bytes;
    }
    return reinterpret_cast<T*>(buffers_[n_taken_++].data());
  }

  Device device_;
  Access access_;
  std::vector<Buffer> buffers_;
  size_t n_taken_ = 0;  // of the buffers, since Rewind
  size_t bytes_ = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_BUFFER_H_
