// The input of a product of the stream kernel, from memory into shared memory: [chunk][row][32] bf16.
#ifndef TANDEM_KERNELS_STREAM_INPUT_CUH_
#define TANDEM_KERNELS_STREAM_INPUT_CUH_

#include "kernels/stream/memory.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

constexpr int kFirstGroups = kMaxHidden / strands::kSquares;
static_assert(kMaxRows * kFirstGroups * sizeof(float) <= sizeof(Fixed::sums));

// The forward's input: fp32 rows, times the norm. Once a launch, so it is short rather than fast.
__device__ __forceinline__ void LoadFirst(const Product& product, int n_rows) {
  const int thread = Thread(), in_dim = product.tiles.in_dim;
  float* squares = Common().sums[0][0][0];
  for (int m = 0; m < n_rows; ++m) {
    const int64_t row = product.src != nullptr ? __ldcg(product.src + m) : m;
    const float* in = product.in.at<float>(0) + row * product.in_stride;
    constexpr int kUnroll = 8;
    for (int first = thread; first < in_dim; first += kUnroll * kWorkerThreads) {
      float v[kUnroll], gain[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int k = first + i * kWorkerThreads;
        v[i] = k < in_dim ? __ldcg(in + k) : 0;
        gain[i] = k < in_dim ? product.gain[k] : 0;
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int k = first + i * kWorkerThreads;
        const float sum = strands::GroupSum(~0u, v[i] * v[i]);
        if (k >= in_dim) continue;
        if (k % strands::kSquares == 0) squares[m * kFirstGroups + k / strands::kSquares] = sum;
        auto* to = reinterpret_cast<uint16_t*>(Work() + ((k / 32) * n_rows + m) * 64 + (k % 32) * 2);
        *to = static_cast<uint16_t>(RoundPair(v[i] * gain[i], 0));
      }
    }
  }
  Meet();
  const int m = thread / 32;
  if (m >= n_rows) return;
  const float scale =
      strands::RowScale(in_dim, product.norm_eps, [&](int i) { return squares[m * kFirstGroups + i]; });
  if (thread % 32 == 0) Common().scale[m] = scale;
}

// The scales of rows in bf16, a warp a row: asked for before the rows, taken after them.
class Scales {
 public:
  __device__ __forceinline__ Scales(const Product& product, int n_rows)
      : product_(product), row_(Thread() / 32), n_groups_(product.tiles.in_dim / strands::kSquares) {
    mine_ = product.scaled && row_ < n_rows;
    if (!mine_) return;
    const int64_t row = product.src != nullptr ? __ldcg(product.src + row_) : row_;
    from_ = product.squares.at<float>(Common().turn) + row * n_groups_;
  }
  __device__ __forceinline__ void Ask() {
    const int lane = Thread() % 32;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      squares_[i] = 0;
      if (mine_ && lane + 32 * i < n_groups_) squares_[i] = LoadRelaxed(from_ + lane + 32 * i);
    }
  }
  __device__ __forceinline__ void Take() {
    if (!mine_) return;
    const int lane = Thread() % 32;
    Patience patience;
    while (true) {
      bool all = true;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) all &= IsThere(squares_[i]);
      if (all) break;
      patience.Spend();
      Ask();
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (lane + 32 * i < n_groups_) sum += squares_[i];
    }
    const float scale = strands::ScaleOf(LaneSum(sum), product_.tiles.in_dim, product_.norm_eps);
    if (lane == 0) Common().scale[row_] = scale;
  }

 private:
  static constexpr int kAhead = kMaxHidden / strands::kSquares / 32;
  const Product& product_;
  const int row_, n_groups_;
  bool mine_;
  const float* from_ = nullptr;
  float squares_[kAhead];
};

// An input in bf16: columns of all rows, copied to shared memory in pieces of 8 and looked at there: a thread has piece
// after piece at a distance of kPieceCols columns, rows in twos. Short loops, for the instruction cache is small, and few
// registers, so that something else can be done between Ask and Await.
class Pieces {
 public:
  __device__ __forceinline__ Pieces(const Product& product, int n_rows)
      : col_(Thread() * 8),
        in_(product.in.at<uint16_t>(Common().turn) + col_),
        stride_(static_cast<int>(product.in_stride)),
        src_(product.src),
        n_rows_(n_rows) {}

  // Columns first .. of n_cols, to be put at `to`.
  __device__ __forceinline__ void Begin(int first, int n_cols, const char* to) {
    from_ = in_ + first;
    n_cols_ = n_cols;
    to_ = SharedAddress(to) + ((col_ / 32) * n_rows_) * 64 + (col_ % 32) * 2;
  }
  // For columns begin .. end of these; begin: a multiple of kPieceCols.
  __device__ __forceinline__ void Ask(int begin, int end) const {
    end = min(end, n_cols_);
#pragma unroll 1
    for (int row = 0; row < n_rows_; row += 2) {
      const bool two = row + 1 < n_rows_;
      const uint16_t *from = from_ + RowBegin(row), *second = from_ + RowBegin(two ? row + 1 : row);
      uint32_t to = to_ + row * 64 + begin / kPieceCols * piece_bytes();
#pragma unroll 1
      for (int col = begin; col < end - col_; col += kPieceCols, to += piece_bytes()) {
        Copy(to, from + col);
        if (two) Copy(to + 64, second + col);
      }
    }
  }
  // `much`: a thread has many pieces. If one is missing it waits for its last one first: the others come earlier, as a rule,
  // and many threads that look at much would keep memory from those they wait for.
  __device__ __forceinline__ void Await(bool much) const {
    Patience patience;
    bool all;
    do {
      asm volatile("cp.async.wait_all;" ::: "memory");
      all = true;
#pragma unroll 1
      for (int row = 0; row < n_rows_; row += 2) {
        const int next = row + 1 < n_rows_ ? 1 : 0;
        uint32_t to = to_ + row * 64;
#pragma unroll 1
        for (int col = 0; col < n_cols_ - col_; col += kPieceCols, to += piece_bytes()) {
          const uint4 piece = LoadShared16(to), second = LoadShared16(to + next * 64);
          if (AllThere16(piece) && AllThere16(second)) continue;
          if (all && much) AwaitLast();
          Copy(to, from_ + RowBegin(row) + col);
          Copy(to + next * 64, from_ + RowBegin(row + next) + col);
          all = false;
        }
      }
      patience.Spend();
    } while (!all);
  }

 private:
  __device__ __forceinline__ void AwaitLast() const {
    const uint16_t* last = from_ + RowBegin(n_rows_ - 1) + (n_cols_ - 1 - col_) / kPieceCols * kPieceCols;
    Patience patience;
    while (!AllThere16(LoadRelaxed16(last))) patience.Spend();
  }
  __device__ __forceinline__ int RowBegin(int row) const {
    return (src_ != nullptr ? __ldcg(src_ + row) : row) * stride_;
  }
  __device__ __forceinline__ int piece_bytes() const { return kPieceCols / 32 * 64 * n_rows_; }
  static __device__ __forceinline__ void Copy(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  }

  const int col_;
  const uint16_t* const in_;
  const int stride_;
  const int32_t* const src_;
  const int n_rows_;
  const uint16_t* from_ = nullptr;
  int n_cols_ = 0;
  uint32_t to_ = 0;
};

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_INPUT_CUH_
