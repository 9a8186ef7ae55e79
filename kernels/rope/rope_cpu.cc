#include <cmath>

#include "kernels/rope/rope.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/rope_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {
namespace {

void Rotate(const View& norm, float eps, const float* cos_sin, int d, float* head) {
  const int half = d / 2;
  if (norm) {
    const VF scale = hn::Set(DF(), RmsScale(head, d, eps));
    for (int i = 0; i < d; i += kLanes) {
      const VF value = hn::Mul(LoadUpTo(head + i, d - i), scale);
      StoreUpTo(hn::Mul(value, LoadUpTo(norm, i, d - i)), head + i, d - i);
    }
  }
  for (int i = 0; i < half; i += kLanes) {
    const int left = half - i;
    const VF cos = LoadUpTo(cos_sin + i, left), sin = LoadUpTo(cos_sin + half + i, left);
    const VF low = LoadUpTo(head + i, left), high = LoadUpTo(head + half + i, left);
    StoreUpTo(hn::Sub(hn::Mul(low, cos), hn::Mul(high, sin)), head + i, left);
    StoreUpTo(hn::Add(hn::Mul(high, cos), hn::Mul(low, sin)), head + half + i, left);
  }
}

void Append(const KvLayer& kv, void* cache, int64_t offset, const float* head) {
  const int d = kv.head_dim;
  if (kv.dtype == DType::kF32) {
    std::memcpy(static_cast<float*>(cache) + offset, head, d * sizeof(float));
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(cache) + offset;
  for (int i = 0; i < d; i += kLanes) StoreBf16UpTo(LoadUpTo(head + i, d - i), out + i, d - i);
}

// A task is one head of one row: the query heads, then the heads of the cache, k and v together.
void RopeAppend(const RopeAppendArgs& args, Worker worker) {
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
    Append(args.kv, args.kv.k, offset, args.k + head);
    Append(args.kv, args.kv.v, offset, args.v + head);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem {

HWY_EXPORT(RopeAppend);
void RopeAppendCpu(const RopeAppendArgs& args, Worker worker) {
  HWY_DYNAMIC_DISPATCH(RopeAppend)(args, worker);
}

// The C library's cos and sin reduce large angles exactly, which a position times a frequency of 1 needs.
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

}  // namespace tandem
#endif  // HWY_ONCE
