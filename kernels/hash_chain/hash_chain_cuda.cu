#include "kernels/hash_chain/hash_chain.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 128;

// In two halves, for the cache holds 32-bit words.
__device__ uint32_t* HashCell(const HashChainArgs& args, int32_t slot, int32_t position) {
  return static_cast<uint32_t*>(args.kv.k) + args.kv.offset(slot, 0, position);
}
__device__ uint64_t HashAt(const HashChainArgs& args, int32_t slot, int32_t position) {
  const uint32_t* cell = HashCell(args, slot, position);
  return static_cast<uint64_t>(cell[1]) << 32 | cell[0];
}

// One block. A sequence's rows hang on each other; the thread of its first row takes them all.
__global__ void __launch_bounds__(kThreads) HashChainKernel(const HashChainArgs args) {
  const int32_t n_rows = *args.rows.n_rows;
  for (int32_t first = threadIdx.x; first < n_rows; first += kThreads) {
    const int32_t slot = args.rows.slot[first];
    if (first > 0 && args.rows.slot[first - 1] == slot) continue;
    for (int32_t r = first; r < n_rows && args.rows.slot[r] == slot; ++r) {
      const int32_t position = args.rows.position[r];
      const uint64_t before = position > 0 ? HashAt(args, slot, position - 1) : args.salt;
      const uint64_t hash = HashMix(before, static_cast<uint64_t>(args.rows.token[r]));
      uint32_t* cell = HashCell(args, slot, position);
      cell[0] = static_cast<uint32_t>(hash);
      cell[1] = static_cast<uint32_t>(hash >> 32);
    }
  }
  if (args.out.logits == nullptr) return;
  __syncthreads();
  const int64_t n = static_cast<int64_t>(*args.rows.n_logits) * args.out.n_vocab;
  for (int64_t task = threadIdx.x; task < n; task += kThreads) {
    const auto i = static_cast<int32_t>(task / args.out.n_vocab),
               v = static_cast<int32_t>(task % args.out.n_vocab);
    const int32_t r = args.rows.logits_row[i];
    const uint64_t hash = HashAt(args, args.rows.slot[r], args.rows.position[r]);
    args.out.logits[static_cast<int64_t>(args.rows.logits_out[i]) * args.out.stride + v] =
        HashLogit(hash, v, args.spread);
  }
}

}  // namespace

void HashChainCuda(const HashChainArgs& args, CudaStream stream) {
  Launch(HashChainKernel, {.block = kThreads}, stream, args);
}

}  // namespace tandem
