#include <cmath>

#include "kernels/rope/rope.h"

namespace tandem {
namespace {

void Rotate(const View& norm, float eps, const float* cos_sin, int d, float* head) {
  const int half = d / 2;
  if (norm) {
    float sum = 0;
    for (int i = 0; i < d; ++i) sum += head[i] * head[i];
    const float scale = 1 / std::sqrt(sum / static_cast<float>(d) + eps);
    for (int i = 0; i < d; ++i) head[i] = head[i] * scale * LoadFloat(norm.data, norm.dtype, i);
  }
  for (int i = 0; i < half; ++i) {
    const float low = head[i], high = head[half + i];
    head[i] = low * cos_sin[i] - high * cos_sin[half + i];
    head[half + i] = high * cos_sin[i] + low * cos_sin[half + i];
  }
}

void Store(const KvLayer& kv, void* cache, int64_t offset, const float* head) {
  if (kv.dtype == DType::kF32) {
    float* out = static_cast<float*>(cache) + offset;
    for (int i = 0; i < kv.head_dim; ++i) out[i] = head[i];
  } else {
    uint16_t* out = static_cast<uint16_t*>(cache) + offset;
    for (int i = 0; i < kv.head_dim; ++i) out[i] = FloatToBf16(head[i]);
  }
}

}  // namespace

void RopeAnglesCpu(const RopeAnglesArgs& args, Worker worker) {
  const int half = args.head_dim / 2;
  const Share share = ShareOf(static_cast<int64_t>(*args.rows.n_rows) * half, worker, 16);
  for (int64_t task = share.begin; task < share.end; ++task) {
    const int64_t r = task / half, i = task % half;
    const float angle = static_cast<float>(args.rows.position[r]) * args.inv_freq[i];
    args.cos_sin[r * args.head_dim + i] = std::cos(angle);
    args.cos_sin[r * args.head_dim + half + i] = std::sin(angle);
  }
}

// A task is one head of one row: the query heads first, then the heads of the cache with k and v.
void RopeAppendCpu(const RopeAppendArgs& args, Worker worker) {
  const int d = args.kv.head_dim;
  const int n_kv_heads = args.kv.n_kv_heads;
  const int n_tasks = args.n_heads + n_kv_heads;
  const Share share = ShareOf(static_cast<int64_t>(*args.rows.n_rows) * n_tasks, worker);
  for (int64_t task = share.begin; task < share.end; ++task) {
    const int64_t r = task / n_tasks;
    const int h = static_cast<int>(task % n_tasks);
    const float* cos_sin = args.cos_sin + r * d;
    if (h < args.n_heads) {
      Rotate(args.q_norm, args.norm_eps, cos_sin, d, args.q + (r * args.n_heads + h) * d);
      continue;
    }
    const int kv_head = h - args.n_heads;
    const int64_t head = (r * n_kv_heads + kv_head) * d;
    const int64_t offset = args.kv.offset(args.rows.slot[r], kv_head, args.rows.position[r]);
    Rotate(args.k_norm, args.norm_eps, cos_sin, d, args.k + head);
    Store(args.kv, args.kv.k, offset, args.k + head);
    Store(args.kv, args.kv.v, offset, args.v + head);
  }
}

}  // namespace tandem
