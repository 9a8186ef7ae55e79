#include <cmath>

#include "kernels/silu_gate/silu_gate.h"

namespace tandem {

void SiluGateReference(const SiluGateArgs& args) {
  const int64_t n = static_cast<int64_t>(*args.n_rows) * args.dim;
  for (int64_t i = 0; i < n; ++i) {
    const double gate = args.gate[i];
    args.gate[i] = static_cast<float>(gate / (1 + std::exp(-gate)) * args.up[i]);
  }
}

}  // namespace tandem
