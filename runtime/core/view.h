// View: a typed, unowned look at a matrix in memory, row major. In the host's memory its data may lie at any byte offset
// (safetensors does not align), so it is read through unaligned loads only; on a CUDA device it begins at a multiple of
// 256 bytes.
#ifndef TANDEM_RUNTIME_CORE_VIEW_H_
#define TANDEM_RUNTIME_CORE_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "runtime/core/platform.h"

namespace tandem {

enum class DType : int32_t { kF32, kBf16, kF16 };

TANDEM_HD constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }
constexpr const char* Name(DType dtype) {
  return dtype == DType::kF32 ? "fp32" : dtype == DType::kBf16 ? "bf16" : "fp16";
}

struct View {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t n_rows = 0;
  int64_t n_cols = 0;

  TANDEM_HD explicit operator bool() const { return data != nullptr; }
  TANDEM_HD const std::byte* row(int64_t i) const {
    return static_cast<const std::byte*>(data) + static_cast<size_t>(i * n_cols) * SizeOf(dtype);
  }
  TANDEM_HD size_t bytes() const { return static_cast<size_t>(n_rows * n_cols) * SizeOf(dtype); }
};

TANDEM_HD inline float Bf16ToFloat(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Round to nearest, ties to even; a NaN stays a NaN.
TANDEM_HD inline uint16_t FloatToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TANDEM_HD inline float RoundToBf16(float value) { return Bf16ToFloat(FloatToBf16(value)); }

TANDEM_HD inline float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  uint32_t wide;
  if (exponent == 31) {
    wide = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    wide = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else if (mantissa == 0) {
    wide = sign;
  } else {
    exponent = 113;
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    wide = sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13);
  }
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Element `i` of an array of `dtype` at any alignment, as fp32. For references and for what is read once.
TANDEM_HD inline float LoadFloat(const void* data, DType dtype, int64_t i) {
#ifdef __CUDA_ARCH__
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const uint16_t element = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBf16 ? Bf16ToFloat(element) : F16ToFloat(element);
#else
  const auto* bytes = static_cast<const std::byte*>(data) + static_cast<size_t>(i) * SizeOf(dtype);
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, bytes, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, bytes, 2);
  return dtype == DType::kBf16 ? Bf16ToFloat(half) : F16ToFloat(half);
#endif
}

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_VIEW_H_
