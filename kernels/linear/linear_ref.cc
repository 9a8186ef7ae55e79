#include <cmath>

#include "kernels/linear/linear.h"

namespace tandem {
namespace {

double Scale(const LinearArgs& args, const float* in) {
  if (!args.norm) return 1;
  double sum = 0;
  for (int k = 0; k < args.in_dim; ++k) sum += static_cast<double>(in[k]) * in[k];
  return 1 / std::sqrt(sum / args.in_dim + args.norm_eps);
}

float Prepared(const LinearArgs& args, const float* in, int k) {
  float value = in[k];
  if (args.norm) value *= LoadFloat(args.norm.data, args.norm.dtype, k);
  return args.round_bf16 ? RoundToBf16(value) : value;
}

}  // namespace

void LinearReference(const LinearArgs& args) {
  for (int m = 0; m < *args.n_rows; ++m) {
    const float* in = args.in + (args.src ? args.src[m] : m) * args.in_stride;
    const double scale = Scale(args, in);
    for (int s = 0; s < args.n_segments; ++s) {
      const LinearSegment& segment = args.segment[s];
      float* out = segment.out + (args.dst ? args.dst[m] : m) * segment.out_stride;
      for (int64_t o = 0; o < segment.weight.n_rows; ++o) {
        double sum = 0;
        for (int k = 0; k < args.in_dim; ++k) {
          sum += static_cast<double>(LoadFloat(segment.weight.row(o), segment.weight.dtype, k)) *
                 Prepared(args, in, k);
        }
        sum *= scale;
        if (segment.bias) sum += LoadFloat(segment.bias.data, segment.bias.dtype, o);
        if (segment.accumulate) sum += out[o];
        out[o] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace tandem
