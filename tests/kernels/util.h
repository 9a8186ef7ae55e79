// What the kernels' tests share: every Highway target in turn, workers on threads, memory that shows stray
// reads and writes, and bounds on rounding errors.
#ifndef TANDEM_TESTS_KERNELS_UTIL_H_
#define TANDEM_TESTS_KERNELS_UTIL_H_

#include <gtest/gtest.h>
#include <hwy/targets.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "runtime/core/buffer.h"
#include "runtime/core/check.h"
#include "runtime/core/sequence.h"
#include "runtime/core/view.h"
#include "runtime/core/worker.h"

namespace tandem {

// Runs `body` once for every instruction set that the kernels are compiled for and this CPU has.
template <typename Body>
void ForEachTarget(Body body) {
  const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  for (int64_t target : targets) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Runs one step on `count` workers at the same time.
template <typename Step>
void RunOnWorkers(int count, Step step) {
  std::vector<std::thread> threads;
  for (int i = 1; i < count; ++i) threads.emplace_back([=] { step(Worker{i, count}); });
  step(Worker{0, count});
  for (std::thread& thread : threads) thread.join();
}

inline constexpr uint32_t kPoisonBits = 0x7fc0deadu;  // a NaN that no kernel computes
inline float Poison() {
  float value;
  std::memcpy(&value, &kPoisonBits, 4);
  return value;
}
inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline bool IsPoison(float value) { return BitsOf(value) == kPoisonBits; }

inline std::vector<uint32_t> BitsOf(const float* values, size_t n) {
  std::vector<uint32_t> bits(n);
  if (n != 0) std::memcpy(bits.data(), values, n * 4);
  return bits;
}

// n values that end right before a page that may not be touched, or `gap` bytes before it: with an odd gap
// they are as unaligned as a safetensors file can make them. What lies before and after them (`gap` aside) is
// filled with 0xff, a NaN in every dtype, and CheckEdges says whether it still is.
class EdgeBytes {
 public:
  explicit EdgeBytes(size_t bytes, size_t gap = 0) : bytes_(bytes), gap_(gap) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    inner_ = (bytes + gap + kFront + page - 1) / page * page;
    mapped_ = inner_ + page;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TANDEM_CHECK(base_ != MAP_FAILED);
    std::memset(base_, 0xff, inner_);
    TANDEM_CHECK(mprotect(static_cast<char*>(base_) + inner_, page, PROT_NONE) == 0);
  }
  ~EdgeBytes() { munmap(base_, mapped_); }
  EdgeBytes(const EdgeBytes&) = delete;
  EdgeBytes& operator=(const EdgeBytes&) = delete;

  unsigned char* data() const { return static_cast<unsigned char*>(base_) + inner_ - gap_ - bytes_; }
  float* floats() const { return reinterpret_cast<float*>(data()); }
  size_t bytes() const { return bytes_; }
  void CheckEdges() const {
    const auto* begin = static_cast<const unsigned char*>(base_);
    for (const unsigned char* p = begin; p < data(); ++p)
      ASSERT_EQ(*p, 0xff) << data() - p << " bytes before";
    for (const unsigned char* p = data() + bytes_; p < begin + inner_; ++p) ASSERT_EQ(*p, 0xff) << "after";
  }

 private:
  static constexpr size_t kFront = 64;
  size_t bytes_, gap_, inner_, mapped_;
  void* base_;
};

// fp32 output, poisoned, with edges.
class Output {
 public:
  explicit Output(size_t n) : n_(n), bytes_(n * 4) { Reset(); }
  void Reset() {
    for (size_t i = 0; i < n_; ++i) data()[i] = Poison();
  }
  float* data() const { return bytes_.floats(); }
  size_t size() const { return n_; }
  std::vector<uint32_t> bits() const { return BitsOf(data(), n_); }
  void CheckEdges() const { bytes_.CheckEdges(); }

 private:
  size_t n_;
  EdgeBytes bytes_;
};

// A random matrix in `dtype` at the end of a page.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType dtype, std::mt19937& random, size_t gap = 0)
      : bytes_(static_cast<size_t>(rows * cols) * SizeOf(dtype), gap),
        view_{bytes_.data(), dtype, rows, cols} {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t i = 0; i < rows * cols; ++i) Set(i, uniform(random));
  }
  void Set(int64_t i, float value) {
    unsigned char* p = bytes_.data() + i * static_cast<int64_t>(SizeOf(view_.dtype));
    if (view_.dtype == DType::kF32) {
      std::memcpy(p, &value, 4);
      return;
    }
    const uint16_t half = view_.dtype == DType::kBf16 ? FloatToBf16(value) : F16Of(value);
    std::memcpy(p, &half, 2);
  }
  double at(int64_t row, int64_t col) const { return LoadFloat(view_.row(row), view_.dtype, col); }
  const View& view() const { return view_; }
  unsigned char* bytes() const { return bytes_.data(); }

 private:
  // Truncates: the tests need values of every exponent, not the nearest ones.
  static uint16_t F16Of(float value) {
    uint16_t best = 0;
    const float size = std::fabs(value);
    for (int bit = 14; bit >= 0; --bit) {
      const auto next = static_cast<uint16_t>(best | (1 << bit));
      if (next < 0x7c00 && F16ToFloat(next) <= size) best = next;
    }
    return value < 0 ? best | 0x8000 : best;
  }

  EdgeBytes bytes_;
  View view_;
};

inline std::vector<float> RandomFloats(size_t n, std::mt19937& random, float size = 1) {
  std::uniform_real_distribution<float> uniform(-size, size);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(random);
  return values;
}

// Right between two neighbours in bf16, of which the one above or below is even.
inline float Bf16Tie(float value) {
  const uint32_t bits = (BitsOf(value) & 0xffff0000u) | 0x8000u;
  float tie;
  std::memcpy(&tie, &bits, 4);
  return tie;
}

// Unit roundoff of fp32, and the relative error of n roundings in a row (Higham, Accuracy and
// Stability, 3.1).
inline constexpr double kRoundoff = 1.0 / (1 << 24);
inline double Gamma(double n) { return n * kRoundoff / (1 - n * kRoundoff); }

// A plan of the given rows, without logits.
struct PlannedRow {
  int slot;
  int position;
  int token = 0;
};
class PlanOf {
 public:
  explicit PlanOf(const std::vector<PlannedRow>& rows) : n_rows_(static_cast<int32_t>(rows.size())) {
    for (const PlannedRow& row : rows) {
      slot_.push_back(row.slot);
      position_.push_back(row.position);
      token_.push_back(row.token);
    }
    plan_.capacity = n_rows_;
    plan_.n_rows = &n_rows_;
    plan_.slot = slot_.data();
    plan_.position = position_.data();
    plan_.token = token_.data();
    plan_.n_logits = &n_logits_;
  }
  PlanOf(const PlanOf&) = delete;
  const RowPlan& plan() const { return plan_; }
  RowPlan CopyTo(Arena& arena) const {
    RowPlan copy = plan_;
    copy.n_rows = arena.Copy(plan_.n_rows, 1);
    copy.slot = arena.Copy(plan_.slot, slot_.size());
    copy.position = arena.Copy(plan_.position, slot_.size());
    copy.token = arena.Copy(plan_.token, slot_.size());
    copy.n_logits = arena.Copy(plan_.n_logits, 1);
    return copy;
  }

 private:
  int32_t n_rows_, n_logits_ = 0;
  std::vector<int32_t> slot_, position_, token_;
  RowPlan plan_;
};

}  // namespace tandem

#endif  // TANDEM_TESTS_KERNELS_UTIL_H_
