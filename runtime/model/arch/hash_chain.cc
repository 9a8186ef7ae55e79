#include "runtime/model/arch/hash_chain.h"

#include "kernels/hash_chain/hash_chain.h"

namespace tandem {

HashChainModel::HashChainModel(int32_t n_vocab, uint64_t salt, float spread, int32_t max_context,
                               Device device)
    : salt_(salt), spread_(spread) {
  device_ = device;
  shape_ = {.architecture = "HashChain",
            .n_layers = 1,
            .hidden = 2,
            .n_heads = 1,
            .n_kv_heads = 1,
            .head_dim = 2,
            .n_vocab = n_vocab,
            .max_context = max_context};
}

Workspace HashChainModel::NewWorkspace(Arena&, int32_t max_rows, int32_t n_workers) const {
  return {.max_rows = max_rows, .n_workers = n_workers};
}

void HashChainModel::Emit(Program& program, const Forward& forward) const {
  // Logits stay fp32 whatever the activations are, so the hash needs a cache that holds 32-bit words.
  TANDEM_CHECK(forward.dtype == ActivationDType::kF32) << "HashChainModel runs in fp32";
  LawBuffer out = forward.out;
  out.n_vocab = shape_.n_vocab;
  program.Add(
      HashChainArgs{.rows = forward.rows, .kv = forward.kv[0], .salt = salt_, .spread = spread_, .out = out});
}

std::vector<float> HashChainModel::Logits(std::span<const int32_t> prefix) const {
  uint64_t hash = salt_;
  for (int32_t token : prefix) hash = HashMix(hash, static_cast<uint64_t>(token));
  std::vector<float> logits(shape_.n_vocab);
  for (int32_t v = 0; v < shape_.n_vocab; ++v) logits[v] = HashLogit(hash, v, spread_);
  return logits;
}

}  // namespace tandem
