// A task is the rows of one sequence that stand together in the plan (a block that is verified, or up to
// kMaxQueries of a prefill's) and one kv head, so that a chunk of keys and values is read once for all query
// heads of all those rows. Every query has its own running maximum, sum and accumulator, so its bits know
// nothing of the others.
#include <algorithm>
#include <limits>

#include "kernels/attention/attention.h"
#include "runtime/core/check.h"

#define HWY_DISABLED_TARGETS HWY_SSSE3
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
  const int64_t size = static_cast<int64_t>(SizeOf(kv.dtype));
  const uint8_t* at = nullptr;
  for (int j = 0; j < n; ++j) {
    if (j == 0 || (begin + j) % kv.page_size == 0) {
      at = static_cast<const uint8_t*>(cache) + kv.offset(slot, kv_head, begin + j) * size;
    }
    rows.row[j] = at;
    at += kv.head_dim * size;
  }
}

// Keys and values lie in pages, whose ends the processor's own prefetching does not pass.
void FetchRows(const ChunkRows& rows, int n, int64_t row_bytes) {
  for (int j = 0; j < n; ++j) {
    for (int64_t at = 0; at < row_bytes; at += 64) Fetch(rows.row[j] + at);
  }
}

// One query of a task and its state.
struct Query {
  const float* q;  // [head_dim]
  float* out;      // [head_dim] sum of weight * value over the chunks so far
  int n_keys;
  float max;
  float total;
};

// Turns a chunk's scores into weights and takes them into account; the first n count. Returns what the
// earlier chunks' sums are to be scaled by.
float Softmax(float scale, int n, float* scores, Query& query) {
  const DF d;
  const VF infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  const VF scales = hn::Set(d, scale);
  const hn::Rebind<int32_t, DF> di;
  const auto count = hn::Set(di, n);
  VF max = hn::Neg(infinity);
  for (int j = 0; j < kAttentionChunk; j += kLanes) {
    const auto kept = hn::RebindMask(d, hn::Lt(hn::Iota(di, j), count));
    const VF score = hn::IfThenElse(kept, hn::Mul(hn::LoadU(d, scores + j), scales), hn::Neg(infinity));
    max = hn::Max(max, score);
    hn::StoreU(score, d, scores + j);
  }
  const float new_max = std::max(query.max, hn::GetLane(hn::MaxOfLanes(d, max)));
  const VF maxes = hn::Set(d, new_max);
  // A score that is NaN gives a weight that is NaN, which Highway's exp alone would make 0.
  const auto weight_of = [&](VF score) HWY_ATTR {
    const VF x = hn::Sub(score, maxes);
    return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
  };
  VF total = hn::Zero(d);
  for (int j = 0; j < kAttentionChunk; j += kLanes) {
    const VF weight = weight_of(hn::LoadU(d, scores + j));
    total = hn::Add(total, weight);
    hn::StoreU(weight, d, scores + j);
  }
  const float keep = hn::GetLane(weight_of(hn::Set(d, query.max)));
  query.max = new_max;
  query.total = query.total * keep + SumLanes(total);
  return keep;
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

// out = out * keep + weights . values, for Q queries and C vectors from element i on. Queries see n[q]
// values.
template <class W, int Q, int C>
HWY_NOINLINE void ValueTile(const ChunkRows& values, const int* n, const float* keep, int i,
                            const float* HWY_RESTRICT weights, Query* queries) {
  const DF d;
  const int n_common = *std::min_element(n, n + Q);
  VF acc[Q * C];
  HWY_UNROLL(4)
  for (int q = 0; q < Q; ++q) {
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) {
      acc[q * C + c] = hn::Mul(hn::LoadU(d, queries[q].out + i + c * kLanes), hn::Set(d, keep[q]));
    }
  }
  AddValues<W, Q, C>(values, 0, n_common, i, weights, acc);
  HWY_UNROLL(4)
  for (int q = 0; q < Q; ++q) {
    VF one[C];
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) one[c] = acc[q * C + c];
    AddValues<W, 1, C>(values, n_common, n[q], i, weights + q * kAttentionChunk, one);
    HWY_UNROLL(4)
    for (int c = 0; c < C; ++c) hn::StoreU(one[c], d, queries[q].out + i + c * kLanes);
  }
}

template <class W, int C>
void ValueTileOf(int n_queries, const ChunkRows& values, const int* n, const float* keep, int i,
                 const float* weights, Query* queries) {
  switch (n_queries) {
    case 1:
      return ValueTile<W, 1, C>(values, n, keep, i, weights, queries);
    case 2:
      return ValueTile<W, 2, C>(values, n, keep, i, weights, queries);
    case 3:
      return ValueTile<W, 3, C>(values, n, keep, i, weights, queries);
    case 4:
      return ValueTile<W, 4, C>(values, n, keep, i, weights, queries);
  }
}

// The elements of a row past its last whole vector.
void AddLastValues(const ChunkRows& values, DType dtype, int n, float keep, int i, int head_dim,
                   const float* weights, Query& query) {
  VF acc = hn::Mul(LoadUpTo(query.out + i, head_dim - i), hn::Set(DF(), keep));
  for (int j = 0; j < n; ++j) {
    const View row = {values.row[j], dtype, 1, head_dim};
    acc = hn::MulAdd(hn::Set(DF(), weights[j]), LoadUpTo(row, i, head_dim - i), acc);
  }
  StoreUpTo(acc, query.out + i, head_dim - i);
}

template <class W>
void AddChunkValues(const ChunkRows& values, const KvLayer& kv, int n_queries, const int* n,
                    const float* keep, const float* weights, Query* queries) {
  const int d = kv.head_dim;
  for (int q = 0; q < n_queries; q += kValueQueries) {
    const int n_tile = std::min(kValueQueries, n_queries - q);
    const float* tile_weights = weights + q * kAttentionChunk;
    int i = 0;
    for (; i + kValueVectors * kLanes <= d; i += kValueVectors * kLanes) {
      ValueTileOf<W, kValueVectors>(n_tile, values, n + q, keep + q, i, tile_weights, queries + q);
    }
    for (; i + kLanes <= d; i += kLanes) {
      ValueTileOf<W, 1>(n_tile, values, n + q, keep + q, i, tile_weights, queries + q);
    }
    if (i == d) continue;
    for (int t = 0; t < n_tile; ++t) {
      AddLastValues(values, kv.dtype, n[q + t], keep[q + t], i, d, tile_weights + t * kAttentionChunk,
                    queries[q + t]);
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
void Attend(const AttentionArgs& args, int slot, int kv_head, int n_queries, Query* queries) {
  const KvLayer& kv = args.kv;
  const int d = kv.head_dim;
  alignas(64) float packed[kMaxQueries * kAttentionMaxHeadDim];
  alignas(64) float scores[kMaxQueries * kAttentionChunk];
  const Tiles tiles(n_queries);
  int n_keys = 0;
  for (int tile = 0; tile < tiles.n_tiles; ++tile) {
    const int begin = tiles.begin(tile), end = tiles.begin(tile + 1);
    for (int i = begin; i < end; ++i) {
      const float* q = queries[i].q;
      const auto value_at = [&](int64_t k) HWY_ATTR { return LoadUpTo(q + k, d - k); };
      PackColumn<kEvenOdd>(d, i - begin, end - begin, value_at, packed + begin * PaddedLength(d));
      std::fill(queries[i].out, queries[i].out + d, 0.f);
      n_keys = std::max(n_keys, queries[i].n_keys);
    }
  }
  const int64_t row_bytes = d * static_cast<int64_t>(SizeOf(kv.dtype));
  const auto chunk_size = [&](int begin) { return std::clamp(n_keys - begin, 0, kAttentionChunk); };
  ChunkRows keys, values;
  FindRows(kv, kv.k, slot, kv_head, 0, chunk_size(0), keys);
  for (int begin = 0; begin < n_keys; begin += kAttentionChunk) {
    const int n = chunk_size(begin);
    FindRows(kv, kv.v, slot, kv_head, begin, n, values);
    FetchRows(values, n, row_bytes);
    Scores<Keys>(keys, n, d, n_queries, packed, scores);
    const int next = begin + kAttentionChunk;
    FindRows(kv, kv.k, slot, kv_head, next, chunk_size(next), keys);
    FetchRows(keys, chunk_size(next), row_bytes);
    int n_seen[kMaxQueries];
    float keep[kMaxQueries];
    for (int i = 0; i < n_queries; ++i) {
      n_seen[i] = std::clamp(queries[i].n_keys - begin, 0, n);
      // Without keys here the query is done: weights of none, and its sum kept as it is.
      keep[i] = n_seen[i] ? Softmax(args.scale, n_seen[i], scores + i * kAttentionChunk, queries[i]) : 1.f;
    }
    AddChunkValues<Values>(values, kv, n_queries, n_seen, keep, scores, queries);
  }
  for (int i = 0; i < n_queries; ++i) {
    const VF total = hn::Set(DF(), queries[i].total);
    for (int k = 0; k < d; k += kLanes) {
      StoreUpTo(hn::Div(LoadUpTo(queries[i].out + k, d - k), total), queries[i].out + k, d - k);
    }
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
        const int n = std::min(kMaxQueries, n_queries - first);
        Query queries[kMaxQueries];
        for (int i = 0; i < n; ++i) {
          const int64_t r = begin + (first + i) / group;
          const int64_t head = (r * args.n_heads + kv_head * group + (first + i) % group) * kv.head_dim;
          queries[i] = {args.q + head, args.out + head, args.rows.position[r] + 1,
                        -std::numeric_limits<float>::infinity(), 0.f};
        }
        const int slot = args.rows.slot[begin];
        if (kv.dtype == DType::kF32) {
          Attend<F32Weights, F32Values, false>(args, slot, kv_head, n, queries);
        } else {
          Attend<Bf16Weights, Bf16Values, true>(args, slot, kv_head, n, queries);
        }
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
