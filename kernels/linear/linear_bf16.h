// The linear of bf16 inputs and bf16 weights on processors that multiply pairs of bf16 values in one
// instruction (AVX512-BF16: two products per lane, twice the rate of fp32 FMA). With several rows a product
// is bound by arithmetic, not by memory, on models that nearly fit the cache; this is what keeps verification
// cheap there.
//
// Same contract as LinearCpu: the order of an output's sum depends on in_dim alone.
#ifndef TANDEM_KERNELS_LINEAR_LINEAR_BF16_H_
#define TANDEM_KERNELS_LINEAR_LINEAR_BF16_H_

#include "kernels/linear/linear.h"

namespace tandem {

// Whether LinearBf16 can run `args` on this processor: round_bf16, and every weight bf16.
bool HasLinearBf16(const LinearArgs& args);

// What a worker's part of args.scratch holds. Both begin at a multiple of 32 values in it.
struct LinearSpace {
  float* scales;  // [max_rows]: r_m
  float* rows;    // the prepared input
};
LinearSpace LinearSpaceOf(const LinearArgs& args, Worker worker);

// REQUIRES: HasLinearBf16(args).
void LinearBf16(const LinearArgs& args, Worker worker);

}  // namespace tandem

#endif  // TANDEM_KERNELS_LINEAR_LINEAR_BF16_H_
