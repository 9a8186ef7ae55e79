#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/attention.h"

namespace tandem {
namespace {

double Score(const AttentionArgs& args, const float* q, int slot, int kv_head, int t) {
  const int64_t key = args.kv.offset(slot, kv_head, t);
  double sum = 0;
  for (int i = 0; i < args.kv.head_dim; ++i) {
    sum += static_cast<double>(q[i]) * LoadFloat(args.kv.k, args.kv.dtype, key + i);
  }
  return sum * args.scale;
}

}  // namespace

void AttentionReference(const AttentionArgs& args) {
  const int d = args.kv.head_dim;
  const int group = args.n_heads / args.kv.n_kv_heads;
  for (int64_t r = 0; r < *args.rows.n_rows; ++r) {
    const int slot = args.rows.slot[r];
    const int n_keys = args.rows.position[r] + 1;
    for (int h = 0; h < args.n_heads; ++h) {
      const float* q = args.q + (r * args.n_heads + h) * d;
      float* out = args.out + (r * args.n_heads + h) * d;
      double max = -std::numeric_limits<double>::infinity();
      for (int t = 0; t < n_keys; ++t) max = std::max(max, Score(args, q, slot, h / group, t));
      double total = 0;
      for (int t = 0; t < n_keys; ++t) total += std::exp(Score(args, q, slot, h / group, t) - max);
      for (int i = 0; i < d; ++i) {
        double sum = 0;
        for (int t = 0; t < n_keys; ++t) {
          sum += std::exp(Score(args, q, slot, h / group, t) - max) *
                 LoadFloat(args.kv.v, args.kv.dtype, args.kv.offset(slot, h / group, t) + i);
        }
        out[i] = static_cast<float>(sum / total);
      }
    }
  }
}

}  // namespace tandem
