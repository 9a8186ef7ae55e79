#include <cmath>

#include "kernels/silu_gate/silu_gate.h"

namespace tandem {

void SiluGateCpu(const SiluGateArgs& args, Worker worker) {
  const Share share = ShareOf(static_cast<int64_t>(*args.n_rows) * args.dim, worker, 16);
  for (int64_t i = share.begin; i < share.end; ++i) {
    args.gate[i] = args.gate[i] / (1 + std::exp(-args.gate[i])) * args.up[i];
  }
}

}  // namespace tandem
