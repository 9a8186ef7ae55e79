#include <cmath>

#include "kernels/linear/linear.h"

namespace tandem {
namespace {

void Prepare(const LinearArgs& args, const float* in, float* out) {
  float scale = 1;
  if (args.norm) {
    float sum = 0;
    for (int k = 0; k < args.in_dim; ++k) sum += in[k] * in[k];
    scale = 1 / std::sqrt(sum / static_cast<float>(args.in_dim) + args.norm_eps);
  }
  for (int k = 0; k < args.in_dim; ++k) {
    float value = in[k];
    if (args.norm) value = value * scale * LoadFloat(args.norm.data, args.norm.dtype, k);
    out[k] = args.round_bf16 ? RoundToBf16(value) : value;
  }
}

float Dot(const View& weight, int64_t row, const float* in, int n) {
  constexpr int kLanes = 16;
  const std::byte* w = weight.row(row);
  float sums[kLanes] = {};
  int k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    for (int i = 0; i < kLanes; ++i) sums[i] += LoadFloat(w, weight.dtype, k + i) * in[k + i];
  }
  for (; k < n; ++k) sums[k % kLanes] += LoadFloat(w, weight.dtype, k) * in[k];
  float sum = 0;
  for (float lane : sums) sum += lane;
  return sum;
}

}  // namespace

int64_t LinearScratch(int32_t max_rows, int32_t in_dim) { return static_cast<int64_t>(max_rows) * in_dim; }

void LinearCpu(const LinearArgs& args, Worker worker) {
  float* prepared = args.scratch + worker.index * LinearScratch(args.max_rows, args.in_dim);
  for (int m = 0; m < *args.n_rows; ++m) {
    Prepare(args, args.in + (args.src ? args.src[m] : m) * args.in_stride,
            prepared + static_cast<int64_t>(m) * args.in_dim);
  }
  for (int s = 0; s < args.n_segments; ++s) {
    const LinearSegment& segment = args.segment[s];
    const Share share = ShareOf(segment.weight.n_rows, worker);
    for (int64_t o = share.begin; o < share.end; ++o) {
      for (int m = 0; m < *args.n_rows; ++m) {
        float sum = Dot(segment.weight, o, prepared + static_cast<int64_t>(m) * args.in_dim, args.in_dim);
        if (segment.bias) sum += LoadFloat(segment.bias.data, segment.bias.dtype, o);
        float* out = segment.out + (args.dst ? args.dst[m] : m) * segment.out_stride + o;
        *out = segment.accumulate ? *out + sum : sum;
      }
    }
  }
}

}  // namespace tandem
