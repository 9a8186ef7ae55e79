// linear: out_s[dst(m)] (+)= r_m (W_s in'[src(m)]) + b_s for up to three weight segments W_s, b_s that share
// one input, where
//
//   in' = in, or in * norm            one fp32 product, if `norm` is given
//   in' = in' rounded to bf16         (nearest, ties to even) if `round_bf16`
//   r_m = rsqrt(mean(in^2) + eps)     in fp32, over row src(m) of `in`, if `norm` is given; else 1
//
// This is a product behind an RMS norm, with the row's own factor taken out: r_m multiplies the fp32 sum,
// before the bias (one fused multiply-add, or two roundings) and before what the result is added to. Rounding
// to bf16 is relative, so nothing is lost by rounding without r_m, and nobody has to know r_m before
// multiplying.
//
// Weights keep the checkpoint's dtype and are widened to fp32 exactly; products and sums are fp32 (with
// `round_bf16`, bf16 weights and a processor that can, two products are added before they join the sum:
// linear_bf16.h). The reduction order of an output element depends on in_dim alone, never on the number of
// rows, on their neighbours or on the worker: a row has the same bits in a forward of 1 row and of 64. The
// same holds for the norm's sum of squares, and so for r_m.
#ifndef TANDEM_KERNELS_LINEAR_LINEAR_H_
#define TANDEM_KERNELS_LINEAR_LINEAR_H_

#include <cstdint>

#include "runtime/core/platform.h"
#include "runtime/core/program.h"
#include "runtime/core/view.h"
#include "runtime/core/worker.h"

namespace tandem {

class LinearLibrary;

struct LinearSegment {
  View weight;  // [out_dim, in_dim]; out_dim is weight.n_rows
  View bias;    // [1, out_dim], optional
  float* out;   // [.., out_stride]
  int64_t out_stride;
  bool accumulate;  // add to what `out` holds (a residual)
};

inline constexpr int kMaxSegments = 3;

struct LinearArgs {
  static constexpr Op kOp = Op::kLinear;
  const float* in;  // [.., in_stride]
  int64_t in_stride;
  int32_t in_dim;
  View norm;  // [1, in_dim], optional
  float norm_eps;
  bool round_bf16;
  const int32_t* n_rows;  // one value, at most max_rows
  int32_t max_rows;
  const int32_t* src;  // [n_rows] rows of `in`; null: 0, 1, 2, ...
  const int32_t* dst;  // [n_rows] rows of `out`; null: 0, 1, 2, ...
  int32_t n_segments;
  LinearSegment segment[kMaxSegments];
  bool only_reader;  // nothing else reads what `in` holds: see RoundedInput
  float* scratch;  // [n_workers, LinearScratch(max_rows, in_dim)] fp32, not shared between steps that overlap
};

// fp32 values that one worker needs for its copy of the prepared input and of every row's r_m.
int64_t LinearScratch(int32_t max_rows, int32_t in_dim);

void LinearReference(const LinearArgs& args);  // sums in double
void LinearCpu(const LinearArgs& args, Worker worker);
// Pointers are device memory (also n_rows, src, dst, scratch). Bf16 weights and inputs rounded to bf16 go to tensor cores if
// in_dim is a multiple of 32, and weights and inputs start at multiples of 16 bytes; nothing else may write the weights,
// for they are read while earlier kernels of the stream still run.
// With `library` (linear_library.h), products of more than 64 rows are cuBLAS's: then a row has the same bits only at the
// same place among the same max_rows, and r_m is in the row before it is rounded, in' = in * norm * r_m.
// `in_rounded`: the rows stand in RoundedInput already.
void LinearCuda(const LinearArgs& args, CudaStream stream, LinearLibrary* library = nullptr,
                bool in_rounded = false);

// Where the step before this product may leave its rows instead of in args.in, rounded to bf16 (nearest, ties to even):
// [n_rows, in_dim], a part of args.scratch. Null where the product needs them in args.in.
uint16_t* RoundedInput(const LinearArgs& args, const LinearLibrary* library);

}  // namespace tandem

#endif  // TANDEM_KERNELS_LINEAR_LINEAR_H_
