// A task is the rows of one sequence that stand together in the plan (a block that is verified, or up to
// kMaxQueries of a prefill's) and one kv head, so that a chunk of keys and values is read once for all query
// heads of all those rows. Every query has its own running maximum, sum and accumulator, so its bits know
// nothing of the others.
#include <algorithm>
#include <limits>

#include "kernels/attention/attention.h"
#include "runtime/core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "kernels/linear/dot_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {
namespace {

constexpr int kMaxQueries = 32;
constexpr int kValueVectors =
    kTileCols > 3 ? 4 : 2;  // of a value row at a time: 4 queries x 4 fill 32 registers
constexpr int kValueQueries = 4;

// Addresses of the rows of one chunk's keys or values.
struct ChunkRows {
  const uint8_t* row[kAttentionChunk];
};

void FindRows(const KvLayer& kv, const void* cache, int slot, int kv_head, int begin, int n,
              ChunkRows& rows) {
  const int64_t row_bytes = kv.head_dim * static_cast<int64_t>(SizeOf(kv.dtype));
  for (int j = 0; j < n;) {
    const int64_t offset = kv.offset(slot, kv_head, begin + j);
    const uint8_t* at = static_cast<const uint8_t*>(cache) + offset * static_cast<int64_t>(SizeOf(kv.dtype));
    const int end = std::min(n, j + kv.page_size - (begin + j) % kv.page_size);
    for (; j < end; ++j, at += row_bytes) rows.row[j] = at;
  }
}

// Keys and values lie in pages, whose ends the processor's own prefetching does not pass.
void FetchRows(const ChunkRows& rows, int n, int64_t row_bytes) {
  for (int j = 0; j < n; ++j) {
    for (int64_t at = 0; at < row_bytes; at += 64) Fetch(rows.row[j] + at);
  }
}

// The queries of a task, and what each knows of the chunks so far.
struct Queries {
  int n;
  const float* q[kMaxQueries];  // [head_dim]
  float* out[kMaxQueries];      // [head_dim] sum of weight * value
  int n_keys[kMaxQueries];
  alignas(64) float max[kMaxQueries];
  alignas(64) float total[kMaxQueries];
  // Of the chunk at hand:
  int n_seen[kMaxQueries];              // keys of it
  alignas(64) float keep[kMaxQueries];  // what the earlier chunks' sums are to be scaled by
};

// A score that is NaN gives a weight that is NaN, which Highway's exp alone would make 0.
HWY_INLINE VF WeightOf(VF score, VF max) {
  const VF x = hn::Sub(score, max);
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(DF(), x));
}

// Turns a chunk's scores, [n][kAttentionChunk], into weights, and updates the queries.
void Softmax(float scale, float* scores, Queries& queries) {
  const DF d;
  const hn::Rebind<int32_t, DF> di;
  const VF minus_infinity = hn::Set(d, -std::numeric_limits<float>::infinity());
  const VF scales = hn::Set(d, scale);
  alignas(64) float new_max[kMaxQueries] = {};
  for (int i = 0; i < queries.n; ++i) {
    float* row = scores + i * kAttentionChunk;
    const int n = queries.n_seen[i];
    VF max = hn::Set(d, queries.max[i]);
    for (int j = 0; j < n; j += kLanes) {
      const auto exists = hn::RebindMask(d, hn::Lt(hn::Iota(di, j), hn::Set(di, n)));
      const VF score = hn::IfThenElse(exists, hn::Mul(hn::LoadU(d, row + j), scales), minus_infinity);
      max = hn::Max(max, score);
      hn::StoreU(score, d, row + j);
    }
    new_max[i] = hn::GetLane(hn::MaxOfLanes(d, max));
  }
  for (int i = 0; i < queries.n; i += kLanes) {
    const VF max = hn::Load(d, new_max + i);
    hn::Store(WeightOf(hn::Load(d, queries.max + i), max), d, queries.keep + i);
    hn::Store(max, d, queries.max + i);
  }
  for (int i = 0; i < queries.n; ++i) {
    // Without keys here the query is done, and keeps its sums as they are.
    if (queries.n_seen[i] == 0) {
      queries.keep[i] = 1;
      continue;
    }
    float* row = scores + i * kAttentionChunk;
    const VF max = hn::Set(d, queries.max[i]);
    VF total = hn::Zero(d);
    for (int j = 0; j < queries.n_seen[i]; j += kLanes) {
      const VF weight = WeightOf(hn::LoadU(d, row + j), max);
      total = hn::Add(total, weight);
      hn::StoreU(weight, d, row + j);
    }
    queries.total[i] = queries.total[i] * queries.keep[i] + SumLanes(total);
  }
}

struct F32Values {
  static HWY_INLINE VF At(const uint8_t* row, int i) { return LoadBytes(DF(), row + i * sizeof(float)); }
};
struct Bf16Values {
  static HWY_INLINE VF At(const uint8_t* row, int i) { return WidenBf16(row + i * sizeof(uint16_t)); }
};

// acc += weights[q][j] * value row j over j in [begin, end), for elements [i, i + C * kLanes) of the rows.
template <class W, int Q, int C>
HWY_INLINE void AddValues(const ChunkRows& values, int begin, int end, int i,
                          const float* HWY_RESTRICT weights, VF (&acc)[Q * C]) {
  for (int j = begin; j < end; ++j) {
    VF value[C];
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) value[c] = W::At(values.row[j], i + c * kLanes);
    HWY_UNROLL(4)
    for (int q = 0; q < Q; ++q) {
      const VF weight = hn::Set(DF(), weights[q * kAttentionChunk + j]);
      HWY_UNROLL(4)
      for (int c = 0; c < C; ++c) acc[q * C + c] = hn::MulAdd(weight, value[c], acc[q * C + c]);
    }
  }
}

// out = out * keep + weights . values, for Q queries from `first` on and C vectors from element i on.
template <class W, int Q, int C>
HWY_NOINLINE void ValueTile(const ChunkRows& values, int first, int i, const float* HWY_RESTRICT weights,
                            const Queries& queries) {
  const DF d;
  const int* n = queries.n_seen + first;
  float* const* out = queries.out + first;
  const int n_common = *std::min_element(n, n + Q);
  VF acc[Q * C];
  HWY_UNROLL(4)
  for (int q = 0; q < Q; ++q) {
    const VF keep = hn::Set(d, queries.keep[first + q]);
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) acc[q * C + c] = hn::Mul(hn::LoadU(d, out[q] + i + c * kLanes), keep);
  }
  AddValues<W, Q, C>(values, 0, n_common, i, weights, acc);
  HWY_UNROLL(4)
  for (int q = 0; q < Q; ++q) {
    VF one[C];
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) one[c] = acc[q * C + c];
    AddValues<W, 1, C>(values, n_common, n[q], i, weights + q * kAttentionChunk, one);
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) hn::StoreU(one[c], d, out[q] + i + c * kLanes);
  }
}

template <class W, int C>
void ValueTileOf(int n_queries, const ChunkRows& values, int first, int i, const float* weights,
                 const Queries& queries) {
  switch (n_queries) {
    case 1:
      return ValueTile<W, 1, C>(values, first, i, weights, queries);
    case 2:
      return ValueTile<W, 2, C>(values, first, i, weights, queries);
    case 3:
      return ValueTile<W, 3, C>(values, first, i, weights, queries);
    case 4:
      return ValueTile<W, 4, C>(values, first, i, weights, queries);
  }
}

// The elements of a row past its last whole vector, for one query.
void AddLastValues(const ChunkRows& values, const KvLayer& kv, int q, int i, const float* weights,
                   const Queries& queries) {
  const int left = kv.head_dim - i;
  VF acc = hn::Mul(LoadUpTo(queries.out[q] + i, left), hn::Set(DF(), queries.keep[q]));
  for (int j = 0; j < queries.n_seen[q]; ++j) {
    const View row = {values.row[j], kv.dtype, 1, kv.head_dim};
    acc = hn::MulAdd(hn::Set(DF(), weights[j]), LoadUpTo(row, i, left), acc);
  }
  StoreUpTo(acc, queries.out[q] + i, left);
}

template <class W>
void AddChunkValues(const ChunkRows& values, const KvLayer& kv, const float* weights,
                    const Queries& queries) {
  const int d = kv.head_dim;
  for (int first = 0; first < queries.n; first += kValueQueries) {
    const int n = std::min(kValueQueries, queries.n - first);
    const float* tile_weights = weights + first * kAttentionChunk;
    int i = 0;
    for (; i + kValueVectors * kLanes <= d; i += kValueVectors * kLanes) {
      ValueTileOf<W, kValueVectors>(n, values, first, i, tile_weights, queries);
    }
    for (; i + kLanes <= d; i += kLanes) ValueTileOf<W, 1>(n, values, first, i, tile_weights, queries);
    if (i == d) continue;
    for (int q = 0; q < n; ++q) {
      AddLastValues(values, kv, first + q, i, tile_weights + q * kAttentionChunk, queries);
    }
  }
}

// scores[m][j] = key j . query m, for M queries of a tile and n keys.
template <class Keys, int M>
HWY_NOINLINE void ScoreTile(const ChunkRows& keys, int n, int head_dim, const float* packed, float* scores) {
  const auto row_at = [&](int64_t j) HWY_ATTR { return keys.row[j]; };
  const auto emit = [&](int64_t j, const float* sums) HWY_ATTR {
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) {
      std::memcpy(scores + m * kAttentionChunk + j, sums + m * kTileRows, kTileRows * sizeof(float));
    }
  };
  DotTiles<Keys, M>(n, row_at, head_dim, packed, kTileRows * head_dim * static_cast<int64_t>(Keys::kSize),
                    emit);
}

template <class Keys>
void Scores(const ChunkRows& keys, int n, int head_dim, int n_queries, const float* packed, float* scores) {
  const Tiles tiles(n_queries);
  for (int tile = 0; tile < tiles.n_tiles; ++tile) {
    const int first = tiles.begin(tile);
    WithCols(tiles.begin(tile + 1) - first, [&](auto cols) HWY_ATTR {
      ScoreTile<Keys, cols()>(keys, n, head_dim, packed + first * PaddedLength(head_dim),
                              scores + first * kAttentionChunk);
    });
  }
}

template <class Keys, class Values, bool kEvenOdd>
void Attend(const AttentionArgs& args, int slot, int kv_head, Queries& queries) {
  const KvLayer& kv = args.kv;
  const int d = kv.head_dim;
  const int64_t row_bytes = d * static_cast<int64_t>(SizeOf(kv.dtype));
  alignas(64) float packed[kMaxQueries * kAttentionMaxHeadDim];
  alignas(64) float scores[kMaxQueries * kAttentionChunk];
  const Tiles tiles(queries.n);
  for (int tile = 0; tile < tiles.n_tiles; ++tile) {
    const int begin = tiles.begin(tile), end = tiles.begin(tile + 1);
    for (int i = begin; i < end; ++i) {
      const float* q = queries.q[i];
      const auto value_at = [&](int64_t k) HWY_ATTR { return LoadUpTo(q + k, d - k); };
      PackColumn<kEvenOdd>(d, i - begin, end - begin, value_at, packed + begin * PaddedLength(d));
    }
  }
  for (int i = 0; i < queries.n; ++i) std::fill(queries.out[i], queries.out[i] + d, 0.f);
  const int n_keys = *std::max_element(queries.n_keys, queries.n_keys + queries.n);
  const auto chunk_size = [&](int begin) { return std::clamp(n_keys - begin, 0, kAttentionChunk); };

  ChunkRows keys, values;
  FindRows(kv, kv.k, slot, kv_head, 0, chunk_size(0), keys);
  for (int begin = 0; begin < n_keys; begin += kAttentionChunk) {
    const int n = chunk_size(begin);
    FindRows(kv, kv.v, slot, kv_head, begin, n, values);
    FetchRows(values, n, row_bytes);
    Scores<Keys>(keys, n, d, queries.n, packed, scores);
    const int next = begin + kAttentionChunk;
    FindRows(kv, kv.k, slot, kv_head, next, chunk_size(next), keys);
    FetchRows(keys, chunk_size(next), row_bytes);
    for (int i = 0; i < queries.n; ++i) queries.n_seen[i] = std::clamp(queries.n_keys[i] - begin, 0, n);
    Softmax(args.scale, scores, queries);
    AddChunkValues<Values>(values, kv, scores, queries);
  }
  for (int i = 0; i < queries.n; ++i) {
    const VF total = hn::Set(DF(), queries.total[i]);
    float* out = queries.out[i];
    for (int k = 0; k < d; k += kLanes) StoreUpTo(hn::Div(LoadUpTo(out + k, d - k), total), out + k, d - k);
  }
}

// Queries [first, first + kMaxQueries) of the n_queries that rows from `begin` on have for one kv head.
void AttendSome(const AttentionArgs& args, int begin, int kv_head, int first, int n_queries) {
  const int group = args.n_heads / args.kv.n_kv_heads;
  Queries queries;
  queries.n = std::min(kMaxQueries, n_queries - first);
  for (int i = 0; i < kMaxQueries; ++i) {
    queries.max[i] = -std::numeric_limits<float>::infinity();
    queries.total[i] = 0;
  }
  for (int i = 0; i < queries.n; ++i) {
    const int64_t r = begin + (first + i) / group;
    const int64_t head = (r * args.n_heads + kv_head * group + (first + i) % group) * args.kv.head_dim;
    queries.q[i] = args.q + head;
    queries.out[i] = args.out + head;
    queries.n_keys[i] = args.rows.position[r] + 1;
  }
  const int slot = args.rows.slot[begin];
  if (args.kv.dtype == DType::kF32) {
    Attend<F32Weights, F32Values, false>(args, slot, kv_head, queries);
  } else {
    Attend<Bf16Weights, Bf16Values, true>(args, slot, kv_head, queries);
  }
}

void Attention(const AttentionArgs& args, Worker worker) {
  const KvLayer& kv = args.kv;
  const int group = args.n_heads / kv.n_kv_heads;
  const int max_rows = std::max(1, kMaxQueries / group);
  const int n_rows = *args.rows.n_rows;
  const auto run_end = [&](int begin) {
    int end = begin + 1;
    while (end < n_rows && end - begin < max_rows && args.rows.slot[end] == args.rows.slot[begin]) ++end;
    return end;
  };
  int n_runs = 0;
  for (int begin = 0; begin < n_rows; begin = run_end(begin)) ++n_runs;
  const Share share = ShareOf(static_cast<int64_t>(n_runs) * kv.n_kv_heads, worker);

  int64_t task = 0;
  for (int begin = 0, end = 0; begin < n_rows; begin = end) {
    end = run_end(begin);
    for (int kv_head = 0; kv_head < kv.n_kv_heads; ++kv_head, ++task) {
      if (task < share.begin || task >= share.end) continue;
      const int n_queries = (end - begin) * group;
      for (int first = 0; first < n_queries; first += kMaxQueries) {
        AttendSome(args, begin, kv_head, first, n_queries);
      }
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem {

HWY_EXPORT(Attention);
void AttentionCpu(const AttentionArgs& args, Worker worker) {
  TANDEM_CHECK(args.kv.head_dim <= kAttentionMaxHeadDim) << args.kv.head_dim;
  HWY_DYNAMIC_DISPATCH(Attention)(args, worker);
}

}  // namespace tandem
#endif  // HWY_ONCE
