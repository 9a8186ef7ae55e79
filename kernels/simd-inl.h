// What the CPU kernels share: vectors of fp32 loaded from any dtype and alignment, ends of rows, bf16
// rounding, the RMS norm's scale. Compiled once per Highway target; a file that includes it defines kernels
// per target.
//
// A row's last, incomplete vector is padded with zeros in registers: nothing outside the row is read or
// written.
#if defined(TANDEM_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_SIMD_INL_H_
#undef TANDEM_KERNELS_SIMD_INL_H_
#else
#define TANDEM_KERNELS_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/core/view.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = HWY_FULL(float);
using DU = hn::Rebind<uint32_t, DF>;
using DHalf = hn::Rebind<uint16_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

inline constexpr int kLanes = HWY_LANES(float);

// A vector from any byte address.
template <class D>
HWY_INLINE hn::Vec<D> LoadBytes(D d, const uint8_t* p) {
#if HWY_TARGET == HWY_SCALAR
  hn::TFromD<D> value;
  std::memcpy(&value, p, sizeof(value));
  return hn::Set(d, value);
#else
  return hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, D>(), p));
#endif
}

HWY_INLINE VF WidenBf16(const uint8_t* p) {
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), LoadBytes(DHalf(), p))));
}
HWY_INLINE VF WidenF16(const uint8_t* p) {
  return hn::PromoteTo(DF(), LoadBytes(hn::Rebind<hwy::float16_t, DF>(), p));
}

// Element i and those after it, of which `left` exist; the others are 0.
HWY_INLINE VF LoadUpTo(const float* p, int64_t left) {
  if (left >= kLanes) return hn::LoadU(DF(), p);
  alignas(64) float padded[kLanes] = {};
  if (left > 0) std::memcpy(padded, p, left * sizeof(float));
  return hn::Load(DF(), padded);
}
HWY_INLINE VF LoadUpTo(const View& row, int64_t i, int64_t left) {
  if (left >= kLanes) {
    const uint8_t* p = static_cast<const uint8_t*>(row.data) + i * static_cast<int64_t>(SizeOf(row.dtype));
    if (row.dtype == DType::kF32) return LoadBytes(DF(), p);
    return row.dtype == DType::kBf16 ? WidenBf16(p) : WidenF16(p);
  }
  alignas(64) float padded[kLanes] = {};
  for (int64_t j = 0; j < left; ++j) padded[j] = LoadFloat(row.data, row.dtype, i + j);
  return hn::Load(DF(), padded);
}
HWY_INLINE void StoreUpTo(VF value, float* p, int64_t left) {
  if (left >= kLanes) return hn::StoreU(value, DF(), p);
  alignas(64) float padded[kLanes];
  hn::Store(value, DF(), padded);
  if (left > 0) std::memcpy(p, padded, left * sizeof(float));
}

// tandem::FloatToBf16 in the upper half of each lane.
HWY_INLINE VU Bf16Bits(VF value) {
  const DU du;
  const VU bits = hn::BitCast(du, value);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const VU nearest = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const VU quiet = hn::Or(bits, hn::Set(du, 0x400000));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), quiet, nearest);
}
HWY_INLINE VF RoundToBf16(VF value) {
  return hn::BitCast(DF(), hn::And(Bf16Bits(value), hn::Set(DU(), 0xffff0000u)));
}
HWY_INLINE void StoreBf16UpTo(VF value, uint16_t* p, int64_t left) {
  const hn::Rebind<int32_t, DF> di;
  const auto half = hn::DemoteTo(DHalf(), hn::BitCast(di, hn::ShiftRight<16>(Bf16Bits(value))));
  if (left >= kLanes) return hn::StoreU(half, DHalf(), p);
  alignas(64) uint16_t padded[kLanes];
  hn::Store(half, DHalf(), padded);
  if (left > 0) std::memcpy(p, padded, left * sizeof(uint16_t));
}

HWY_INLINE float SumLanes(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }

// 1 / sqrt(mean(x^2) + eps). Two vector sums, so that one addition need not wait for the other.
HWY_INLINE float RmsScale(const float* x, int64_t n, float eps) {
  VF even = hn::Zero(DF()), odd = hn::Zero(DF());
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    const VF a = LoadUpTo(x + i, n - i);
    even = hn::MulAdd(a, a, even);
    if (i + kLanes >= n) break;
    const VF b = LoadUpTo(x + i + kLanes, n - i - kLanes);
    odd = hn::MulAdd(b, b, odd);
  }
  return 1.f / std::sqrt(SumLanes(hn::Add(even, odd)) / static_cast<float>(n) + eps);
}

}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#endif  // TANDEM_KERNELS_SIMD_INL_H_
