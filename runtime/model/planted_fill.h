// The numbers of a planted model's weights, one source for the CPU and for CUDA: a weight is a function of its tensor's seed
// and its index alone, made of integer arithmetic and single roundings, so both fill a tensor with the same bits.
#ifndef TANDEM_RUNTIME_MODEL_PLANTED_FILL_H_
#define TANDEM_RUNTIME_MODEL_PLANTED_FILL_H_

#include <cstdint>

#include "runtime/core/device.h"
#include "runtime/core/platform.h"
#include "runtime/core/view.h"

namespace tandem::planted {

inline constexpr float kPeak = 16;  // about the logit of the planted token

// SplitMix64 of (seed, index).
TANDEM_HD inline uint64_t Bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Nearly normal, mean 0, standard deviation 1: four uniform numbers of 16 bits, added (exact in fp32).
TANDEM_HD inline float Normal(uint64_t bits) {
  const int64_t sum =
      static_cast<int64_t>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
  return static_cast<float>(sum - 2 * 0xffff) * (1.7320508f / 65536);
}

TANDEM_HD inline uint16_t RandomWeight(uint64_t seed, int64_t index, float deviation) {
  return FloatToBf16(deviation * Normal(Bits(seed, static_cast<uint64_t>(index))));
}

// The head's weight for the token whose predecessor has this weight in the embedding.
TANDEM_HD inline uint16_t HeadWeight(uint16_t embedding, float hidden) {
  return FloatToBf16(Bf16ToFloat(embedding) * kPeak / hidden);
}

// The same by kernels, into memory of `device`; each waits for its kernel. In a build without CUDA none is reached.
void FillRandomCuda(Device device, uint16_t* data, int64_t n, uint64_t seed, float deviation);
void FillCuda(Device device, uint16_t* data, int64_t n, uint16_t value);
// head[successor[v]] from embedding[v], both [n_vocab, hidden]; `successor` is the host's.
void FillHeadCuda(Device device, uint16_t* head, const uint16_t* embedding, const int32_t* successor,
                  int64_t n_vocab, int64_t hidden);

}  // namespace tandem::planted

#endif  // TANDEM_RUNTIME_MODEL_PLANTED_FILL_H_
