// DotTile: the dot products of 4 rows of weights with up to kTileCols prepared rows of fp32, in registers.
// Shared by linear (rows of a weight matrix) and attention (keys). Compiled once per Highway target.
//
// Values are taken in groups of 2 N, N being the fp32 lanes of a vector. A group of weights widens to two
// vectors, and the prepared rows are laid out to match (PackGroup): for bf16 the even and the odd elements,
// since a 32-bit lane that holds two bf16 values gives them by a shift and by a mask; for f32 and f16 the
// first and the second half.
//
// The order of a sum is fixed by its length alone: each (weight row, prepared row) has one vector
// accumulator, which takes the first and then the second vector of every group in rising order; the last
// group is padded with zeros; the lanes are then added in a fixed tree. So a sum has the same bits in a tile
// of any width.
#if defined(TANDEM_KERNELS_LINEAR_DOT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_LINEAR_DOT_TILE_INL_H_
#undef TANDEM_KERNELS_LINEAR_DOT_TILE_INL_H_
#else
#define TANDEM_KERNELS_LINEAR_DOT_TILE_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "runtime/core/view.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = HWY_FULL(float);
using DU = hn::Rebind<uint32_t, DF>;
using VF = hn::Vec<DF>;

inline constexpr int kTileRows = 4;
// 4 x 6 accumulators and what feeds them fill 32 vector registers; 4 x 3 fill 16.
inline constexpr int kTileCols = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM ? 6 : 3;
inline constexpr int kLanes = HWY_LANES(float);
inline constexpr int kGroup = 2 * kLanes;

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

// How a group of 2 N weights at any byte address widens to two vectors of fp32.
struct Bf16Weights {
  static constexpr size_t kSize = 2;
  static HWY_INLINE hn::Vec<DU> Pairs(const uint8_t* p) { return LoadBytes(DU(), p); }
  static HWY_INLINE VF First(const uint8_t* p) { return hn::BitCast(DF(), hn::ShiftLeft<16>(Pairs(p))); }
  static HWY_INLINE VF Second(const uint8_t* p) {
    return hn::BitCast(DF(), hn::And(Pairs(p), hn::Set(DU(), 0xffff0000u)));
  }
};

struct F16Weights {
  static constexpr size_t kSize = 2;
  static HWY_INLINE VF Wide(const uint8_t* p) {
    return hn::PromoteTo(DF(), LoadBytes(hn::Rebind<hwy::float16_t, DF>(), p));
  }
  static HWY_INLINE VF First(const uint8_t* p) { return Wide(p); }
  static HWY_INLINE VF Second(const uint8_t* p) { return Wide(p + kLanes * kSize); }
};

struct F32Weights {
  static constexpr size_t kSize = 4;
  static HWY_INLINE VF First(const uint8_t* p) { return LoadBytes(DF(), p); }
  static HWY_INLINE VF Second(const uint8_t* p) { return First(p + kLanes * kSize); }
};

// Writes one group of a prepared row as DotTile reads it.
template <bool kEvenOdd>
HWY_INLINE void PackGroup(VF low, VF high, float* HWY_RESTRICT out) {
  const DF d;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kEvenOdd) {
    const VF even = hn::ConcatEven(d, high, low);
    high = hn::ConcatOdd(d, high, low);
    low = even;
  }
#endif
  hn::StoreU(low, d, out);
  hn::StoreU(high, d, out + kLanes);
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void StoreLaneSums(VF a, VF b, VF c, VF e, float* HWY_RESTRICT out) {
  out[0] = hn::GetLane(a);
  out[1] = hn::GetLane(b);
  out[2] = hn::GetLane(c);
  out[3] = hn::GetLane(e);
}
#else
using Block = hn::Vec<hn::Full128<float> >;
HWY_INLINE Block SumBlocks(Block v) { return v; }
template <class V>
HWY_INLINE Block SumBlocks(V v) {
  const hn::Half<hn::DFromV<V> > half;
  return SumBlocks(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
}

// out: the sums of the lanes of four vectors. The tree is the same in each.
HWY_INLINE void StoreLaneSums(VF a, VF b, VF c, VF e, float* HWY_RESTRICT out) {
  const DF d;
  const hn::Repartition<uint64_t, DF> d64;
  const auto ab = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const VF blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab, ce)),
                            hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce)));
  hn::StoreU(SumBlocks(blocks), hn::Full128<float>(), out);
}
#endif

template <class W, int M>
HWY_INLINE void DotStep(const uint8_t* HWY_RESTRICT w0, const uint8_t* HWY_RESTRICT w1,
                        const uint8_t* HWY_RESTRICT w2, const uint8_t* HWY_RESTRICT w3,
                        const float* HWY_RESTRICT x, VF (&acc)[4 * M]) {
  const DF d;
  {
    const VF v0 = W::First(w0), v1 = W::First(w1), v2 = W::First(w2), v3 = W::First(w3);
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) {
      const VF xm = hn::LoadU(d, x + m * kGroup);
      acc[4 * m] = hn::MulAdd(xm, v0, acc[4 * m]);
      acc[4 * m + 1] = hn::MulAdd(xm, v1, acc[4 * m + 1]);
      acc[4 * m + 2] = hn::MulAdd(xm, v2, acc[4 * m + 2]);
      acc[4 * m + 3] = hn::MulAdd(xm, v3, acc[4 * m + 3]);
    }
  }
  const VF v0 = W::Second(w0), v1 = W::Second(w1), v2 = W::Second(w2), v3 = W::Second(w3);
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    const VF xm = hn::LoadU(d, x + m * kGroup + kLanes);
    acc[4 * m] = hn::MulAdd(xm, v0, acc[4 * m]);
    acc[4 * m + 1] = hn::MulAdd(xm, v1, acc[4 * m + 1]);
    acc[4 * m + 2] = hn::MulAdd(xm, v2, acc[4 * m + 2]);
    acc[4 * m + 3] = hn::MulAdd(xm, v3, acc[4 * m + 3]);
  }
}

// out[m][r] = weights[r] . x[m] for r < 4, m < M, over n values. `weights` are addresses of rows, which may
// repeat; nothing past their n values is read. x: [ceil(n / 2N)][M][2N]. `ahead`: prefetch this many bytes
// further on.
template <class W, int M>
HWY_NOINLINE void DotTile(const uint8_t* const* weights, int64_t n, const float* HWY_RESTRICT x,
                          int64_t ahead, float* HWY_RESTRICT out) {
  const DF d;
  constexpr size_t kBytes = kGroup * W::kSize;
  const uint8_t* HWY_RESTRICT w0 = weights[0];
  const uint8_t* HWY_RESTRICT w1 = weights[1];
  const uint8_t* HWY_RESTRICT w2 = weights[2];
  const uint8_t* HWY_RESTRICT w3 = weights[3];
  VF acc[4 * M];
  HWY_UNROLL(32)
  for (int i = 0; i < 4 * M; ++i) acc[i] = hn::Zero(d);

  const size_t end = static_cast<size_t>(n) / kGroup * kBytes;
  for (size_t k = 0; k < end; k += kBytes) {
    hwy::Prefetch(w0 + k + ahead);
    hwy::Prefetch(w1 + k + ahead);
    hwy::Prefetch(w2 + k + ahead);
    hwy::Prefetch(w3 + k + ahead);
    if constexpr (kBytes > 64) {
      hwy::Prefetch(w0 + k + ahead + 64);
      hwy::Prefetch(w1 + k + ahead + 64);
      hwy::Prefetch(w2 + k + ahead + 64);
      hwy::Prefetch(w3 + k + ahead + 64);
    }
    DotStep<W, M>(w0 + k, w1 + k, w2 + k, w3 + k, x, acc);
    x += M * kGroup;
  }
  if (const size_t rest = static_cast<size_t>(n) * W::kSize - end; rest != 0) {
    alignas(64) uint8_t last[4][kBytes] = {};
    for (int r = 0; r < 4; ++r) std::memcpy(last[r], weights[r] + end, rest);
    DotStep<W, M>(last[0], last[1], last[2], last[3], x, acc);
  }
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    StoreLaneSums(acc[4 * m], acc[4 * m + 1], acc[4 * m + 2], acc[4 * m + 3], out + 4 * m);
  }
}

// DotTile for n_cols <= kTileCols known at run time.
template <class W>
HWY_INLINE void DotTileOf(int n_cols, const uint8_t* const* weights, int64_t n, const float* x, int64_t ahead,
                          float* out) {
  switch (n_cols) {
    case 1:
      return DotTile<W, 1>(weights, n, x, ahead, out);
    case 2:
      return DotTile<W, 2>(weights, n, x, ahead, out);
    case 3:
      return DotTile<W, 3>(weights, n, x, ahead, out);
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM
    case 4:
      return DotTile<W, 4>(weights, n, x, ahead, out);
    case 5:
      return DotTile<W, 5>(weights, n, x, ahead, out);
    case 6:
      return DotTile<W, 6>(weights, n, x, ahead, out);
#endif
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#endif  // TANDEM_KERNELS_LINEAR_DOT_TILE_INL_H_
