// For bf16 weights and inputs rounded to bf16, two kernels: one prepares the rows of the input, norm and rounding, in
// `scratch`; the other multiplies on tensor cores. A block of the latter takes 32 outputs and up to 64 rows in a pass over
// the weights, a warp a strand of the sums (strands.cuh). Weights go straight to registers, a tile ahead, and the first
// tiles before the previous kernel has ended. Products of 9 to 64 rows have a kernel of their own on sm_90 and later
// (wide_linear.h). More rows than that, all of them, are multiplied by cuBLAS if the caller has it (linear_library.h), with
// rows prepared by a kernel of their own or by the step before (RoundedInput).
//
// PlainLinear (everything else, fp32 mode too): a warp per 4 outputs, its lanes along in_dim, fp32 multiply-adds.
#include <algorithm>

#include "kernels/cuda.cuh"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_library.h"
#include "kernels/linear/strands.cuh"
#include "kernels/linear/wide_linear.h"

namespace tandem {
namespace {

using strands::kThreads;
using strands::kTileCols;
constexpr int kBlockOutputs = 32;
constexpr int kBlockRows = 64;

constexpr int kMaxGroups = strands::kMaxInDim / strands::kSquares;

// The rows' scales stand behind the rows.
__device__ __forceinline__ float* ScalesOf(const LinearArgs& args) {
  return args.scratch + static_cast<int64_t>(args.max_rows) * args.in_dim / 2;
}

// A block per row of the input.
__global__ void __launch_bounds__(kThreads) PrepareRows(const __grid_constant__ LinearArgs args) {
  __shared__ float squares[kMaxGroups];
  LetNextStart();
  WaitForPrevious();
  const int m = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (m >= min(__ldcg(args.n_rows), args.max_rows)) return;
  const float* in = args.in + (args.src ? __ldcg(args.src + m) : m) * args.in_stride;
  auto* out = reinterpret_cast<uint16_t*>(args.scratch) + static_cast<int64_t>(m) * args.in_dim;
  // in_dim is a multiple of 32: warps are whole.
#pragma unroll 4
  for (int k = thread; k < args.in_dim; k += kThreads) {
    float v = __ldcg(in + k);
    if (args.norm) {
      const float sum = strands::GroupSum(~0u, v * v);
      if (k % strands::kSquares == 0) squares[k / strands::kSquares] = sum;
      v = v * LoadFloat(args.norm.data, args.norm.dtype, k);
    }
    out[k] = static_cast<uint16_t>(RoundPair(v, 0));
  }
  if (!args.norm) return;
  __syncthreads();
  if (thread >= 32) return;
  const float scale = strands::RowScale(args.in_dim, args.norm_eps, [&](int i) { return squares[i]; });
  if (thread == 0) ScalesOf(args)[m] = scale;
}

struct ProductArgs {
  LinearArgs linear;
  int first_block[kMaxSegments];  // of a segment's outputs
};

// This lane's part of a tile: chunk, 16 outputs, outputs g or g + 8.
using WeightTile = uint4[2][2][2];

__device__ __forceinline__ uint4 LoadOnce(const uint16_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

class Product {
 public:
  __device__ __forceinline__ explicit Product(const ProductArgs& args)
      : args_(args.linear), warp_(threadIdx.x / 32), g_(threadIdx.x % 32 / 4), t_(threadIdx.x % 4) {
    int s = 0;
    while (s + 1 < args_.n_segments && static_cast<int>(blockIdx.x) >= args.first_block[s + 1]) ++s;
    segment_ = &args_.segment[s];
    first_output_ = (blockIdx.x - args.first_block[s]) * kBlockOutputs;
    const auto* weight = static_cast<const uint16_t*>(segment_->weight.data);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = min(first_output_ + i * 8 + g_, segment_->weight.n_rows - 1);
      row_[i] = weight + row * args_.in_dim + t_ * 8;
    }
    n_tiles_ = (args_.in_dim + kTileCols - 1) / kTileCols;
  }

  __device__ __forceinline__ void Load(int tile, WeightTile& to) const {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int k = ChunkAt(tile, u);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[u][i / 2][i % 2] = k < args_.in_dim ? LoadOnce(row_[i] + k) : uint4{0, 0, 0, 0};
      }
    }
  }

  // Rows first_row .. of up to 8 N. `tile`: tile 0, loaded already.
  template <int N>
  __device__ __forceinline__ void Pass(int first_row, int n_rows, WeightTile& tile,
                                       float (*sums)[kBlockOutputs][9]) const {
    float sum[2][N][4] = {};
    const uint16_t* in = reinterpret_cast<const uint16_t*>(args_.scratch) + t_ * 8 +
                         static_cast<int64_t>(first_row + g_) * args_.in_dim;
    const int rows = n_rows - first_row - g_;
    // Rows of the input, too, are asked for a chunk ahead.
    uint4 x[N], next_x[N];
    const auto load_rows = [&](int k, uint4(&to)[N]) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        to[n] = {0, 0, 0, 0};
        if (n * 8 < rows && k < args_.in_dim)
          to[n] = __ldcg(reinterpret_cast<const uint4*>(in + n * 8 * args_.in_dim + k));
      }
    };
    load_rows(ChunkAt(0, 0), x);
    for (int i = 0; i < n_tiles_; ++i) {
      WeightTile next;
      Load(i + 1, next);
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        load_rows(u == 0 ? ChunkAt(i, 1) : ChunkAt(i + 1, 0), next_x);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          if (ChunkAt(i, u) < args_.in_dim) {
            strands::AddChunk(sum[0][n], tile[u][0][0], tile[u][0][1], x[n]);
            strands::AddChunk(sum[1][n], tile[u][1][0], tile[u][1][1], x[n]);
          }
          x[n] = next_x[n];
        }
      }
#pragma unroll
      for (int u = 0; u < 2; ++u) {
#pragma unroll
        for (int j = 0; j < 4; ++j) tile[u][j / 2][j % 2] = next[u][j / 2][j % 2];
      }
    }
#pragma unroll
    for (int n = 0; n < N; ++n) Finish(first_row + n * 8, n_rows, sum[0][n], sum[1][n], sums);
  }

 private:
  __device__ __forceinline__ int ChunkAt(int tile, int u) const {
    return tile * kTileCols + (warp_ * 2 + u) * strands::kChunk;
  }

  // Adds the strands up, for 8 rows: a thread an output.
  __device__ __forceinline__ void Finish(int first_row, int n_rows, const float (&low)[4],
                                         const float (&high)[4], float (*sums)[kBlockOutputs][9]) const {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[warp_][g_ + j / 2 * 8][2 * t_ + j % 2] = low[j];
      sums[warp_][16 + g_ + j / 2 * 8][2 * t_ + j % 2] = high[j];
    }
    __syncthreads();
    const int m = first_row + static_cast<int>(threadIdx.x) / kBlockOutputs;
    const int o = static_cast<int>(threadIdx.x) % kBlockOutputs;
    const int64_t output = first_output_ + o;
    if (m >= n_rows || output >= segment_->weight.n_rows) return;
    float sum = 0;
#pragma unroll
    for (int s = 0; s < strands::kStrands; ++s) sum += sums[s][o][m - first_row];
    if (args_.norm) sum *= __ldcg(ScalesOf(args_) + m);
    if (segment_->bias) sum += LoadFloat(segment_->bias.data, segment_->bias.dtype, output);
    float* out = segment_->out + (args_.dst ? __ldcg(args_.dst + m) : m) * segment_->out_stride + output;
    *out = segment_->accumulate ? __ldcg(out) + sum : sum;
  }

  const LinearArgs& args_;
  const LinearSegment* segment_;
  const int warp_, g_, t_;
  int64_t first_output_;
  const uint16_t* row_[4];
  int n_tiles_;
};

template <int N>
__global__ void __launch_bounds__(kThreads) MultiplyRows(const __grid_constant__ ProductArgs args) {
  __shared__ float sums[strands::kStrands][kBlockOutputs][9];
  const Product product(args);
  WeightTile tile;
  product.Load(0, tile);
  LetNextStart();
  WaitForPrevious();
  const int n_rows = min(__ldcg(args.linear.n_rows), args.linear.max_rows);
  for (int first_row = 0; first_row < n_rows; first_row += 8 * N) {
    if (first_row > 0) product.Load(0, tile);
    product.Pass<N>(first_row, n_rows, tile, sums);
  }
}

// The rows of a library's product: a row's own scale is in them before they are rounded, for the library cannot apply it to
// the sums. A block per row.
__global__ void __launch_bounds__(kThreads) RoundRows(const __grid_constant__ LinearArgs args) {
  constexpr int kHeld = 4;  // values of a thread, four at a time, that need no second look
  __shared__ float squares[kThreads / 32];
  WaitForPrevious();
  LetNextStart();
  const int m = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (m >= min(__ldcg(args.n_rows), args.max_rows)) return;
  const auto* in = reinterpret_cast<const float4*>(args.in + m * args.in_stride);
  auto* out = reinterpret_cast<uint2*>(reinterpret_cast<uint16_t*>(args.scratch) +
                                       static_cast<int64_t>(m) * args.in_dim);
  const int n = args.in_dim / 4;
  float4 held[kHeld] = {};
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int i = j * kThreads + thread;
    if (i < n) held[j] = __ldcg(in + i);
  }
  float scale = 1;
  if (args.norm) {
    float sum = 0;
    const auto add = [&](const float4& v) { sum += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w); };
#pragma unroll
    for (int j = 0; j < kHeld; ++j) add(held[j]);
    for (int i = kHeld * kThreads + thread; i < n; i += kThreads) add(__ldcg(in + i));
    sum = LaneSum(sum);
    if (thread % 32 == 0) squares[thread / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int w = 0; w < kThreads / 32; ++w) sum += squares[w];
    scale = strands::ScaleOf(sum, args.in_dim, args.norm_eps);
  }
  const auto store = [&](int i, float4 v) {
    if (args.norm) {
      const auto norm = [&](int j) { return LoadFloat(args.norm.data, args.norm.dtype, i * 4 + j); };
      v = {v.x * norm(0) * scale, v.y * norm(1) * scale, v.z * norm(2) * scale, v.w * norm(3) * scale};
    }
    out[i] = {RoundPair(v.x, v.y), RoundPair(v.z, v.w)};
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (j * kThreads + thread < n) store(j * kThreads + thread, held[j]);
  }
  for (int i = kHeld * kThreads + thread; i < n; i += kThreads) store(i, __ldcg(in + i));
}

// What a library's product leaves out.
struct BiasArgs {
  float* out;
  int64_t out_stride;
  int32_t n_outputs;
  View bias;
  const int32_t* n_rows;
  int32_t max_rows;
};
__global__ void __launch_bounds__(kThreads) AddBias(const __grid_constant__ BiasArgs args) {
  LetNextStart();
  WaitForPrevious();
  const int64_t m = blockIdx.y;
  if (m >= min(__ldcg(args.n_rows), args.max_rows)) return;
  float* out = args.out + m * args.out_stride;
  for (int o = blockIdx.x * kThreads + threadIdx.x; o < args.n_outputs; o += gridDim.x * kThreads)
    out[o] = __ldcg(out + o) + LoadFloat(args.bias.data, args.bias.dtype, o);
}

void LaunchPrepare(void (*kernel)(LinearArgs), const LinearArgs& args, cudaStream_t stream) {
  KernelShape prepare = {};
  prepare.grid = dim3(args.max_rows);
  prepare.threads = kThreads;
  prepare.overlap = true;
  LaunchKernel(kernel, prepare, stream, args);
}

bool SuitsLibrary(const LinearArgs& args) {
  return args.max_rows > kBlockRows && args.src == nullptr && args.dst == nullptr;
}

// All of max_rows rows are multiplied, whatever n_rows says: what is beyond is nobody's.
void LaunchLibrary(const LinearArgs& args, LinearLibrary& library, bool in_rounded, cudaStream_t stream) {
  if (!in_rounded) LaunchPrepare(RoundRows, args, stream);
  for (int s = 0; s < args.n_segments; ++s) {
    const LinearSegment& segment = args.segment[s];
    library.Multiply(segment.weight, args.scratch, args.max_rows, segment.out, segment.out_stride,
                     segment.accumulate, stream);
    if (!segment.bias) continue;
    const auto n = static_cast<int32_t>(segment.weight.n_rows);
    KernelShape bias = {};
    bias.grid = dim3(std::min((n + kThreads - 1) / kThreads, 8), args.max_rows);
    bias.threads = kThreads;
    LaunchKernel(AddBias, bias, stream,
                 BiasArgs{segment.out, segment.out_stride, n, segment.bias, args.n_rows, args.max_rows});
  }
}

void LaunchStrands(const LinearArgs& args, cudaStream_t stream) {
  LaunchPrepare(PrepareRows, args, stream);

  ProductArgs product = {};
  product.linear = args;
  int n_blocks = 0;
  for (int s = 0; s < args.n_segments; ++s) {
    product.first_block[s] = n_blocks;
    n_blocks += static_cast<int>((args.segment[s].weight.n_rows + kBlockOutputs - 1) / kBlockOutputs);
  }
  KernelShape multiply = {};
  multiply.grid = dim3(n_blocks);
  multiply.threads = kThreads;
  multiply.overlap = true;
  const int columns = std::min(args.max_rows, kBlockRows);
  LaunchKernel(columns <= 8    ? MultiplyRows<1>
               : columns <= 16 ? MultiplyRows<2>
               : columns <= 32 ? MultiplyRows<4>
                               : MultiplyRows<8>,
               multiply, stream, product);
}

// At any 2-byte alignment.
__device__ float LoadUnaligned(const void* data, DType dtype, int64_t i) {
  if (dtype != DType::kF32) return LoadFloat(data, dtype, i);
  const auto* half = static_cast<const uint16_t*>(data) + 2 * i;
  return __uint_as_float(half[0] | static_cast<uint32_t>(half[1]) << 16);
}

constexpr int kPlainThreads = 256;
constexpr int kPlainRows = 8;     // rows of the input at a time
constexpr int kPlainOutputs = 4;  // of a warp at a time

__device__ float PlainScale(const LinearArgs& args, const float* in) {
  float sum = 0;
  for (int k = threadIdx.x % 32; k < args.in_dim; k += 32) sum += in[k] * in[k];
  return 1 / sqrtf(LaneSum(sum) / args.in_dim + args.norm_eps);
}

__global__ void __launch_bounds__(kPlainThreads) PlainLinear(const LinearArgs args) {
  __shared__ float scale[kPlainRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = gridDim.x * (kPlainThreads / 32);
  const int n_rows = min(*args.n_rows, args.max_rows);
  for (int first = 0; first < n_rows; first += kPlainRows) {
    const int rows = min(kPlainRows, n_rows - first);
    const float* in[kPlainRows];
    for (int m = 0; m < kPlainRows; ++m) {
      const int row = first + min(m, rows - 1);
      in[m] = args.in + (args.src ? args.src[row] : row) * args.in_stride;
    }
    __syncthreads();
    if (args.norm && warp < rows) {
      const float value = PlainScale(args, in[warp]);
      if (lane == 0) scale[warp] = value;
    }
    __syncthreads();
    for (int s = 0; s < args.n_segments; ++s) {
      const LinearSegment& segment = args.segment[s];
      const View weight = segment.weight;
      for (int64_t o = (blockIdx.x * (kPlainThreads / 32) + warp) * int64_t{kPlainOutputs}; o < weight.n_rows;
           o += int64_t{kPlainOutputs} * n_warps) {
        float sum[kPlainOutputs][kPlainRows] = {};
        for (int k = lane; k < args.in_dim; k += 32) {
          const float norm = args.norm ? LoadUnaligned(args.norm.data, args.norm.dtype, k) : 1;
          float x[kPlainRows];
#pragma unroll
          for (int m = 0; m < kPlainRows; ++m) {
            x[m] = m < rows ? in[m][k] : 0;
            if (args.norm) x[m] *= norm;
            if (args.round_bf16) x[m] = __uint_as_float(static_cast<uint32_t>(FloatToBf16(x[m])) << 16);
          }
#pragma unroll
          for (int i = 0; i < kPlainOutputs; ++i) {
            const int64_t row = min(o + i, weight.n_rows - 1);
            const float w = LoadUnaligned(weight.data, weight.dtype, row * weight.n_cols + k);
#pragma unroll
            for (int m = 0; m < kPlainRows; ++m) sum[i][m] = fmaf(w, x[m], sum[i][m]);
          }
        }
#pragma unroll
        for (int i = 0; i < kPlainOutputs; ++i) {
#pragma unroll
          for (int m = 0; m < kPlainRows; ++m) {
            float value = LaneSum(sum[i][m]);
            if (lane != 0 || m >= rows || o + i >= weight.n_rows) continue;
            if (args.norm) value *= scale[m];
            if (segment.bias) value += LoadUnaligned(segment.bias.data, segment.bias.dtype, o + i);
            float* out =
                segment.out + (args.dst ? args.dst[first + m] : first + m) * segment.out_stride + o + i;
            *out = segment.accumulate ? *out + value : value;
          }
        }
      }
    }
  }
}

}  // namespace

uint16_t* RoundedInput(const LinearArgs& args, const LinearLibrary* library) {
  const bool may = library != nullptr && args.only_reader && !args.norm && args.in_stride == args.in_dim &&
                   strands::CanFollow(args) && SuitsLibrary(args);
  return may ? reinterpret_cast<uint16_t*>(args.scratch) : nullptr;
}

void LinearCuda(const LinearArgs& args, cudaStream_t stream, LinearLibrary* library, bool in_rounded) {
  TANDEM_CHECK(!in_rounded || RoundedInput(args, library) != nullptr);
  if (strands::CanFollow(args)) {
    if (wide::Launch(args, stream)) return;
    return library != nullptr && SuitsLibrary(args) ? LaunchLibrary(args, *library, in_rounded, stream)
                                                    : LaunchStrands(args, stream);
  }
  KernelShape launch = {};
  launch.grid = dim3(2 * MultiprocessorCount());
  launch.threads = kPlainThreads;
  LaunchKernel(PlainLinear, launch, stream, args);
}

}  // namespace tandem
