// judge: how many proposed tokens of every slot stay, and the token that the target side adds after them.
//
//   token-wise   positions in order until the first token that does not stay; nothing behind it is looked at. x stays
//                iff u q(x) < pi(x), strictly; else the next token is drawn from max(0, pi - q), or the rule's
//                fallback.
//   block        (Sun et al., arXiv 2403.10444, with pi in place of p; kind A only)
//                P_0 = 1, P_i = min(1, P_{i-1} pi_i(x_i) / q_i(x_i)), s_i = sum of max(0, P_i pi_{i+1} - q_{i+1});
//                coin i < n shows heads with probability s_i / (s_i + 1 - P_i), coin n with P_n; the last of the
//                heads tells how many stay; the next token is drawn from max(0, P_i pi_{i+1} - q_{i+1}).
//   all stay     the next token is drawn from p; with bonus pi the judge draws a token from q and judges it as one
//                more proposal, so it is pi's, whatever the rule's kind.
//
// If nothing has weight to replace x (pi = q up to rounding), x stays.
//
// In a token cascade the judge has nothing to say about what the draft wrote: n_keep = n_proposed, next = -1. Where the
// draft has deferred nothing is proposed, and next is drawn from p, once the target has computed it.
//
// Uniforms: keys (seed, sequence, length at the round's start, position, purpose); kKeep for the coin of a
// position, kReplace for the token drawn at it, kDraft for the bonus token's own proposal. No uniform is
// asked for where it would not matter. Laws are fp32, what is added up and compared is double.
//
// Nothing is committed of a slot whose verdict names a fault: a law that is not finite, a proposed token
// outside the vocabulary, a rule that gives no probability; then n_keep = 0 and next = -1.
#ifndef TANDEM_POLICIES_JUDGE_H_
#define TANDEM_POLICIES_JUDGE_H_

#include "policies/bind.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

enum class Verification : int32_t { kToken, kBlock };
enum class Bonus : int32_t { kP, kPi };

struct JudgeArgs {
  static constexpr Op kOp = Op::kJudge;
  const RuleEntry* rule;  // outlives the program
  float params[kMaxParams];
  Verification verification;
  Bonus bonus;  // kPi only if proposal.has_bonus_law
  Batch batch;
  Proposal proposal;
  Scores scores;
  Verdicts verdicts;
  const double* total_variation;  // TotalVariationArgs::out; null unless the rule needs it and q is known
  const double* residual;         // TotalVariationArgs::residual; CUDA, of a rule that is `either`
  // CPU: fp32 [n_workers, scratch_stride], JudgeScratch(n_vocab) each. CUDA: JudgedPosition [n_slots, block], for rules
  // whose rows take passes.
  void* scratch;
  int64_t scratch_stride;
};

// fp32 values that one worker needs for laws over n_vocab tokens (the larger of q's and p's).
int64_t JudgeScratch(int32_t n_vocab);

void JudgeCpu(const JudgeArgs& args, Worker worker);

// CUDA: every position of the block at once, for none of them needs another: its row, and what its rule solves for.
struct JudgedPosition {
  Row row;
  Solved solved;
  Fault fault = Fault::kNone;
  bool has_solved = false, has_rest = false;
  double chance = -1, exact_chance = -1;  // as SlotJudge asks for them
};

// The rule's kernels: all positions, then slot after slot the decisions. Instantiated for every built-in rule, in a file
// that the build generates (policies/rules.cmake).
template <typename R>
void JudgeCuda(const JudgeArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_POLICIES_JUDGE_H_
