#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/attention.h"

namespace tandem {
namespace {

float Score(const AttentionArgs& args, const float* q, int slot, int kv_head, int t) {
  const int64_t key = args.kv.offset(slot, kv_head, t);
  float sum = 0;
  for (int i = 0; i < args.kv.head_dim; ++i) sum += q[i] * LoadFloat(args.kv.k, args.kv.dtype, key + i);
  return sum * args.scale;
}

}  // namespace

void AttentionCpu(const AttentionArgs& args, Worker worker) {
  const int d = args.kv.head_dim;
  const int group = args.n_heads / args.kv.n_kv_heads;
  const Share share = ShareOf(static_cast<int64_t>(*args.rows.n_rows) * args.n_heads, worker);
  for (int64_t task = share.begin; task < share.end; ++task) {
    const int64_t r = task / args.n_heads;
    const int kv_head = static_cast<int>(task % args.n_heads) / group;
    const int slot = args.rows.slot[r];
    const int n_keys = args.rows.position[r] + 1;
    const float* q = args.q + task * d;
    float* out = args.out + task * d;
    std::fill(out, out + d, 0.f);
    float max = -std::numeric_limits<float>::infinity();
    float total = 0;
    for (int begin = 0; begin < n_keys; begin += kAttentionChunk) {
      const int n = std::min(kAttentionChunk, n_keys - begin);
      float scores[kAttentionChunk];
      float new_max = max;
      for (int j = 0; j < n; ++j) {
        scores[j] = Score(args, q, slot, kv_head, begin + j);
        new_max = std::max(new_max, scores[j]);
      }
      const float keep = std::exp(max - new_max);
      max = new_max;
      total *= keep;
      for (int i = 0; i < d; ++i) out[i] *= keep;
      for (int j = 0; j < n; ++j) {
        const float weight = std::exp(scores[j] - max);
        const int64_t value = args.kv.offset(slot, kv_head, begin + j);
        total += weight;
        for (int i = 0; i < d; ++i) out[i] += weight * LoadFloat(args.kv.v, args.kv.dtype, value + i);
      }
    }
    for (int i = 0; i < d; ++i) out[i] /= total;
  }
}

}  // namespace tandem
