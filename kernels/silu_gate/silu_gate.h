// silu_gate: gate[r, i] = gate[r, i] / (1 + exp(-gate[r, i])) * up[r, i], in place, fp32.
#ifndef TANDEM_KERNELS_SILU_GATE_SILU_GATE_H_
#define TANDEM_KERNELS_SILU_GATE_SILU_GATE_H_

#include <cstdint>

#include "runtime/core/platform.h"
#include "runtime/core/program.h"
#include "runtime/core/worker.h"

namespace tandem {

struct SiluGateArgs {
  static constexpr Op kOp = Op::kSiluGate;
  const int32_t* n_rows;
  int32_t dim;
  float* gate;      // [.., dim]
  const float* up;  // [.., dim]
};

void SiluGateReference(const SiluGateArgs& args);
void SiluGateCpu(const SiluGateArgs& args, Worker worker);
void SiluGateCuda(const SiluGateArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_KERNELS_SILU_GATE_SILU_GATE_H_
