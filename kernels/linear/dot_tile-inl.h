// DotTiles: the dot products of 4 rows of weights with up to kTileCols prepared rows of fp32, in registers.
// Shared by linear (rows of a weight matrix) and attention (keys). Compiled once per Highway target.
//
// Values are taken in groups of 2 N, N being the fp32 lanes of a vector. A group of weights widens to two
// vectors, and the prepared rows are laid out to match (PackColumn): for bf16 the even and the odd elements,
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

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {

inline constexpr int kTileRows = 4;
// 4 x 6 accumulators and what feeds them fill 32 vector registers; 4 x 3 fill 16.
inline constexpr int kTileCols = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM ? 6 : 3;
inline constexpr int kGroup = 2 * kLanes;

// How a group of 2 N weights at any byte address widens to two vectors of fp32.
struct Bf16Weights {
  static constexpr size_t kSize = 2;
  static HWY_INLINE VU Pairs(const uint8_t* p) { return LoadBytes(DU(), p); }
  static HWY_INLINE VF First(const uint8_t* p) { return hn::BitCast(DF(), hn::ShiftLeft<16>(Pairs(p))); }
  static HWY_INLINE VF Second(const uint8_t* p) {
    return hn::BitCast(DF(), hn::And(Pairs(p), hn::Set(DU(), 0xffff0000u)));
  }
};

struct F16Weights {
  static constexpr size_t kSize = 2;
  static HWY_INLINE VF First(const uint8_t* p) { return WidenF16(p); }
  static HWY_INLINE VF Second(const uint8_t* p) { return WidenF16(p + kLanes * kSize); }
};

struct F32Weights {
  static constexpr size_t kSize = 4;
  static HWY_INLINE VF First(const uint8_t* p) { return LoadBytes(DF(), p); }
  static HWY_INLINE VF Second(const uint8_t* p) { return First(p + kLanes * kSize); }
};

// n prepared rows cut into tiles of about equal width.
struct Tiles {
  int n_rows;
  int n_tiles;
  explicit Tiles(int n) : n_rows(n), n_tiles((n + kTileCols - 1) / kTileCols) {}
  int begin(int tile) const { return n_rows * tile / n_tiles; }
};

// fp32 values of a prepared row of n.
HWY_INLINE int64_t PaddedLength(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

// Writes a prepared row of n values as column `col` of a tile of n_cols. value_at(k): the vector of values
// from k on, zeros past n.
template <bool kEvenOdd, class ValueAt>
HWY_INLINE void PackColumn(int64_t n, int col, int n_cols, ValueAt value_at, float* HWY_RESTRICT tile) {
  const DF d;
  float* out = tile + col * kGroup;
  for (int64_t k = 0; k < n; k += kGroup) {
    VF first = value_at(k);
    VF second = value_at(k + kLanes);
#if HWY_TARGET != HWY_SCALAR
    if constexpr (kEvenOdd) {
      const VF even = hn::ConcatEven(d, second, first);
      second = hn::ConcatOdd(d, second, first);
      first = even;
    }
#endif
    hn::StoreU(first, d, out);
    hn::StoreU(second, d, out + kLanes);
    out += n_cols * kGroup;
  }
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

// Into the second-level cache: the first is too small for what is fetched ahead. An address that is not
// mapped does no harm.
HWY_INLINE void Fetch(const uint8_t* p) { __builtin_prefetch(p, /*rw=*/0, /*locality=*/2); }

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

// Calls emit(o, sums) for o = 0, 4, 8, ... below n_weights with sums[m * 4 + r] = row(o + r) . x[m], m < M,
// over n values; the sums of rows from n_weights on say nothing.
//   row_at(o): address of row o < n_weights, at any alignment; nothing past its n values is read
//   x: [ceil(n / 2N)][M][2N]
//   ahead: fetch what lies this many bytes behind what is read, in the order of addresses
template <class W, int M, class RowAt, class Emit>
HWY_INLINE void DotTiles(int64_t n_weights, RowAt row_at, int64_t n, const float* HWY_RESTRICT x,
                         int64_t ahead, Emit emit) {
  const DF d;
  constexpr size_t kBytes = kGroup * W::kSize;
  constexpr size_t kLine = 64;
  const size_t end = static_cast<size_t>(n) / kGroup * kBytes;
  const size_t rest = static_cast<size_t>(n) * W::kSize - end;
  for (int64_t o = 0; o < n_weights; o += kTileRows) {
    const uint8_t* HWY_RESTRICT w0 = row_at(o);
    const uint8_t* HWY_RESTRICT w1 = row_at(HWY_MIN(o + 1, n_weights - 1));
    const uint8_t* HWY_RESTRICT w2 = row_at(HWY_MIN(o + 2, n_weights - 1));
    const uint8_t* HWY_RESTRICT w3 = row_at(HWY_MIN(o + 3, n_weights - 1));
    VF acc[4 * M];
    HWY_UNROLL(32)
    for (int i = 0; i < 4 * M; ++i) acc[i] = hn::Zero(d);
    const float* HWY_RESTRICT xk = x;
    for (size_t k = 0; k < end; k += kBytes) {
      HWY_UNROLL(8)
      for (size_t line = 0; line < 4 * kBytes; line += kLine) Fetch(w0 + ahead + 4 * k + line);
      DotStep<W, M>(w0 + k, w1 + k, w2 + k, w3 + k, xk, acc);
      xk += M * kGroup;
    }
    if (rest != 0) {
      alignas(64) uint8_t last[4][kBytes] = {};
      std::memcpy(last[0], w0 + end, rest);
      std::memcpy(last[1], w1 + end, rest);
      std::memcpy(last[2], w2 + end, rest);
      std::memcpy(last[3], w3 + end, rest);
      DotStep<W, M>(last[0], last[1], last[2], last[3], xk, acc);
    }
    float sums[4 * M];
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) {
      StoreLaneSums(acc[4 * m], acc[4 * m + 1], acc[4 * m + 2], acc[4 * m + 3], sums + 4 * m);
    }
    emit(o, sums);
  }
}

// Calls body(std::integral_constant<int, n_cols>()) for n_cols <= kTileCols known at run time.
template <class Body>
HWY_INLINE void WithCols(int n_cols, Body body) {
  switch (n_cols) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
#endif
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#endif  // TANDEM_KERNELS_LINEAR_DOT_TILE_INL_H_
