// hash_chain: a model without weights whose logits are a hash of the whole prefix. Row t of its cache holds the hash of
// tokens 0 .. t, computed from row t - 1 and the token, so a stale or missing row changes every later law: text that a
// real model would still write fluently is visibly wrong here. `tandem rules check` and the tests run on it.
//
//   h_t = Mix(h_{t-1}, token_t), h_{-1} = salt;   logits_t[v] = spread * unit(Mix(h_t, v)),  unit in [-1, 1)
//
// The cache's K holds the hash as two 32-bit words in the first two fp32 cells of the row; head_dim is at least 2.
#ifndef TANDEM_KERNELS_HASH_CHAIN_HASH_CHAIN_H_
#define TANDEM_KERNELS_HASH_CHAIN_HASH_CHAIN_H_

#include "runtime/core/kv.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"

namespace tandem {

struct HashChainArgs {
  static constexpr Op kOp = Op::kHashChain;
  RowPlan rows;
  KvLayer kv;  // dtype fp32, one kv head
  uint64_t salt;
  float spread;
  LawBuffer out;  // logits of the planned logits rows
};

TANDEM_HD inline uint64_t HashMix(uint64_t hash, uint64_t value) {
  uint64_t x = hash * 0x9E3779B97F4A7C15u + value + 0x632BE59BD9B4E019u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// The logit of v after a prefix with this hash.
TANDEM_HD inline float HashLogit(uint64_t hash, int32_t v, float spread) {
  const uint64_t bits = HashMix(hash, static_cast<uint64_t>(v) + 1);
  // The product is exact, so that it does not matter whether it is fused with the difference.
  return spread * (static_cast<float>(bits >> 40) * (2.f / 16777216.f) - 1.f);
}

void HashChain(const HashChainArgs& args);  // serial
void HashChainCuda(const HashChainArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_KERNELS_HASH_CHAIN_HASH_CHAIN_H_
