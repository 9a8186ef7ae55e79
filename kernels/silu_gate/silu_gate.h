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
// `rounded`: the result goes there in bf16, to the nearest, [n_rows, dim], and `gate` stays as it is; then dim is a multiple
// of 4, and gate, up and rounded start at multiples of 16 bytes.
void SiluGateCuda(const SiluGateArgs& args, CudaStream stream, uint16_t* rounded = nullptr);

}  // namespace tandem

#endif  // TANDEM_KERNELS_SILU_GATE_SILU_GATE_H_
