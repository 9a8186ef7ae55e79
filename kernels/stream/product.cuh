// A product of the stream kernel.
#ifndef TANDEM_KERNELS_STREAM_PRODUCT_CUH_
#define TANDEM_KERNELS_STREAM_PRODUCT_CUH_

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
      : n_stages_(Common().params.n_stages),
        in_dim_(product.tiles.in_dim),
        chunk_bytes_(n_rows * 64),
        warp_(Thread() / 32),
        lane_(Thread() % 32),
        has_row_(lane_ / 4 < n_rows),
        tile_(Ring() + (lane_ / 4) * kRowPitch + warp_ * 128 + lane_ % 4 * 16),
        in_offset_((warp_ * 2 * n_rows + lane_ / 4) * 64 + lane_ % 4 * 16),
        full_(SharedAddress(Common().full)),
        empty_(SharedAddress(Common().empty)) {}

  // Tiles of columns begin .. end; `input` holds them from column `begin` on.
  __device__ __forceinline__ void AddTiles(int begin, int end, const char* input, Progress& progress,
                                           float (&sum)[4]) const {
    // Lanes that have no row bring zeros.
    const char* in = has_row_ ? input + in_offset_ : reinterpret_cast<const char*>(Common().zeros);
    const int next_chunk = has_row_ ? chunk_bytes_ : 0;
    int k = begin;
#pragma unroll 1
    for (; k + kTileCols <= end; k += kTileCols, in += 16 * next_chunk) {
      const char* tile = tile_ + progress.stage * kTileBytes;
      WaitFor(full_ + 8 * progress.stage, progress.parity);
      const uint4 low = At(tile), high = At(tile + 8 * kRowPitch), x = At(in);
      const uint4 next_low = At(tile + 64), next_high = At(tile + 8 * kRowPitch + 64),
                  y = At(in + next_chunk);
      strands::AddChunk(sum, low, high, x);
      strands::AddChunk(sum, next_low, next_high, y);
      Release(progress);
    }
    if (k >= end) return;
    WaitFor(full_ + 8 * progress.stage, progress.parity);
#pragma unroll 1
    for (int u = 0; u < 2; ++u) {
      if (k + warp_ * 64 + u * 32 >= in_dim_) break;
      const char* tile = tile_ + progress.stage * kTileBytes + u * 64;
      strands::AddChunk(sum, At(tile), At(tile + 8 * kRowPitch), At(in + u * next_chunk));
    }
    Release(progress);
  }

 private:
  static __device__ __forceinline__ uint4 At(const char* p) { return *reinterpret_cast<const uint4*>(p); }
  __device__ __forceinline__ void Release(Progress& progress) const {
    __syncwarp();
    if (lane_ == 0) Arrive(empty_ + 8 * progress.stage);
    if (++progress.stage == n_stages_) progress.stage = 0, progress.parity ^= 1;
  }

  const int n_stages_, in_dim_, chunk_bytes_, warp_, lane_;
  const bool has_row_;
  const char* const tile_;
  const int in_offset_;
  const uint32_t full_, empty_;
};

// Ends the outputs of groups, in rising order: thread i output i % 16 of row i / 16; gated, i % 8 of row i / 8.
class Finisher {
 public:
  // `first`: the first of them.
  __device__ __forceinline__ Finisher(const Product& product, int first, int n_rows)
      : product_(product),
        thread_(Thread()),
        n_rows_(n_rows),
        output_(product.output),
        shift_(output_ == Output::kGated ? 3 : 4),
        row_(thread_ >> shift_),
        place_(thread_ & ((1 << shift_) - 1)) {
    Enter(0);
    if (gain_ == nullptr || row_ >= n_rows) return;
    for (int group = first; group < product.tiles.n_groups; group += static_cast<int>(gridDim.x)) {
      asm volatile("prefetch.global.L1 [%0];" ::"l"(gain_ + group * kTileRows + place_));
    }
  }

  __device__ __forceinline__ void Finish(int group, const float (&sum)[4], Progress& progress) {
    float* sums = Common().sums[progress.n_groups++ & 1][0][0];
    const int lane = thread_ % 32, g = lane / 4, t = lane % 4;
    float* mine = sums + (thread_ / 32 * kMaxRows + 2 * t) * kSumPitch + g;
    if (2 * t < n_rows_) mine[0] = sum[0], mine[8] = sum[2];
    if (2 * t + 1 < n_rows_) mine[kSumPitch] = sum[1], mine[kSumPitch + 8] = sum[3];
    Meet();
    if (row_ >= n_rows_) return;
    while (group >= end_) Enter(segment_ + 1);
    const int output = ((group - begin_) << shift_) + place_;
    if (output >= n_outputs_) return;
    const float value = Total(sums, 0, bias_, output);
    float* out = out_ + output;
    switch (output_) {
      case Output::kF32:
        StoreRelaxed(out, value);
        break;
      case Output::kResidual: {
        float& old = Common().residual[group / static_cast<int>(gridDim.x)][row_][place_];
        old = (old_ != nullptr ? __ldcg(old_ + output) : old) + value;
        if (gain_ == nullptr) break;  // nobody reads it
        StoreBf16(reinterpret_cast<uint16_t*>(out_) + output, old * gain_[output]);
        const float sum = strands::GroupSum(0xffffu << (thread_ & 16), old * old);
        if (place_ == 0) StoreRelaxed(squares_ + group, sum);
        break;
      }
      case Output::kGated: {
        const float up = Total(sums, 8, up_bias_, output);
        StoreBf16(reinterpret_cast<uint16_t*>(out_) + output, value / (1.f + expf(-value)) * up);
        break;
      }
      case Output::kLogits:
        *out = value;
        break;
    }
  }

 private:
  __device__ __forceinline__ void Enter(int segment) {
    segment_ = segment;
    const Tiles& tiles = product_.tiles;
    const bool last = output_ == Output::kGated || segment + 1 == kMaxSegments;
    begin_ = tiles.first_group[segment];
    end_ = last ? 1 << 30 : tiles.first_group[segment + 1];
    n_outputs_ = tiles.n_outputs[segment];
    if (row_ >= n_rows_) return;
    const Segment& to = product_.segment[segment];
    const int turn = Common().turn;
    const int64_t row = product_.dst != nullptr ? __ldcg(product_.dst + row_) : row_;
    bias_ = to.bias;
    gain_ = to.gain;
    squares_ = output_ == Output::kResidual
                   ? to.squares.at<float>(turn) + row_ * (n_outputs_ / strands::kSquares)
                   : nullptr;
    up_bias_ = output_ == Output::kGated ? product_.segment[1].bias : nullptr;
    old_ = to.old.data != nullptr ? to.old.at<float>(turn) + row_ * to.out_stride : nullptr;
    const bool bf16 = output_ == Output::kGated || output_ == Output::kResidual;
    out_ = bf16 ? reinterpret_cast<float*>(to.out.at<uint16_t>(turn) + row * to.out_stride)
                : to.out.at<float>(turn) + row * to.out_stride;
  }
  __device__ __forceinline__ float Total(const float* sums, int from, const float* bias, int output) const {
    const float* at = sums + row_ * kSumPitch + place_ + from;
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWorkers; ++s) total += at[s * kMaxRows * kSumPitch];
    if (product_.scaled) total *= Common().scale[row_];
    return bias != nullptr ? total + bias[output] : total;
  }

  const Product& product_;
  const int thread_, n_rows_;
  const Output output_;
  const int shift_, row_, place_;
  int segment_ = 0, begin_ = 0, end_ = 0, n_outputs_ = 0;
  const float *bias_ = nullptr, *up_bias_ = nullptr, *old_ = nullptr, *gain_ = nullptr;
  float *out_ = nullptr, *squares_ = nullptr;  // out_: of bf16 values too
};

// The input by slabs, two of which fit: the next one is asked for while one is multiplied. At most two groups a block.
__device__ __forceinline__ void MultiplySlabs(const Product& product, const Multiplier& multiplier,
                                              Finisher& finisher, int first, int n_rows, Progress& progress) {
  static_assert(kMaxHeld == 2);
  const int in_dim = product.tiles.in_dim, slab_cols = product.tiles.slab_tiles * kTileCols;
  const int half_bytes = Common().params.work_bytes / 2, second = first + static_cast<int>(gridDim.x);
  const bool two = second < product.tiles.n_groups;
  float sum[4] = {0, 0, 0, 0}, second_sum[4] = {0, 0, 0, 0};
  Pieces pieces(product, n_rows);
  // The first turn only loads.
#pragma unroll 1
  for (int col = -slab_cols, half = 1; col < in_dim; col += slab_cols, half ^= 1) {
    const int next = col + slab_cols;
    pieces.Begin(next, max(0, min(slab_cols, in_dim - next)), Work() + (half ^ 1) * half_bytes);
    pieces.Ask();
    const char* work = Work() + half * half_bytes;
    const int end = min(next, in_dim);
#pragma unroll 1
    for (int held = 0; held < (col < 0 ? 0 : two ? 2 : 1); ++held) {
      multiplier.AddTiles(col, end, work, progress, sum);
#pragma unroll
      for (int i = 0; two && i < 4; ++i) {  // the other group's turn
        const float other = second_sum[i];
        second_sum[i] = sum[i];
        sum[i] = other;
      }
    }
    pieces.Await();
    Meet();
  }
  finisher.Finish(first, sum, progress);
  if (two) finisher.Finish(second, second_sum, progress);
}

__device__ __forceinline__ void RunProduct(const Product& product, Round& round, Progress& progress) {
  const int n_rows = product.tiles.count == 0 ? Common().n_rows : Common().n_logits;
  if (n_rows == 0) return;
  const int first = round.Next(product.tiles), n_groups = product.tiles.n_groups,
            in_dim = product.tiles.in_dim;
  if (first >= n_groups) return;
  // What does not need the input comes before it.
  const Multiplier multiplier(product, n_rows);
  Finisher finisher(product, first, n_rows);
  if (product.tiles.slab_tiles * kTileCols < in_dim) {
    MultiplySlabs(product, multiplier, finisher, first, n_rows, progress);
    return;
  }
  if (product.input == Input::kBf16) {
    Pieces pieces(product, n_rows);
    Scales scales(product, n_rows);
    pieces.Begin(0, in_dim, Work());
    if (in_dim * n_rows > 2 * kPieceCols) pieces.AwaitLast();
    pieces.Ask();
    scales.Ask();
    pieces.Await();
    Meet();
    Mark(1);
    scales.Take();  // wanted at the end of a group
  } else {
    LoadFirst(product, n_rows);
    Meet();
    Mark(1);
  }
#pragma unroll 1
  for (int group = first; group < n_groups; group += static_cast<int>(gridDim.x)) {
    float sum[4] = {0, 0, 0, 0};
    multiplier.AddTiles(0, in_dim, Work(), progress, sum);
    finisher.Finish(group, sum, progress);
  }
  Mark(2);
}

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_PRODUCT_CUH_
