#include "draft/drafter.h"

#include <vector>

namespace tandem {

Proposal NewProposal(Arena& arena, const Batch& batch) {
  const int32_t block = batch.gamma + 1;
  const size_t n = static_cast<size_t>(batch.n_slots) * block;
  std::vector<int32_t> parent(n);
  for (size_t i = 0; i < n; ++i) parent[i] = static_cast<int32_t>(i % block) - 1;
  arena.Place(batch.device);
  return {.block = block,
          .wanted = arena.New<int32_t>(batch.n_slots),
          .n_proposed = arena.New<int32_t>(batch.n_slots),
          .tokens = arena.New<int32_t>(n),
          .parent = arena.Copy(parent.data(), n),
          .fault = arena.New<Fault>(batch.n_slots)};
}

}  // namespace tandem
