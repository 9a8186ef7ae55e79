// HashChainModel: a model whose law at every position is a hash of the whole prefix (kernels/hash_chain). It has no
// weights and no quality, but every part of the runtime that could be stale shows in it. For `tandem rules check` and
// tests; not in the registry of architectures.
#ifndef TANDEM_RUNTIME_MODEL_ARCH_HASH_CHAIN_H_
#define TANDEM_RUNTIME_MODEL_ARCH_HASH_CHAIN_H_

#include <memory>
#include <span>
#include <vector>

#include "runtime/model/model.h"

namespace tandem {

class HashChainModel : public Model {
 public:
  // `spread`: logits lie in [-spread, spread).
  HashChainModel(int32_t n_vocab, uint64_t salt, float spread, int32_t max_context = 4096,
                 Device device = {});

  Workspace NewWorkspace(Arena& arena, int32_t max_rows, int32_t n_workers) const override;
  void Emit(Program& program, const Forward& forward) const override;

  // The logits after a prefix, computed without any cache.
  std::vector<float> Logits(std::span<const int32_t> prefix) const;

 private:
  uint64_t salt_;
  float spread_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ARCH_HASH_CHAIN_H_
