#include "kernels/silu_gate/silu_gate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/silu_gate/silu_gate_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {
namespace {

void SiluGate(const SiluGateArgs& args, Worker worker) {
  const DF d;
  const VF one = hn::Set(d, 1.f);
  // exp is infinite from here on, and gate / infinity is the limit; Highway's takes no larger argument.
  const VF largest = hn::Set(d, 100.f);
  const Share share = ShareOf(static_cast<int64_t>(*args.n_rows) * args.dim, worker, 16);
  for (int64_t i = share.begin; i < share.end; i += kLanes) {
    const int64_t left = share.end - i;
    const VF gate = LoadUpTo(args.gate + i, left);
    const VF exp = hn::Exp(d, hn::Min(hn::Neg(gate), largest));
    const VF silu = hn::Div(gate, hn::Add(one, exp));
    StoreUpTo(hn::Mul(silu, LoadUpTo(args.up + i, left)), args.gate + i, left);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem {

HWY_EXPORT(SiluGate);
void SiluGateCpu(const SiluGateArgs& args, Worker worker) { HWY_DYNAMIC_DISPATCH(SiluGate)(args, worker); }

}  // namespace tandem
#endif  // HWY_ONCE
