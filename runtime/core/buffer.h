// Buffer: zeroed memory on one device, aligned to a cache line, owned. Made before the first round; never inside one.
#ifndef TANDEM_RUNTIME_CORE_BUFFER_H_
#define TANDEM_RUNTIME_CORE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "runtime/core/check.h"

namespace tandem {

class Buffer {
 public:
  Buffer() = default;
  // calloc: pages that are never used are never touched, so a cache costs what it holds.
  explicit Buffer(size_t bytes) : block_(std::calloc(bytes + kAlignment, 1)), bytes_(bytes) {
    TANDEM_CHECK(block_ != nullptr) << "out of memory: " << bytes << " bytes";
  }

  std::byte* data() const {
    const auto address = reinterpret_cast<uintptr_t>(block_.get());
    return reinterpret_cast<std::byte*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> block_;
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
    if constexpr (!std::is_trivially_default_constructible_v<T>) {
      for (size_t i = 0; i < n; ++i) new (data + i) T();
    }
    return data;
  }
  size_t bytes() const { return bytes_; }

 private:
  std::vector<Buffer> buffers_;
  size_t bytes_ = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_BUFFER_H_
