#include "kernels/linear/linear_bf16.h"

#include "runtime/core/check.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined operands in its own intrinsics for uninitialized variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace tandem {

bool HasLinearBf16(const LinearArgs& args) {
  if (!args.round_bf16 || !__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw"))
    return false;
  for (int s = 0; s < args.n_segments; ++s) {
    if (args.segment[s].weight.dtype != DType::kBf16) return false;
  }
  return true;
}

// Nothing of the standard library is used from here to pop_options: its inline functions must not be compiled
// for this processor only.
#pragma GCC push_options
#pragma GCC target("fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

namespace {

constexpr int kTileRows = 4;           // rows of weights in registers
constexpr int kTileCols = 6;           // rows of input: 4 x 6 sums and what feeds them fill 32 registers
constexpr int64_t kGroup = 32;         // bf16 values of a vector
constexpr int64_t kFetchAhead = 8192;  // bytes, as in linear_cpu.cc
constexpr int64_t kPieceBytes = 128 * 1024;  // weights that stay in a cache from tile to tile

int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

__mmask16 MaskOf(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1); }
__mmask32 WideMaskOf(int64_t n) { return n >= 32 ? 0xffffffffu : (1u << n) - 1; }

// Sixteen values of an array of any dtype from k on, zeros past n.
__m512 LoadNorm(const View& view, int64_t k, int64_t n) {
  alignas(64) float values[16] = {};
  for (int64_t i = 0; i < Least(16, n - k); ++i) values[i] = LoadFloat(view.data, view.dtype, k + i);
  return _mm512_load_ps(values);
}

float RmsScale(const float* in, int64_t n, float eps) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t k = 0; k < n; k += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(MaskOf(n - k), in + k);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  return 1.f / __builtin_sqrtf(_mm512_reduce_add_ps(sum) / static_cast<float>(n) + eps);
}

// A tile's rows of input, rounded to bf16: [ceil(in_dim / 32)][n_cols][32], zeros past in_dim. And the rows'
// scales.
void PackTile(const LinearArgs& args, int first, int n_cols, float* scales, uint16_t* out) {
  const int64_t n = args.in_dim;
  for (int m = 0; m < n_cols; ++m) {
    const float* in = args.in + (args.src != nullptr ? args.src[first + m] : first + m) * args.in_stride;
    scales[m] = args.norm ? RmsScale(in, n, args.norm_eps) : 1.f;
    for (int64_t k = 0; k < n; k += 16) {
      __m512 value = _mm512_maskz_loadu_ps(MaskOf(n - k), in + k);
      if (args.norm) value = _mm512_mul_ps(value, LoadNorm(args.norm, k, n));
      const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
      const int64_t group = k / kGroup;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (group * n_cols + m) * kGroup + k % kGroup), half);
    }
    if (n % kGroup != 0 && n % kGroup <= 16) {
      const int64_t group = n / kGroup;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (group * n_cols + m) * kGroup + 16),
                          _mm256_setzero_si256());
    }
  }
}

// The sums of the lanes of four vectors, in one tree.
__m128 LaneSums(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 blocks =
      _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(blocks), _mm512_extractf32x8_ps(blocks, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

template <int M>
inline __attribute__((always_inline)) void DotStep(const __m512i (&w)[kTileRows], const uint16_t* x,
                                                   __m512 (&sum)[M][kTileRows]) {
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m) {
    const __m512bh xm = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x + m * kGroup));
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      sum[m][r] = _mm512_dpbf16_ps(sum[m][r], xm, reinterpret_cast<__m512bh>(w[r]));
    }
  }
}

// Output elements [begin, end) of a segment for M rows of input from `first` on.
template <int M>
void MultiplyTile(const LinearArgs& args, const LinearSegment& segment, int64_t begin, int64_t end, int first,
                  const float* scales, const uint16_t* x) {
  const int64_t n = args.in_dim;
  const int64_t row_bytes = n * 2;
  const int64_t whole = n / kGroup;
  const char* weights = static_cast<const char*>(segment.weight.data);
  for (int64_t o = begin; o < end; o += kTileRows) {
    const char* row[kTileRows];
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) row[r] = weights + Least(o + r, end - 1) * row_bytes;
    const char* ahead = row[0] + kTileRows * row_bytes + kFetchAhead;
    __m512 sum[M][kTileRows];
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) sum[m][r] = _mm512_setzero_ps();
    }
    __m512i w[kTileRows];
    for (int64_t g = 0; g < whole; ++g) {
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) {
        __builtin_prefetch(ahead + (g * kTileRows + r) * 64, 0, 2);
        w[r] = _mm512_loadu_si512(row[r] + g * 64);
      }
      DotStep<M>(w, x + g * M * kGroup, sum);
    }
    if (n % kGroup != 0) {
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r)
        w[r] = _mm512_maskz_loadu_epi16(WideMaskOf(n % kGroup), row[r] + whole * 64);
      DotStep<M>(w, x + whole * M * kGroup, sum);
    }
    const int64_t n_out = Least(kTileRows, end - o);
    const __mmask8 mask = static_cast<__mmask8>((1u << n_out) - 1);
    float bias[kTileRows] = {};
    for (int64_t r = 0; segment.bias && r < n_out; ++r) {
      bias[r] = LoadFloat(segment.bias.data, segment.bias.dtype, o + r);
    }
    for (int m = 0; m < M; ++m) {
      float* out =
          segment.out + (args.dst != nullptr ? args.dst[first + m] : first + m) * segment.out_stride + o;
      const __m128 sums = LaneSums(sum[m][0], sum[m][1], sum[m][2], sum[m][3]);
      __m128 value = _mm_fmadd_ps(sums, _mm_set1_ps(scales[m]), _mm_loadu_ps(bias));
      if (segment.accumulate) value = _mm_add_ps(_mm_maskz_loadu_ps(mask, out), value);
      _mm_mask_storeu_ps(out, mask, value);
    }
  }
}

void MultiplyCols(int n_cols, const LinearArgs& args, const LinearSegment& segment, int64_t begin,
                  int64_t end, int first, const float* scales, const uint16_t* x) {
  switch (n_cols) {
    case 1:
      return MultiplyTile<1>(args, segment, begin, end, first, scales, x);
    case 2:
      return MultiplyTile<2>(args, segment, begin, end, first, scales, x);
    case 3:
      return MultiplyTile<3>(args, segment, begin, end, first, scales, x);
    case 4:
      return MultiplyTile<4>(args, segment, begin, end, first, scales, x);
    case 5:
      return MultiplyTile<5>(args, segment, begin, end, first, scales, x);
    case 6:
      return MultiplyTile<6>(args, segment, begin, end, first, scales, x);
  }
}

struct Tiles {
  explicit Tiles(int n) : n_rows(n), n_tiles((n + kTileCols - 1) / kTileCols) {}
  int begin(int tile) const { return n_rows * tile / n_tiles; }
  int n_rows, n_tiles;
};

}  // namespace

void LinearBf16(const LinearArgs& args, Worker worker) {
  if (*args.n_rows == 0) return;
  const Tiles tiles(*args.n_rows);
  const int64_t padded = (args.in_dim + kGroup - 1) / kGroup * kGroup;
  const LinearSpace space = LinearSpaceOf(args, worker);
  auto* packed = reinterpret_cast<uint16_t*>(space.rows);
  for (int tile = 0; tile < tiles.n_tiles; ++tile) {
    const int first = tiles.begin(tile);
    PackTile(args, first, tiles.begin(tile + 1) - first, space.scales + first, packed + first * padded);
  }
  int64_t n_outputs = 0;
  for (int s = 0; s < args.n_segments; ++s) n_outputs += args.segment[s].weight.n_rows;
  const Share share = ShareOf(n_outputs, worker, 16);
  const int64_t row_bytes = int64_t{args.in_dim} * 2;
  int64_t offset = 0;
  for (int s = 0; s < args.n_segments; ++s) {
    const LinearSegment& segment = args.segment[s];
    const int64_t n = segment.weight.n_rows;
    const int64_t from = Most(0, Least(n, share.begin - offset));
    const int64_t to = Most(0, Least(n, share.end - offset));
    offset += n;
    const int64_t piece =
        tiles.n_tiles == 1 ? Most(1, to - from) : Most(1, kPieceBytes / row_bytes / kTileRows) * kTileRows;
    for (int64_t begin = from; begin < to; begin += piece) {
      for (int tile = 0; tile < tiles.n_tiles; ++tile) {
        const int first = tiles.begin(tile);
        MultiplyCols(tiles.begin(tile + 1) - first, args, segment, begin, Least(begin + piece, to), first,
                     space.scales + first, packed + first * padded);
      }
    }
  }
}

#pragma GCC pop_options

}  // namespace tandem

#else

namespace tandem {

bool HasLinearBf16(const LinearArgs&) { return false; }
void LinearBf16(const LinearArgs&, Worker) { TANDEM_CHECK(false) << "no AVX512-BF16 here"; }

}  // namespace tandem

#endif
