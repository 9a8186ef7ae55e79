#include <cmath>

#include "kernels/rope/rope.h"

namespace tandem {
namespace {

void Rotate(const RopeAppendArgs& args, const View& norm, const float* cos_sin, float* head) {
  const int d = args.kv.head_dim;
  const int half = d / 2;
  if (norm) {
    double sum = 0;
    for (int i = 0; i < d; ++i) sum += static_cast<double>(head[i]) * head[i];
    const double scale = 1 / std::sqrt(sum / d + args.norm_eps);
    for (int i = 0; i < d; ++i) {
      head[i] = static_cast<float>(head[i] * scale * LoadFloat(norm.data, norm.dtype, i));
    }
  }
  for (int i = 0; i < half; ++i) {
    const double cos = cos_sin[i], sin = cos_sin[half + i];
    const double low = head[i], high = head[half + i];
    head[i] = static_cast<float>(low * cos - high * sin);
    head[half + i] = static_cast<float>(high * cos + low * sin);
  }
}

void Store(const KvLayer& kv, void* cache, int64_t offset, const float* head) {
  for (int i = 0; i < kv.head_dim; ++i) {
    if (kv.dtype == DType::kF32) {
      static_cast<float*>(cache)[offset + i] = head[i];
    } else {
      static_cast<uint16_t*>(cache)[offset + i] = FloatToBf16(head[i]);
    }
  }
}

}  // namespace

void RopeAnglesReference(const RopeAnglesArgs& args) {
  const int half = args.head_dim / 2;
  for (int64_t r = 0; r < *args.rows.n_rows; ++r) {
    float* row = args.cos_sin + r * args.head_dim;
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(args.rows.position[r]) * args.inv_freq[i];
      row[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

void RopeAppendReference(const RopeAppendArgs& args) {
  const int64_t d = args.kv.head_dim;
  for (int64_t r = 0; r < *args.rows.n_rows; ++r) {
    const float* cos_sin = args.cos_sin + r * d;
    for (int h = 0; h < args.n_heads; ++h) {
      Rotate(args, args.q_norm, cos_sin, args.q + (r * args.n_heads + h) * d);
    }
    for (int h = 0; h < args.kv.n_kv_heads; ++h) {
      const int64_t head = (r * args.kv.n_kv_heads + h) * d;
      const int64_t offset = args.kv.offset(args.rows.slot[r], h, args.rows.position[r]);
      Rotate(args, args.k_norm, cos_sin, args.k + head);
      Store(args.kv, args.kv.k, offset, args.k + head);
      Store(args.kv, args.kv.v, offset, args.v + head);
    }
  }
}

}  // namespace tandem
