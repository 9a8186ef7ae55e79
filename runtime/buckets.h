// Buckets: for how many slots rounds are recorded. A round program takes the first slots of the batch, as many as its bucket,
// and its kernels are launched for that many; the engine runs the smallest one that covers all slots in use. Which one runs
// changes no bit of a sequence's, where a row's bits do not depend on its company (runtime/README.md, Numerics).
#ifndef TANDEM_RUNTIME_BUCKETS_H_
#define TANDEM_RUNTIME_BUCKETS_H_

#include <cstdint>
#include <vector>

namespace tandem {

// n_slots, and if `smaller` the powers of two below it; from the largest down.
inline std::vector<int32_t> BucketsOf(int32_t n_slots, bool smaller) {
  std::vector<int32_t> buckets = {n_slots};
  int32_t below = 1;
  while (2 * below < n_slots) below *= 2;
  for (; smaller && 0 < below && below < n_slots; below /= 2) buckets.push_back(below);
  return buckets;
}

}  // namespace tandem

#endif  // TANDEM_RUNTIME_BUCKETS_H_
