// rope_angles: cos and sin of every planned row's position, once per forward.
// rope_append: norms q and k per head (Qwen3), rotates them, and writes k and v into the cache.
//
// Rotation is Hugging Face's "rotate half": with h = head_dim / 2, for i < h
//   x'[i] = x[i] cos_i - x[i + h] sin_i;   x'[i + h] = x[i + h] cos_i + x[i] sin_i;   angle_i = position * inv_freq[i]
// where the angle is the fp32 product, as there. Keys and values are stored in the cache's dtype.
#ifndef TANDEM_KERNELS_ROPE_ROPE_H_
#define TANDEM_KERNELS_ROPE_ROPE_H_

#include "runtime/core/kv.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/view.h"
#include "runtime/core/worker.h"

namespace tandem {

struct RopeAnglesArgs {
  static constexpr Op kOp = Op::kRopeAngles;
  RowPlan rows;
  const float* inv_freq;  // [head_dim / 2]
  int32_t head_dim;       // even
  float* cos_sin;         // out [capacity, head_dim]: cosines, then sines
};

struct RopeAppendArgs {
  static constexpr Op kOp = Op::kRopeAppend;
  RowPlan rows;
  float* q;             // [capacity, n_heads * head_dim], in place
  float* k;             // [capacity, n_kv_heads * head_dim], in place
  const float* v;       // [capacity, n_kv_heads * head_dim]
  View q_norm, k_norm;  // [1, head_dim], optional: RMS norm of each head before the rotation
  float norm_eps;
  const float* cos_sin;  // [capacity, head_dim]
  int32_t n_heads;
  KvLayer kv;  // n_kv_heads and head_dim too
};

void RopeAnglesReference(const RopeAnglesArgs& args);
void RopeAnglesCpu(const RopeAnglesArgs& args, Worker worker);
void RopeAnglesCuda(const RopeAnglesArgs& args, CudaStream stream);
void RopeAppendReference(const RopeAppendArgs& args);
void RopeAppendCpu(const RopeAppendArgs& args, Worker worker);
void RopeAppendCuda(const RopeAppendArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_KERNELS_ROPE_ROPE_H_
