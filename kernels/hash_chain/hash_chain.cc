#include "kernels/hash_chain/hash_chain.h"

#include <cstring>

namespace tandem {
namespace {

std::byte* HashCell(const HashChainArgs& args, int32_t slot, int32_t position) {
  return static_cast<std::byte*>(args.kv.k) + args.kv.offset(slot, 0, position) * sizeof(float);
}

}  // namespace

void HashChain(const HashChainArgs& args) {
  for (int32_t r = 0; r < *args.rows.n_rows; ++r) {
    const int32_t slot = args.rows.slot[r];
    const int32_t position = args.rows.position[r];
    uint64_t hash = args.salt;
    if (position > 0) std::memcpy(&hash, HashCell(args, slot, position - 1), sizeof(hash));
    hash = HashMix(hash, static_cast<uint64_t>(args.rows.token[r]));
    std::memcpy(HashCell(args, slot, position), &hash, sizeof(hash));
  }
  if (args.out.logits == nullptr) return;
  for (int32_t i = 0; i < *args.rows.n_logits; ++i) {
    const int32_t r = args.rows.logits_row[i];
    uint64_t hash;
    std::memcpy(&hash, HashCell(args, args.rows.slot[r], args.rows.position[r]), sizeof(hash));
    float* logits = args.out.logits + static_cast<int64_t>(args.rows.logits_out[i]) * args.out.stride;
    for (int32_t v = 0; v < args.out.n_vocab; ++v) logits[v] = HashLogit(hash, v, args.spread);
  }
}

}  // namespace tandem
