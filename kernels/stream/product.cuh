// A product of the stream kernel.
#ifndef TANDEM_KERNELS_STREAM_PRODUCT_CUH_
#define TANDEM_KERNELS_STREAM_PRODUCT_CUH_

#include <algorithm>

#include "kernels/linear/weight_map.cuh"
#include "kernels/stream/input.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

// Where the workers are in the ring, and how many groups they have finished.
struct Progress {
  int stage = 0;
  uint32_t parity = 0;
  uint32_t n_groups = 0;
};

// What a thread multiplies with: its lane's place in tiles and in the input.
class Multiplier {
 public:
  __device__ __forceinline__ Multiplier(const Product& product, int n_rows)
      : warp_(Thread() / 32),
        lane_(Thread() % 32),
        n_stages_(Common().params.n_stages),
        first_(BoxByte(lane_)),
        tile_(Ring() + warp_ * kTileRows / 2 * kMapCols * 2),
        full_(SharedAddress(Common().full)),
        empty_(SharedAddress(Common().empty)),
        in_dim_(product.tiles.in_dim),
        chunk_bytes_(n_rows * 64),
        has_row_(lane_ / 4 < n_rows),
        in_offset_((warp_ * 2 * n_rows + lane_ / 4) * 64 + lane_ % 4 * 16) {}

  // This warp's columns of a tile: two chunks of two rows.
  struct Part {
    uint4 low[2], high[2];
  };
  // Of the next tile in the ring, which is free then.
  __device__ __forceinline__ Part Take(Progress& progress) const {
    WaitFor(full_ + 8 * progress.stage, progress.parity);
    const char* tile = tile_ + progress.stage * kTileBytes;
    Part part;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const char* at = tile + (first_ ^ u * 64);
      part.low[u] = At(at);
      part.high[u] = At(at + kHalfBytes);
    }
    __syncwarp();
    if (lane_ == 0) Arrive(empty_ + 8 * progress.stage);
    if (++progress.stage == n_stages_) progress.stage = 0, progress.parity ^= 1;
    return part;
  }
  // `input`: of the tile's first column, which is column k.
  __device__ __forceinline__ void Add(const Part& part, int k, const char* input, float (&sum)[4]) const {
    if (k + warp_ * kMapCols >= in_dim_) return;
    // Lanes that have no row bring zeros.
    const char* in = has_row_ ? input + in_offset_ : reinterpret_cast<const char*>(Common().zeros);
    const uint4 x = At(in), y = At(in + (has_row_ ? chunk_bytes_ : 0));
    strands::AddChunk(sum, part.low[0], part.high[0], x);
    strands::AddChunk(sum, part.low[1], part.high[1], y);
  }
  // Tiles of columns begin .. end; `input` holds them from column `begin` on.
  __device__ __forceinline__ void AddTiles(int begin, int end, const char* input, Progress& progress,
                                           float (&sum)[4]) const {
#pragma unroll 1
    for (int k = begin; k < end; k += kTileCols, input += tile_input_bytes()) {
      const Part part = Take(progress);
      Add(part, k, input, sum);
    }
  }
  __device__ __forceinline__ int tile_input_bytes() const {
    return kTileCols / strands::kChunk * chunk_bytes_;
  }

 private:
  static __device__ __forceinline__ uint4 At(const char* p) { return *reinterpret_cast<const uint4*>(p); }

  const int warp_, lane_, n_stages_;
  const int first_;  // of this lane's 16 bytes of the first chunk
  const char* const tile_;
  const uint32_t full_, empty_;
  const int in_dim_, chunk_bytes_;
  const bool has_row_;
  const int in_offset_;
};

// Ends the outputs of groups, in rising order: 16 threads a row, gated 8. Groups take turns in whose threads: those are late
// for the next one.
class Finisher {
 public:
  // `first`: the first of them.
  __device__ __forceinline__ Finisher(const Product& product, int first, int n_rows)
      : product_(product),
        n_rows_(n_rows),
        output_(product.output),
        shift_(output_ == Output::kGated ? 3 : 4),
        place_(Thread() & ((1 << shift_) - 1)) {
    Enter(0);
    const int thread = Thread();
    if (thread < n_rows) {
      Common().out_row[thread] = product.dst != nullptr ? __ldcg(product.dst + thread) : thread;
    }
    const float* gain = product.segment[0].gain;
    const int group = first + thread * static_cast<int>(gridDim.x);
    if (gain != nullptr && group < product.tiles.n_groups)
      asm volatile("prefetch.global.L1 [%0];" ::"l"(gain + group * kTileRows));
  }

  __device__ __forceinline__ void Finish(int group, const float (&sum)[4], Progress& progress) {
    float* sums = Common().sums[progress.n_groups & 1][0][0];
    const int lane = Thread() % 32, t = lane % 4;
    float* mine = sums + (Thread() / 32 * kMaxRows + 2 * t) * kSumPitch + BoxRow(lane);
    if (2 * t < n_rows_) mine[0] = sum[0], mine[8] = sum[2];
    if (2 * t + 1 < n_rows_) mine[kSumPitch] = sum[1], mine[kSumPitch + 8] = sum[3];
    const int thread = (Thread() - 32 * static_cast<int>(progress.n_groups++)) & (kWorkerThreads - 1);
    while (group >= end_) Enter(segment_ + 1);
    Meet();
    const int row = thread >> shift_, output = ((group - begin_) << shift_) + place_;
    if (row < n_rows_ && output < n_outputs_) End(sums, group, row, output);
  }

 private:
  __device__ __forceinline__ void Enter(int segment) {
    segment_ = segment;
    const Tiles& tiles = product_.tiles;
    const bool last = output_ == Output::kGated || segment + 1 == kMaxSegments;
    begin_ = tiles.first_group[segment];
    end_ = last ? 1 << 30 : tiles.first_group[segment + 1];
    n_outputs_ = tiles.n_outputs[segment];
  }
  __device__ __forceinline__ void End(const float* sums, int group, int row, int output) const {
    const Segment& to = product_.segment[segment_];
    const int turn = Common().turn;
    const int64_t at = Common().out_row[row] * to.out_stride + output;
    const float value = Total(sums, row, 0, to.bias, output);
    switch (output_) {
      case Output::kF32:
        StoreRelaxed(to.out.at<float>(turn) + at, value);
        break;
      case Output::kResidual: {
        float& old = Common().residual[group / static_cast<int>(gridDim.x)][row][place_];
        const bool first = to.old.data != nullptr;
        old = (first ? __ldcg(to.old.at<float>(turn) + row * to.out_stride + output) : old) + value;
        if (to.gain == nullptr) break;  // nobody reads it
        StorePair(to.out.at<uint16_t>(turn) + at, old * to.gain[output]);
        const float sum = strands::GroupSum(0xffffu << (Thread() & 16), old * old);
        if (place_ == 0)
          StoreRelaxed(to.squares.at<float>(turn) + row * (n_outputs_ / strands::kSquares) + group, sum);
        break;
      }
      case Output::kGated: {
        const float up = Total(sums, row, 8, product_.segment[1].bias, output);
        StorePair(to.out.at<uint16_t>(turn) + at, value / (1.f + expf(-value)) * up);
        break;
      }
      case Output::kLogits:
        to.out.at<float>(turn)[at] = value;
        break;
    }
  }
  __device__ __forceinline__ float Total(const float* sums, int row, int from, const float* bias,
                                         int output) const {
    const float* at = sums + row * kSumPitch + place_ + from;
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWorkers; ++s) total += at[s * kMaxRows * kSumPitch];
    if (product_.scaled) total *= Common().scale[row];
    return bias != nullptr ? total + bias[output] : total;
  }

  const Product& product_;
  const int n_rows_;
  const Output output_;
  const int shift_, place_;
  int segment_ = 0, begin_ = 0, end_ = 0, n_outputs_ = 0;
};

// The input by slabs, two of which fit: the next one is asked for while one is multiplied. At most two groups a block.
__device__ __forceinline__ void MultiplySlabs(const Product& product, const Multiplier& multiplier,
                                              Finisher& finisher, int first, int n_rows, Progress& progress) {
  static_assert(kMaxHeld == 2);
  const Tiles& tiles = product.tiles;
  const int in_dim = tiles.in_dim, n_tiles = (in_dim + kTileCols - 1) / kTileCols;
  const int slab_cols = tiles.slab_tiles * kTileCols, half_bytes = Common().params.work_bytes / 2;
  const int second = first + static_cast<int>(gridDim.x), n_held = second < tiles.n_groups ? 2 : 1;
  float sum[4] = {0, 0, 0, 0}, second_sum[4] = {0, 0, 0, 0};
  Pieces pieces(product, n_rows);
  // The first turn only loads.
#pragma unroll 1
  for (int col = -slab_cols, half = 1; col < in_dim; half ^= 1) {
    const int next = col + slab_cols, end = min(next, in_dim);
    const char *work = Work() + half * half_bytes, *next_work = Work() + (half ^ 1) * half_bytes;
    pieces.Begin(next, max(0, min(slab_cols, in_dim - next)), next_work);
    pieces.Ask(0, slab_cols);
    // Of two slabs, perhaps.
    const int part_end =
        col < 0 ? 0
                : min(PartEnd(tiles.order, col / kTileCols, tiles.slab_tiles, n_tiles) * kTileCols, in_dim);
#pragma unroll 1
    for (int held = 0; held < (col < 0 ? 0 : n_held); ++held) {
      multiplier.AddTiles(col, end, work, progress, sum);
      if (part_end > end) {
        if (held == 0) {
          pieces.Await(false);
          Meet();
        }
        multiplier.AddTiles(end, part_end, next_work, progress, sum);
      }
      if (part_end == in_dim) finisher.Finish(held == 0 ? first : second, sum, progress);
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // the other group's turn
        const float other = second_sum[i];
        second_sum[i] = sum[i];
        sum[i] = n_held == 2 ? other : second_sum[i];
      }
    }
    if (part_end == in_dim) break;
    pieces.Await(false);
    Meet();
    col = next;
  }
}

// The input in halves: its first columns come from groups that blocks ended first. The first groups begin with those, and so
// make room in the ring, while the other columns are on their way.
__device__ __forceinline__ void MultiplyHalves(const Product& product, const Multiplier& multiplier,
                                               Finisher& finisher, int first, int n_rows,
                                               Progress& progress) {
  constexpr int kHalfTiles = kMaxHidden / kTileCols / 2, kHalf = kHalfTiles * kTileCols;
  const int n_blocks = static_cast<int>(gridDim.x), n_groups = product.tiles.n_groups;
  const int tile_bytes = multiplier.tile_input_bytes();
  const char* second_half = Work() + kHalfTiles * tile_bytes;
  // Registers hold what would fill up the ring: of two groups.
  Multiplier::Part held[2 * kHalfTiles];
  Pieces pieces(product, n_rows);
  Scales scales(product, n_rows);
  pieces.Begin(0, kHalf, Work());
  scales.Ask();
  pieces.Ask(0, kHalf);
  const bool much = n_rows > 2;
#pragma unroll
  for (int i = 0; i < 2 * kHalfTiles; ++i) held[i] = multiplier.Take(progress);
  pieces.Await(much);
  Meet();
  Mark(1);
  float sum[kEarlyGroups][4] = {};
  const auto turn = [&] {  // the next group's
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float first_sum = sum[0][i];
#pragma unroll
      for (int g = 0; g + 1 < kEarlyGroups; ++g) sum[g][i] = sum[g + 1][i];
      sum[kEarlyGroups - 1][i] = first_sum;
    }
  };
#pragma unroll
  for (int i = 0; i < kHalfTiles; ++i)
    multiplier.Add(held[i], i * kTileCols, Work() + i * tile_bytes, sum[0]);
  pieces.Begin(kHalf, kHalf, second_half);
  pieces.Ask(0, kHalf);
  turn();
#pragma unroll
  for (int i = 0; i < kHalfTiles; ++i)
    multiplier.Add(held[kHalfTiles + i], i * kTileCols, Work() + i * tile_bytes, sum[0]);
  turn();
#pragma unroll 1
  for (int g = 2; g < kEarlyGroups; ++g) {
    if (first + g * n_blocks < n_groups) multiplier.AddTiles(0, kHalf, Work(), progress, sum[0]);
    turn();
  }
  pieces.Await(much);
  Meet();
  scales.Take();  // wanted at the end of a group
  int group = first;
#pragma unroll 1
  for (int g = 0; g < kEarlyGroups; ++g, group += n_blocks) {
    if (group < n_groups) {
      multiplier.AddTiles(kHalf, kMaxHidden, second_half, progress, sum[0]);
      finisher.Finish(group, sum[0], progress);
    }
    turn();
  }
#pragma unroll 1
  for (; group < n_groups; group += n_blocks) {
#pragma unroll
    for (float& s : sum[0]) s = 0;
    multiplier.AddTiles(0, kMaxHidden, Work(), progress, sum[0]);
    finisher.Finish(group, sum[0], progress);
  }
  Mark(2);
}

// The input as a whole. While it is on its way, registers hold what would fill up the ring: tiles of the first group.
template <int kHeld>
__device__ __forceinline__ void MultiplyWhole(const Product& product, const Multiplier& multiplier,
                                              Finisher& finisher, int first, int n_rows, Progress& progress) {
  const int in_dim = product.tiles.in_dim;
  Multiplier::Part held[std::max(kHeld, 1)];
  const auto hold = [&] {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = multiplier.Take(progress);
  };
  if (product.input == Input::kBf16) {
    Pieces pieces(product, n_rows);
    Scales scales(product, n_rows);
    pieces.Begin(0, in_dim, Work());
    scales.Ask();
    pieces.Ask(0, in_dim);
    hold();
    pieces.Await(in_dim * n_rows > 2 * kPieceCols);
    Meet();
    Mark(1);
    scales.Take();  // wanted at the end of a group
  } else {
    hold();
    LoadFirst(product, n_rows);
    Meet();
    Mark(1);
  }
  float sum[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    multiplier.Add(held[i], i * kTileCols, Work() + i * multiplier.tile_input_bytes(), sum);
  int begin = kHeld * kTileCols;
#pragma unroll 1
  for (int group = first; group < product.tiles.n_groups; group += static_cast<int>(gridDim.x)) {
    multiplier.AddTiles(begin, in_dim, Work() + begin / kTileCols * multiplier.tile_input_bytes(), progress,
                        sum);
    finisher.Finish(group, sum, progress);
#pragma unroll
    for (float& s : sum) s = 0;
    begin = 0;
  }
  Mark(2);
}

__device__ __forceinline__ void RunProduct(const Product& product, Round& round, Progress& progress) {
  const int n_rows = product.tiles.count == 0 ? Common().n_rows : Common().n_logits;
  if (n_rows == 0) return;
  const int first = round.Next(product.tiles);
  if (first >= product.tiles.n_groups) return;
  // What does not need the input comes before it.
  const Multiplier multiplier(product, n_rows);
  Finisher finisher(product, first, n_rows);
  const int n_tiles = product.tiles.in_dim / kTileCols;
  if (product.tiles.order == Order::kHalves && first + static_cast<int>(gridDim.x) < product.tiles.n_groups) {
    MultiplyHalves(product, multiplier, finisher, first, n_rows, progress);
  } else if (product.tiles.order == Order::kSlabs) {
    MultiplySlabs(product, multiplier, finisher, first, n_rows, progress);
  } else if (n_tiles >= 8) {
    MultiplyWhole<8>(product, multiplier, finisher, first, n_rows, progress);
  } else if (n_tiles >= 4) {
    MultiplyWhole<4>(product, multiplier, finisher, first, n_rows, progress);
  } else {
    MultiplyWhole<0>(product, multiplier, finisher, first, n_rows, progress);
  }
}

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_PRODUCT_CUH_
