// JudgeCuda<R>: the kernels of a rule. For the file that the build generates (policies/rules.cmake).
#ifndef TANDEM_POLICIES_JUDGE_CUH_
#define TANDEM_POLICIES_JUDGE_CUH_

#include "kernels/cuda.cuh"
#include "kernels/law/row_team.cuh"
#include "policies/cuda_position.cuh"
#include "policies/slot_judge.h"
#include "runtime/core/launch.cuh"

namespace tandem {

__device__ inline JudgedPosition* PositionsOf(const JudgeArgs& args, int32_t slot) {
  return static_cast<JudgedPosition*>(args.scratch) + static_cast<int64_t>(slot) * args.scores.block;
}

// Of a rule whose rows take passes: a team for every position.
template <typename R>
__global__ void __launch_bounds__(kTeamThreads)
    JudgeAheadKernel(const __grid_constant__ JudgeArgs args, int32_t n_vocab) {
  __shared__ alignas(16) unsigned char state_shared[sizeof(CudaPositionState)];
  __shared__ CudaAsk ask;
  __shared__ GroupWeights groups;
  WaitForPrevious();
  LetNextStart();
  RowTeam team(n_vocab);
  const int32_t slot = team.row() / args.scores.block, i = team.row() % args.scores.block;
  const int32_t n_proposed = args.proposal.n_proposed[slot];
  const SeqState& state = args.batch.states[slot];
  if (!state.live || !TargetAdds(state) || i >= n_proposed || n_proposed >= args.scores.block) return;
  team.Arrive();
  CudaPosition<R> position(args, slot, n_proposed, team, reinterpret_cast<CudaPositionState*>(state_shared),
                           ask, groups, PositionsOf(args, slot));
  team.Await();
  if (team.is_first_warp()) {
    position.JudgeAhead(i);
    position.Dismiss();
  } else {
    position.Serve();
  }
}

// A team for every slot. Where no row takes a pass, the warps of its first block judge the positions ahead.
template <typename R>
__global__ void __launch_bounds__(kTeamThreads)
    JudgeKernel(const __grid_constant__ JudgeArgs args, int32_t n_vocab) {
  using Position = CudaPosition<R>;
  constexpr bool kAhead = !Position::kHasPasses;
  __shared__ alignas(16) unsigned char states_shared[Position::kStates * sizeof(CudaPositionState)];
  __shared__ CudaAsk ask;
  __shared__ GroupWeights groups;
  WaitForPrevious();
  LetNextStart();
  RowTeam team(n_vocab);
  const int32_t slot = team.row();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const SeqState state = args.batch.states[slot];
  const int32_t n_proposed = args.proposal.n_proposed[slot];
  Position position(args, slot, n_proposed, team, reinterpret_cast<CudaPositionState*>(states_shared), ask,
                    groups, PositionsOf(args, slot));
  typename Position::Fetched fetched = {};
  if constexpr (kAhead) {
    // Before anything is known of the slot; no load moves over the barrier.
    if (team.in_first_block() && warp < args.scores.block) fetched = position.Fetch(warp);
    __syncthreads();
  }
  if (!state.live || !TargetAdds(state)) {
    if (!team.leads()) return;
    // What the draft of a token cascade wrote is not judged: it stands.
    args.verdicts.n_keep[slot] = state.live && state.writer == Writer::kDraft ? n_proposed : 0;
    args.verdicts.next[slot] = -1;
    args.verdicts.n_judged[slot] = 0;
    args.verdicts.fault[slot] = Fault::kNone;
    return;
  }
  team.Arrive();
  if constexpr (kAhead) {
    if (team.in_first_block()) {
      const bool valid = n_proposed < args.scores.block && n_proposed <= kMaxGamma;
      for (int32_t i = warp; valid && i <= n_proposed; i += kTeamWarps) {
        if (i != warp) fetched = position.Fetch(i);
        if (i < n_proposed) {
          position.JudgeAhead(i, fetched);
        } else {
          position.ChooseBonus(fetched);
        }
      }
      __syncthreads();
    }
  }
  team.Await();
  if (team.is_first_warp()) {
    SlotJudge(args, slot, position).Run();
    position.Dismiss();
  } else {
    position.Serve();
  }
}

template <typename R>
void JudgeCuda(const JudgeArgs& args, CudaStream stream) {
  const int32_t n_q = args.proposal.has_law ? args.proposal.law.n_vocab : 0;
  const int32_t n_vocab = n_q > args.scores.law.n_vocab ? n_q : args.scores.law.n_vocab;
  const bool has_clusters = HasClusters(JudgeKernel<R>);
  if constexpr (CudaPosition<R>::kHasPasses) {
    if (args.scores.block > 1) {
      const int64_t n_positions = static_cast<int64_t>(args.batch.n_slots) * args.scores.block;
      Launch(JudgeAheadKernel<R>, TeamShape(n_positions, n_vocab, has_clusters), stream, args, n_vocab);
    }
  }
  // One block is enough where nothing takes a pass.
  const bool passes = CudaPosition<R>::kHasPasses || !R::kInfo.either || args.residual == nullptr ||
                      args.verification == Verification::kBlock;
  Launch(JudgeKernel<R>, TeamShape(args.batch.n_slots, n_vocab, has_clusters && passes), stream, args,
         n_vocab);
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_JUDGE_CUH_
