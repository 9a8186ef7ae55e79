// How attention on tensor cores is cut (packed_attention.cuh): what the host needs of it too.
#ifndef TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_H_
#define TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_H_

#include "runtime/core/platform.h"

namespace tandem::packed_attention {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kCluster = 8;  // blocks that share a task
constexpr int kWarpKeys = 16;
constexpr int kBlockKeys = kWarps * kWarpKeys;
constexpr int kQueries = 16;  // of a task
constexpr int kSumSlots = 2;

// Shared memory of a block, in floats, for heads of D and room for the sums of `n_sums` query rows (of kSumSlots or kWarps
// sums each).
template <int D>
TANDEM_HD constexpr int QueryFloats() {
  return 2 * kQueries * (D * 2 + 64) / 4;
}
template <int D>
TANDEM_HD constexpr int FloatsOf(int n_sums = kSumSlots * kQueries) {
  return QueryFloats<D>() + 2 * kWarps * kQueries + n_sums * (D + 4);
}

}  // namespace tandem::packed_attention

#endif  // TANDEM_KERNELS_ATTENTION_PACKED_ATTENTION_H_
