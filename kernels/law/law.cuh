// Probabilities of a law on a CUDA device: the same arithmetic as law_cpu.cc, so that p(v) has the same bits as on a CPU
// that has FMA.
#ifndef TANDEM_KERNELS_LAW_LAW_CUH_
#define TANDEM_KERNELS_LAW_LAW_CUH_

#include <cstdint>

#include "runtime/core/law.h"

namespace tandem {

// exp(x) for x from -87 to a little over 0. As ExpNegative of law_cpu.cc, which says how.
__device__ inline float ExpInRange(float x) {
  const float shifted = fmaf(x, 1.44269504f, 12582912.f);
  const float k = shifted - 12582912.f;
  float r = fmaf(-k, 0.693145751953125f, x);
  r = fmaf(-k, 1.428606765330187045e-6f, r);
  const float r2 = r * r;
  const float low = fmaf(0.1666652113f, r, 0.4999999404f);
  const float high = fmaf(0.008368716575f, r, 0.04166838899f);
  const float p = fmaf(fmaf(0.00138145988f, r2, high), r2, low);
  const float e = fmaf(p, r2, r) + 1.f;
  return __uint_as_float(__float_as_uint(e) + (__float_as_uint(shifted) << 23));
}
// Also under -87, and for NaN: 0.
__device__ inline float ExpNegative(float x) { return x >= -87.f ? ExpInRange(x) : 0.f; }

// exp((x - max) * inv_t - shift): the weight of a logit x that is not cut off.
__device__ inline float LawExponent(const LawRecord& record, float x, float inv_t, float shift) {
  return fmaf(x - record.max, inv_t, -shift);
}

// -infinity, of probability 0, outside the vocabulary.
__device__ inline float LogitOf(const Law& law, int32_t v) {
  __builtin_assume(__isGlobal(law.logits) != 0);
  return static_cast<uint32_t>(v) < static_cast<uint32_t>(law.n_vocab) ? law.logits[v] : -INFINITY;
}

// p(v), p1(v) of the token whose logit is x = LogitOf(law, v). Loops over a vocabulary fetch the logits of many tokens
// first, so that they are on their way at once: the compiler does not bring a load forward that stands behind arithmetic.
__device__ inline float SampledProbOf(const Law& law, float x) {  // of a law that is not greedy
  const float p = ExpNegative(LawExponent(law.record, x, law.record.inv_t, law.record.lse));
  return x >= law.record.cutoff ? p : 0.f;
}
__device__ inline float ProbOf(const Law& law, int32_t v, float x) {
  const float greedy = (v == law.record.argmax) & (v < law.n_vocab) ? 1.f : 0.f;
  return law.greedy() ? greedy : SampledProbOf(law, x);
}

__device__ inline float Prob1Of(const Law& law, float x) {
  return ExpNegative(LawExponent(law.record, x, 1, law.record.lse1));
}

__device__ inline float LawProb(const Law& law, int32_t v) { return ProbOf(law, v, LogitOf(law, v)); }
__device__ inline float LawProb1(const Law& law, int32_t v) { return Prob1Of(law, LogitOf(law, v)); }

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_LAW_CUH_
