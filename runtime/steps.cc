#include "runtime/steps.h"

#include <absl/strings/str_cat.h>

#include "draft/host_drafter.h"
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

namespace tandem {

bool IsParallel(Op op) {
  switch (op) {
    case Op::kEmbed:
    case Op::kRopeAngles:
    case Op::kLinear:
    case Op::kRopeAppend:
    case Op::kAttention:
    case Op::kSiluGate:
    case Op::kLawBlocks:
    case Op::kLaw:
    case Op::kSample:
    case Op::kTotalVariation:
    case Op::kDefer:
    case Op::kJudge:
      return true;
    default:
      return false;
  }
}

void RunParallelStep(const Program& program, const Step& step, Worker worker) {
  switch (step.op) {
    case Op::kEmbed:
      return EmbedCpu(program.args_as<EmbedArgs>(step), worker);
    case Op::kRopeAngles:
      return RopeAnglesCpu(program.args_as<RopeAnglesArgs>(step), worker);
    case Op::kLinear:
      return LinearCpu(program.args_as<LinearArgs>(step), worker);
    case Op::kRopeAppend:
      return RopeAppendCpu(program.args_as<RopeAppendArgs>(step), worker);
    case Op::kAttention:
      return AttentionCpu(program.args_as<AttentionArgs>(step), worker);
    case Op::kSiluGate:
      return SiluGateCpu(program.args_as<SiluGateArgs>(step), worker);
    case Op::kLawBlocks:
      return LawBlocksCpu(program.args_as<LawBlocksArgs>(step), worker);
    case Op::kLaw:
      return LawCpu(program.args_as<LawArgs>(step), worker);
    case Op::kSample:
      return SampleCpu(program.args_as<SampleArgs>(step), worker);
    case Op::kTotalVariation:
      return TotalVariationCpu(program.args_as<TotalVariationArgs>(step), worker);
    case Op::kDefer:
      return DeferCpu(program.args_as<DeferArgs>(step), worker);
    case Op::kJudge:
      return JudgeCpu(program.args_as<JudgeArgs>(step), worker);
    default:
      TANDEM_CHECK(false) << Name(step.op) << " is no parallel step";
  }
}

void RunSerialStep(const Program& program, const Step& step) {
  switch (step.op) {
    case Op::kAdmit:
      return Admit(program.args_as<AdmitArgs>(step));
    case Op::kPlan:
      return Plan(program.args_as<PlanArgs>(step));
    case Op::kHashChain:
      return HashChain(program.args_as<HashChainArgs>(step));
    case Op::kAdvance:
      return Advance(program.args_as<AdvanceArgs>(step));
    case Op::kLookup:
      return Lookup(program.args_as<LookupArgs>(step));
    case Op::kHostDraft:
      return HostDraft(program.args_as<HostDraftArgs>(step));
    case Op::kSettle:
      return Settle(program.args_as<SettleArgs>(step));
    case Op::kPublish:
      return Publish(program.args_as<PublishArgs>(step));
    case Op::kCut:
      return Cut(program.args_as<CutArgs>(step));
    case Op::kGrow:
      return Grow(program.args_as<GrowArgs>(step));
    case Op::kPreempt:
      return Preempt(program.args_as<PreemptArgs>(step));
    default:
      TANDEM_CHECK(false) << Name(step.op) << " is no serial step";
  }
}

const char* Name(Op op) {
  switch (op) {
    case Op::kRecord:
      return "record";
    case Op::kWait:
      return "wait";
    case Op::kAdmit:
      return "admit";
    case Op::kPlan:
      return "plan";
    case Op::kEmbed:
      return "embed";
    case Op::kRopeAngles:
      return "rope_angles";
    case Op::kLinear:
      return "linear";
    case Op::kRopeAppend:
      return "rope_append";
    case Op::kAttention:
      return "attention";
    case Op::kSiluGate:
      return "silu_gate";
    case Op::kHashChain:
      return "hash_chain";
    case Op::kAdvance:
      return "advance";
    case Op::kLawBlocks:
      return "law_blocks";
    case Op::kLaw:
      return "law";
    case Op::kSample:
      return "sample";
    case Op::kLookup:
      return "lookup";
    case Op::kHostDraft:
      return "host_draft";
    case Op::kTotalVariation:
      return "total_variation";
    case Op::kDefer:
      return "defer";
    case Op::kJudge:
      return "judge";
    case Op::kSettle:
      return "settle";
    case Op::kPublish:
      return "publish";
    case Op::kCut:
      return "cut";
    case Op::kGrow:
      return "grow";
    case Op::kPreempt:
      return "preempt";
    case Op::kCount:
      break;
  }
  return "?";
}

const char* Name(Phase phase) {
  switch (phase) {
    case Phase::kPrefill:
      return "prefill";
    case Phase::kDraft:
      return "draft";
    case Phase::kVerify:
      return "verify";
    case Phase::kRule:
      return "rule";
    case Phase::kSettle:
      return "settle";
    case Phase::kCount:
      break;
  }
  return "?";
}

std::string Name(PhaseLabel label) {
  return label.draft < 0 ? Name(label.phase) : absl::StrCat(Name(label.phase), "[", label.draft, "]");
}

std::vector<PhaseLabel> LabelsOf(const Program& program) {
  std::vector<PhaseLabel> labels;
  int32_t n_drafts = 0;
  for (const Step& step : program.steps()) {
    const bool is_draft = step.phase == Phase::kDraft;
    if (is_draft && step.op == Op::kPlan) ++n_drafts;
    labels.push_back({step.phase, is_draft ? n_drafts - 1 : -1});
  }
  return labels;
}

}  // namespace tandem
