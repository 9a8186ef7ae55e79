// attention: out[r, h] = softmax(scale * q[r, h] . K) V over the keys at positions 0 .. position[r] of the row's own
// sequence, read through its page table. GQA: query head h uses kv head h / (n_heads / n_kv_heads).
//
// Keys are taken in chunks of kAttentionChunk at absolute positions, merged in rising order, so a row's bits depend on
// its own sequence alone: not on the other rows of the forward, on the page size or on which pages are held.
// fp32 throughout; K and V are widened from the cache's dtype.
#ifndef TANDEM_KERNELS_ATTENTION_ATTENTION_H_
#define TANDEM_KERNELS_ATTENTION_ATTENTION_H_

#include <cstdint>

#include "runtime/core/kv.h"
#include "runtime/core/platform.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

inline constexpr int kAttentionChunk = 64;
inline constexpr int kAttentionDecodeRows = 64;
// What the CPU keeps of a query on its stack.
inline constexpr int kAttentionMaxHeadDim = 512;

struct AttentionArgs {
  static constexpr Op kOp = Op::kAttention;
  RowPlan rows;
  const float* q;  // [capacity, n_heads * head_dim]
  KvLayer kv;
  int32_t n_heads;
  float scale;
  float* out;  // [capacity, n_heads * head_dim]
};

void AttentionReference(const AttentionArgs& args);  // two passes, sums in double
void AttentionCpu(const AttentionArgs& args, Worker worker);
// Pointers are device memory. A bf16 cache with heads of 64 or 128 goes to tensor cores, with queries and weights to
// 2^-18 of their size; then a row has the same bits among forwards with a capacity of up to kAttentionDecodeRows, and among
// larger ones. `rounded`, for such larger ones: outputs go there in bf16, to the nearest, and not to args.out.
void AttentionCuda(const AttentionArgs& args, CudaStream stream, uint16_t* rounded = nullptr);

}  // namespace tandem

#endif  // TANDEM_KERNELS_ATTENTION_ATTENTION_H_
