#include <algorithm>

#include "kernels/linear/linear.h"
#include "kernels/linear/linear_bf16.h"
#include "kernels/linear/wide_linear.h"
#include "runtime/core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/linear_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/linear/dot_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {
namespace {

// How far behind the weights in use the next ones are fetched: memory's latency times its rate, with a
// margin. (The processor's own prefetching ends at every page of 4 KiB and loses the thread with 4 rows at a
// time.)
constexpr int64_t kFetchAhead = 8192;
constexpr int64_t kPieceBytes = 128 * 1024;

template <bool kEvenOdd>
void Pack(const LinearArgs& args, int64_t padded, LinearSpace space) {
  const int64_t n = args.in_dim;
  const Tiles tiles(*args.n_rows);
  for (int tile = 0; tile < tiles.n_tiles; ++tile) {
    const int begin = tiles.begin(tile), end = tiles.begin(tile + 1);
    for (int m = begin; m < end; ++m) {
      const float* in = args.in + (args.src ? args.src[m] : m) * args.in_stride;
      space.scales[m] = args.norm ? RmsScale(in, n, args.norm_eps) : 1.f;
      const auto value_at = [&](int64_t k) HWY_ATTR {
        VF value = LoadUpTo(in + k, n - k);
        if (args.norm) value = hn::Mul(value, LoadUpTo(args.norm, k, n - k));
        return args.round_bf16 ? RoundToBf16(value) : value;
      };
      PackColumn<kEvenOdd>(n, m - begin, end - begin, value_at, space.rows + begin * padded);
    }
  }
}

// The outputs of 4 weight rows for one row of the input, of which n exist.
HWY_INLINE void Emit(const float* sums, float scale, const float* bias, int64_t n, bool accumulate,
                     float* out) {
#if HWY_TARGET != HWY_SCALAR
  if (HWY_LIKELY(n >= kTileRows)) {
    const hn::Full128<float> d;
    auto value = hn::Add(hn::Mul(hn::LoadU(d, sums), hn::Set(d, scale)), hn::LoadU(d, bias));
    if (accumulate) value = hn::Add(hn::LoadU(d, out), value);
    hn::StoreU(value, d, out);
    return;
  }
#endif
  for (int64_t i = 0; i < HWY_MIN(n, kTileRows); ++i) {
    const float value = sums[i] * scale + bias[i];
    out[i] = accumulate ? out[i] + value : value;
  }
}

// Output elements [begin, end) of a segment for the M rows from first_row on, prepared in x.
template <class W, int M>
HWY_NOINLINE void MultiplyTile(const LinearArgs& args, const LinearSegment& segment, int64_t begin,
                               int64_t end, int first_row, const float* scales, const float* x) {
  const int64_t row_bytes = args.in_dim * static_cast<int64_t>(W::kSize);
  const uint8_t* weights = static_cast<const uint8_t*>(segment.weight.data) + begin * row_bytes;
  float* out[M];
  for (int m = 0; m < M; ++m) {
    const int row = args.dst ? args.dst[first_row + m] : first_row + m;
    out[m] = segment.out + row * segment.out_stride + begin;
  }
  const auto row_at = [&](int64_t o) HWY_ATTR { return weights + o * row_bytes; };
  const auto emit = [&](int64_t o, const float* sums) HWY_ATTR {
    const int64_t n = end - begin - o;
    float bias[kTileRows] = {};
    if (segment.bias) {
      for (int64_t i = 0; i < HWY_MIN(n, kTileRows); ++i) {
        bias[i] = LoadFloat(segment.bias.data, segment.bias.dtype, begin + o + i);
      }
    }
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m)
      Emit(sums + m * kTileRows, scales[m], bias, n, segment.accumulate, out[m] + o);
  };
  DotTiles<W, M>(end - begin, row_at, args.in_dim, x, kTileRows * row_bytes + kFetchAhead, emit);
}

// Output elements of the share for all rows, taken in pieces of weights that stay in a cache from tile to
// tile.
template <class W>
void Multiply(const LinearArgs& args, const LinearSegment& segment, Share share, int64_t padded,
              LinearSpace space) {
  const Tiles tiles(*args.n_rows);
  const int64_t row_bytes = args.in_dim * static_cast<int64_t>(W::kSize);
  const int64_t piece = tiles.n_tiles == 1
                            ? share.end - share.begin
                            : std::max<int64_t>(kPieceBytes / row_bytes / kTileRows, 1) * kTileRows;
  for (int64_t begin = share.begin; begin < share.end; begin += piece) {
    const int64_t end = std::min(begin + piece, share.end);
    for (int tile = 0; tile < tiles.n_tiles; ++tile) {
      const int first = tiles.begin(tile);
      WithCols(tiles.begin(tile + 1) - first, [&](auto cols) HWY_ATTR {
        MultiplyTile<W, cols()>(args, segment, begin, end, first, space.scales + first,
                                space.rows + first * padded);
      });
    }
  }
}

void Linear(const LinearArgs& args, Worker worker) {
  TANDEM_DCHECK(*args.n_rows <= args.max_rows) << *args.n_rows << " of " << args.max_rows;
  if (*args.n_rows == 0) return;
  const int64_t padded = PaddedLength(args.in_dim);
  const LinearSpace space = LinearSpaceOf(args, worker);
  int64_t n_outputs = 0;
  for (int s = 0; s < args.n_segments; ++s) n_outputs += args.segment[s].weight.n_rows;
  // One share of all segments' outputs; a granule of a cache line, so that workers do not write to the same
  // one.
  const Share share = ShareOf(n_outputs, worker, 16);
  int64_t first = 0;
  int packed_for = -1;
  for (int s = 0; s < args.n_segments; ++s) {
    const LinearSegment& segment = args.segment[s];
    const int64_t n = segment.weight.n_rows;
    const Share part = {std::clamp<int64_t>(share.begin - first, 0, n),
                        std::clamp<int64_t>(share.end - first, 0, n)};
    first += n;
    if (part.begin == part.end) continue;
    const int even_odd = segment.weight.dtype == DType::kBf16;
    if (packed_for != even_odd) even_odd ? Pack<true>(args, padded, space) : Pack<false>(args, padded, space);
    packed_for = even_odd;
    switch (segment.weight.dtype) {
      case DType::kF32:
        Multiply<F32Weights>(args, segment, part, padded, space);
        break;
      case DType::kBf16:
        Multiply<Bf16Weights>(args, segment, part, padded, space);
        break;
      case DType::kF16:
        Multiply<F16Weights>(args, segment, part, padded, space);
        break;
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem {

HWY_EXPORT(Linear);

namespace {
// To the largest group of values that a target takes, which is two lines of a cache.
int64_t RoundedUp(int64_t n) { return (n + 31) / 32 * 32; }
}  // namespace

int64_t LinearScratch(int32_t max_rows, int32_t in_dim) {
  return std::max(RoundedUp(max_rows) + max_rows * RoundedUp(in_dim), wide::Scratch(max_rows, in_dim));
}

LinearSpace LinearSpaceOf(const LinearArgs& args, Worker worker) {
  float* begin = args.scratch + worker.index * LinearScratch(args.max_rows, args.in_dim);
  return {begin, begin + RoundedUp(args.max_rows)};
}

void LinearCpu(const LinearArgs& args, Worker worker) {
  if (HasLinearBf16(args)) return LinearBf16(args, worker);
  HWY_DYNAMIC_DISPATCH(Linear)(args, worker);
}

}  // namespace tandem
#endif  // HWY_ONCE
