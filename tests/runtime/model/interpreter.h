// A plain interpreter of the steps that architectures emit: one loop nest per operation, sums in double. What kernels of
// every backend are compared with; it is itself compared with Hugging Face transformers (model_golden_test.cc).
#ifndef TANDEM_TESTS_RUNTIME_MODEL_INTERPRETER_H_
#define TANDEM_TESTS_RUNTIME_MODEL_INTERPRETER_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/embed/embed.h"
#include "kernels/linear/linear.h"
#include "kernels/rope/rope.h"
#include "kernels/silu_gate/silu_gate.h"
#include "runtime/core/view.h"

namespace tandem::plain {

// Instead of rounding: every value that a bf16 forward rounds, an input of a product, a key or a value of the cache, times
// 1 + size or 1 - size, by the toss of a coin.
class Disturbance {
 public:
  Disturbance(double size, uint64_t seed) : size_(size), rng_(seed) {}
  float operator()(float value) {
    return static_cast<float>(value * (1 + ((rng_() & 1) != 0 ? size_ : -size_)));
  }

 private:
  double size_;
  std::mt19937_64 rng_;
};

inline void Normalize(float* x, int n, View norm, float eps) {
  double squares = 0;
  for (int i = 0; i < n; ++i) squares += double{x[i]} * x[i];
  const double scale = 1 / std::sqrt(squares / n + eps);
  for (int i = 0; i < n; ++i) x[i] = static_cast<float>(x[i] * scale * LoadFloat(norm.data, norm.dtype, i));
}

inline void Run(const EmbedArgs& args) {
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int i = 0; i < args.table.n_cols; ++i) {
      args.out[r * args.table.n_cols + i] =
          LoadFloat(args.table.row(args.rows.token[r]), args.table.dtype, i);
    }
  }
}

inline void Run(const RopeAnglesArgs& args) {
  const int half = args.head_dim / 2;
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(args.rows.position[r]) * args.inv_freq[i];
      args.cos_sin[r * args.head_dim + i] = std::cos(angle);
      args.cos_sin[r * args.head_dim + half + i] = std::sin(angle);
    }
  }
}

inline void Run(const LinearArgs& args, Disturbance* disturbance = nullptr) {
  for (int m = 0; m < *args.n_rows; ++m) {
    const float* source = args.in + (args.src != nullptr ? args.src[m] : m) * args.in_stride;
    std::vector<float> in(source, source + args.in_dim);
    if (args.norm) Normalize(in.data(), args.in_dim, args.norm, args.norm_eps);
    if (args.round_bf16) {
      for (float& value : in) value = RoundToBf16(value);
    }
    if (disturbance != nullptr) {
      for (float& value : in) value = (*disturbance)(value);
    }
    for (int s = 0; s < args.n_segments; ++s) {
      const LinearSegment& segment = args.segment[s];
      float* out = segment.out + (args.dst != nullptr ? args.dst[m] : m) * segment.out_stride;
      for (int64_t j = 0; j < segment.weight.n_rows; ++j) {
        double sum = segment.bias ? LoadFloat(segment.bias.data, segment.bias.dtype, j) : 0;
        for (int i = 0; i < args.in_dim; ++i) {
          sum += double{in[i]} * LoadFloat(segment.weight.row(j), segment.weight.dtype, i);
        }
        out[j] = static_cast<float>(segment.accumulate ? out[j] + sum : sum);
      }
    }
  }
}

inline void Rotate(float* x, const float* cos_sin, int head_dim) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cos_sin[i] - b * cos_sin[half + i];
    x[i + half] = b * cos_sin[i] + a * cos_sin[half + i];
  }
}

inline void Run(const RopeAppendArgs& args, Disturbance* disturbance = nullptr) {
  const int dim = args.kv.head_dim;
  const auto keep = [&](void* cache, const float* values, int64_t offset) {
    for (int i = 0; i < dim; ++i) {
      const float value = disturbance != nullptr ? (*disturbance)(values[i]) : values[i];
      if (args.kv.dtype == DType::kBf16) {
        static_cast<uint16_t*>(cache)[offset + i] = FloatToBf16(value);
      } else {
        static_cast<float*>(cache)[offset + i] = value;
      }
    }
  };
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int h = 0; h < args.n_heads; ++h) {
      float* q = args.q + (static_cast<int64_t>(r) * args.n_heads + h) * dim;
      if (args.q_norm) Normalize(q, dim, args.q_norm, args.norm_eps);
      Rotate(q, args.cos_sin + r * dim, dim);
    }
    for (int h = 0; h < args.kv.n_kv_heads; ++h) {
      const int64_t row = (static_cast<int64_t>(r) * args.kv.n_kv_heads + h) * dim;
      if (args.k_norm) Normalize(args.k + row, dim, args.k_norm, args.norm_eps);
      Rotate(args.k + row, args.cos_sin + r * dim, dim);
      const int64_t offset = args.kv.offset(args.rows.slot[r], h, args.rows.position[r]);
      keep(args.kv.k, args.k + row, offset);
      keep(args.kv.v, args.v + row, offset);
    }
  }
}

inline void Run(const AttentionArgs& args) {
  const int dim = args.kv.head_dim;
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int h = 0; h < args.n_heads; ++h) {
      const float* q = args.q + (static_cast<int64_t>(r) * args.n_heads + h) * dim;
      const int n_keys = args.rows.position[r] + 1;
      std::vector<double> weight(n_keys);
      std::vector<int64_t> offset(n_keys);
      double largest = -INFINITY;
      for (int t = 0; t < n_keys; ++t) {
        offset[t] = args.kv.offset(args.rows.slot[r], h * args.kv.n_kv_heads / args.n_heads, t);
        double score = 0;
        for (int i = 0; i < dim; ++i)
          score += double{q[i]} * LoadFloat(args.kv.k, args.kv.dtype, offset[t] + i);
        weight[t] = args.scale * score;
        largest = std::max(largest, weight[t]);
      }
      double total = 0;
      for (double& w : weight) total += w = std::exp(w - largest);
      for (int i = 0; i < dim; ++i) {
        double sum = 0;
        for (int t = 0; t < n_keys; ++t)
          sum += weight[t] * LoadFloat(args.kv.v, args.kv.dtype, offset[t] + i);
        args.out[(static_cast<int64_t>(r) * args.n_heads + h) * dim + i] = static_cast<float>(sum / total);
      }
    }
  }
}

inline void Run(const SiluGateArgs& args) {
  for (int64_t i = 0; i < int64_t{*args.n_rows} * args.dim; ++i) {
    args.gate[i] = args.gate[i] / (1 + std::exp(-args.gate[i])) * args.up[i];
  }
}

}  // namespace tandem::plain

#endif  // TANDEM_TESTS_RUNTIME_MODEL_INTERPRETER_H_
