// DeferCuda<R>: the kernel of a rule's deferral test. For the file that the build generates (policies/rules.cmake).
#ifndef TANDEM_POLICIES_DEFER_CUH_
#define TANDEM_POLICIES_DEFER_CUH_

#include "kernels/law/row_team.cuh"
#include "policies/cuda_tokens.cuh"
#include "policies/defer.h"

namespace tandem {

template <typename R>
constexpr bool kDeferHasPasses = (R::kInfo.needs & (Needs::kEntropyQ | Needs::kEntropyQ1)) != 0;

// A team for every planned sequence; where no figure takes a pass, one of a single warp.
template <typename R>
__global__ void __launch_bounds__(kTeamThreads) DeferKernel(const __grid_constant__ DeferArgs args) {
  WaitForPrevious();
  LetNextStart();
  RowTeam team(args.proposal.law.n_vocab);
  const int32_t i = team.row();
  if (i >= *args.rows.n_logits) return;
  team.Arrive();
  const int32_t slot = args.rows.slot[args.rows.logits_row[i]];
  const Law q = args.proposal.law.row(args.rows.logits_out[i]);
  const bool finite = q.finite();
  Row row;
  if (finite) {
    row = DraftRow(
        q, [](const Law& law, int32_t v) { return LawProb(law, v); },
        [](const Law& law, int32_t v) { return LawProb1(law, v); });
  }
  team.Await();
  if constexpr (kDeferHasPasses<R>) {
    if (finite && (R::kInfo.needs & Needs::kEntropyQ) != 0) row.q.entropy = TeamEntropy(team, q);
    if (finite && (R::kInfo.needs & Needs::kEntropyQ1) != 0) row.q1.entropy = TeamEntropy1(team, q);
  }
  if (!team.leads()) return;
  if (!finite) {
    args.proposal.fault[slot] = Fault::kDraftLaw;
    args.proposal.wanted[slot] = 0;
  } else if (internal::Bound<R>::Defers(args.test.params, row, Solved())) {
    args.states[slot].writer = Writer::kTarget;
    args.proposal.wanted[slot] = 0;
  }
}

template <typename R>
void DeferCuda(const DeferArgs& args, CudaStream stream) {
  if constexpr (R::kInfo.draft_only) {
    // A planned sequence wants the logits of one row, and its slot has one row of the proposal's block.
    LaunchShape shape{.grid = static_cast<unsigned>(args.rows.capacity), .block = 32, .overlap = true};
    if constexpr (kDeferHasPasses<R>)
      shape = TeamShape(args.rows.capacity, args.proposal.law.n_vocab, HasClusters(DeferKernel<R>));
    Launch(DeferKernel<R>, shape, stream, args);
  }
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_DEFER_CUH_
