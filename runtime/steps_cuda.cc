#ifdef TANDEM_CUDA
#include <absl/strings/str_cat.h>

#include "draft/ngram.h"
#include "kernels/attention/attention.h"
#include "kernels/embed/embed.h"
#include "kernels/hash_chain/hash_chain.h"
#include "kernels/law/law.h"
#include "kernels/linear/linear.h"
#include "kernels/plan/plan.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/sample.h"
#include "kernels/silu_gate/silu_gate.h"
#include "kernels/total_variation/total_variation.h"
#include "policies/defer.h"
#include "policies/judge.h"
#include "runtime/settle.h"
#include "runtime/steps.h"

namespace tandem {
namespace {

absl::Status NoCodeFor(const RuleEntry& rule) {
  return absl::InvalidArgumentError(absl::StrCat(
      "rule ", rule.info->name, " has no code for a CUDA device, since it was not built in from a ",
      "header; put it into policies/rules or TANDEM_RULES_DIR, or use device: cpu"));
}

// Where a step that writes `out` [n_rows, dim] may leave it for the product behind it, rounded; null: it writes `out`.
uint16_t* RoundedOutput(const Program& program, const Step& step, const int32_t* n_rows, const float* out,
                        int32_t dim, const LinearLibrary* library) {
  const Step* const next = &step + 1;
  if (next >= program.steps().data() + program.steps().size()) return nullptr;
  if (next->op != Op::kLinear || next->lane != step.lane) return nullptr;
  const LinearArgs& product = program.args_as<LinearArgs>(*next);
  const bool same = product.in == out && product.in_dim == dim && product.n_rows == n_rows;
  return same ? RoundedInput(product, library) : nullptr;
}
uint16_t* RoundedGate(const Program& program, const Step& step, const LinearLibrary* library) {
  const auto& args = program.args_as<SiluGateArgs>(step);
  return RoundedOutput(program, step, args.n_rows, args.gate, args.dim, library);
}
uint16_t* RoundedAttention(const Program& program, const Step& step, const LinearLibrary* library) {
  const auto& args = program.args_as<AttentionArgs>(step);
  if (args.rows.capacity <= kAttentionDecodeRows) return nullptr;
  return RoundedOutput(program, step, args.rows.n_rows, args.out, args.n_heads * args.kv.head_dim, library);
}
// Whether the step before a product has left it its input so.
bool InputIsRounded(const Program& program, const Step& product, const LinearLibrary* library) {
  if (&product == program.steps().data()) return false;
  const Step& before = *(&product - 1);
  return (before.op == Op::kSiluGate && RoundedGate(program, before, library) != nullptr) ||
         (before.op == Op::kAttention && RoundedAttention(program, before, library) != nullptr);
}

}  // namespace

absl::Status LaunchCudaStep(const Program& program, const Step& step, LinearLibrary* library,
                            CudaStream stream) {
  switch (step.op) {
    case Op::kAdmit:
      AdmitCuda(program.args_as<AdmitArgs>(step), stream);
      break;
    case Op::kPlan:
      PlanCuda(program.args_as<PlanArgs>(step), stream);
      break;
    case Op::kEmbed:
      EmbedCuda(program.args_as<EmbedArgs>(step), stream);
      break;
    case Op::kRopeAngles:
      RopeAnglesCuda(program.args_as<RopeAnglesArgs>(step), stream);
      break;
    case Op::kLinear:
      LinearCuda(program.args_as<LinearArgs>(step), stream, library, InputIsRounded(program, step, library));
      break;
    case Op::kRopeAppend:
      RopeAppendCuda(program.args_as<RopeAppendArgs>(step), stream);
      break;
    case Op::kAttention:
      AttentionCuda(program.args_as<AttentionArgs>(step), stream, RoundedAttention(program, step, library));
      break;
    case Op::kSiluGate:
      SiluGateCuda(program.args_as<SiluGateArgs>(step), stream, RoundedGate(program, step, library));
      break;
    case Op::kHashChain:
      HashChainCuda(program.args_as<HashChainArgs>(step), stream);
      break;
    case Op::kAdvance:
      AdvanceCuda(program.args_as<AdvanceArgs>(step), stream);
      break;
    case Op::kLawBlocks:
      LawBlocksCuda(program.args_as<LawBlocksArgs>(step), stream);
      break;
    case Op::kLaw:
      LawCuda(program.args_as<LawArgs>(step), stream);
      break;
    case Op::kSample:
      SampleCuda(program.args_as<SampleArgs>(step), stream);
      break;
    case Op::kLookup:
      LookupCuda(program.args_as<LookupArgs>(step), stream);
      break;
    case Op::kTotalVariation:
      TotalVariationCuda(program.args_as<TotalVariationArgs>(step), stream);
      break;
    case Op::kDefer: {
      const auto& args = program.args_as<DeferArgs>(step);
      if (args.test.rule->defer_cuda == nullptr) return NoCodeFor(*args.test.rule);
      args.test.rule->defer_cuda(args, stream);
      break;
    }
    case Op::kJudge: {
      const auto& args = program.args_as<JudgeArgs>(step);
      if (args.rule->judge_cuda == nullptr) return NoCodeFor(*args.rule);
      args.rule->judge_cuda(args, stream);
      break;
    }
    case Op::kSettle:
      SettleCuda(program.args_as<SettleArgs>(step), stream);
      break;
    case Op::kPublish:
      PublishCuda(program.args_as<PublishArgs>(step), stream);
      break;
    case Op::kCut:
      CutCuda(program.args_as<CutArgs>(step), stream);
      break;
    case Op::kGrow:
      GrowCuda(program.args_as<GrowArgs>(step), stream);
      break;
    case Op::kPreempt:
      PreemptCuda(program.args_as<PreemptArgs>(step), stream);
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("step ", Name(step.op), " cannot run on a CUDA device; use device: cpu"));
  }
  return absl::OkStatus();
}

}  // namespace tandem
#endif  // TANDEM_CUDA
