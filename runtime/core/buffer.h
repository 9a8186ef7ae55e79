// Buffer: zeroed memory on one device, aligned to a cache line, owned. Made before the first round; never inside one.
#ifndef TANDEM_RUNTIME_CORE_BUFFER_H_
#define TANDEM_RUNTIME_CORE_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "runtime/core/check.h"

namespace tandem {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
    TANDEM_CHECK(data_ != nullptr) << "out of memory: " << bytes << " bytes";
    std::memset(data_.get(), 0, rounded);
  }

  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t bytes_ = 0;
};

// Arena: the buffers that belong together (a workspace, a cache), freed together.
class Arena {
 public:
  template <typename T>
  T* New(size_t n) {
    static_assert(std::is_trivially_destructible_v<T>, "an arena runs no destructors");
    buffers_.emplace_back(n * sizeof(T));
    bytes_ += n * sizeof(T);
    T* data = reinterpret_cast<T*>(buffers_.back().data());
    for (size_t i = 0; i < n; ++i) new (data + i) T();
    return data;
  }
  size_t bytes() const { return bytes_; }

 private:
  std::vector<Buffer> buffers_;
  size_t bytes_ = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_BUFFER_H_
