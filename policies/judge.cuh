// JudgeCuda<R>: the kernels of a rule, and CudaPosition, what SlotJudge asks on a CUDA device. For the file that the build
// generates (policies/rules.cmake).
#ifndef TANDEM_POLICIES_JUDGE_CUH_
#define TANDEM_POLICIES_JUDGE_CUH_

#include <cstddef>
#include <cstring>

#include "kernels/law/row_team.cuh"
#include "kernels/sample/sample.cuh"
#include "policies/slot_judge.h"

// A rule's solve() is for both sides and is handed a sum that is for the device alone.
#pragma nv_diag_suppress 20014

namespace tandem {

// The laws of one position as a rule sees them; without a draft law, q is one-hot at x.
struct CudaTokens {
  Law q, p;
  bool has_draft_law;
  int32_t x;

  struct Logits {
    float q, p;
  };
  // For RowTeam's passes. The logits of a one-hot law are not looked at.
  template <uint32_t kNeeds>
  __device__ auto Fetch() const {
    Law of_q = q, of_p = p;
    if (q.greedy() && (kNeeds & Needs::kTokenQ1) == 0) of_q.n_vocab = 0;
    if (p.greedy() && (kNeeds & Needs::kTokenP1) == 0) of_p.n_vocab = 0;
    return [of_q, of_p](int32_t v) { return Logits{LogitOf(of_q, v), LogitOf(of_p, v)}; };
  }

  template <uint32_t kNeeds>
  __device__ Token at(int32_t v, const Logits& logits) const {
    Token token;
    token.id = v;
    const float proposed = v == x ? 1.f : 0.f;
    const float drafted = ProbOf(q, v, logits.q);
    token.q = has_draft_law ? drafted : proposed;
    token.p = ProbOf(p, v, logits.p);
    if constexpr ((kNeeds & Needs::kTokenQ1) != 0) {
      const float drafted1 = Prob1Of(q, logits.q);
      token.q1 = has_draft_law ? drafted1 : token.q;
    }
    if constexpr ((kNeeds & Needs::kTokenP1) != 0) token.p1 = Prob1Of(p, logits.p);
    return token;
  }
};

// The `sum` that solve() is handed.
template <uint32_t kNeeds>
class CudaTokenSum {
 public:
  __device__ CudaTokenSum(RowTeam& team, const CudaTokens& tokens) : team_(team), tokens_(tokens) {}

  template <typename F>
  __device__ auto operator()(F f) const {
    const auto term = [&](int32_t v, const CudaTokens::Logits& logits) {
      const Token token = tokens_.template at<kNeeds>(v, logits);
      if constexpr (std::is_invocable_v<F, float, float>) {
        return f(token.q, token.p);
      } else {
        return f(token);
      }
    };
    using Term = decltype(term(0, {}));
    if constexpr (std::is_arithmetic_v<Term>) {
      const auto one = [&](int32_t v, const CudaTokens::Logits& logits) {
        return Terms<1>{{static_cast<float>(term(v, logits))}};
      };
      return Add(one, Terms<1>())[0];
    } else {
      return Add(term, Term());
    }
  }
  __device__ float KthLargestP1(int32_t k) const {
    const auto fetch = [&](int32_t v) { return LogitOf(tokens_.p, v); };
    const auto value = [&](float x) { return Prob1Of(tokens_.p, x); };
    const auto one = [](float) { return uint64_t{1}; };
    return team_.Select(fetch, value, one, static_cast<uint64_t>(k), 0);
  }

 private:
  template <typename G, int N>
  __device__ Sums<N> Add(G term, Terms<N>) const {
    Sums<N> total;
    team_.Sum<N>(tokens_.template Fetch<kNeeds>(), term, total.value);
    return total;
  }

  RowTeam& team_;
  const CudaTokens tokens_;  // a copy: nothing is fetched again for every token
};

// -sum p log p, over p(v) > 0, by all threads of a team.
__device__ inline float TeamEntropyOf(RowTeam& team, const Law& law, float inv_t, float lse, float cutoff) {
  double sum[1];
  team.Sum<1>([&](int32_t v) { return LogitOf(law, v); },
              [&](int32_t, float x) {
                const float exponent = LawExponent(law.record, x, inv_t, lse);
                const float p = x >= cutoff ? ExpNegative(exponent) : 0;
                return Terms<1>{{p > 0 ? p * exponent : 0}};
              },
              sum);
  return static_cast<float>(sum[0] < 0 ? -sum[0] : 0);
}
// As LawEntropy, LawEntropy1 (kernels/law/law.h).
__device__ inline float TeamEntropy(RowTeam& team, const Law& law) {
  return law.greedy() ? 0 : TeamEntropyOf(team, law, law.record.inv_t, law.record.lse, law.record.cutoff);
}
__device__ inline float TeamEntropy1(RowTeam& team, const Law& law) {
  return TeamEntropyOf(team, law, 1, law.record.lse1, -INFINITY);
}

// What the threads of a team share about the position that is open. The first warp of the team's first block decides, and
// asks all threads for what costs passes: it writes what it wants beside the position, in the memory of every block, and
// all do it.
struct alignas(16) CudaPositionState {
  enum Work : int32_t { kLeave = 0, kEntropies = 1, kSolve = 2, kRest = 4, kWeights = 8 };
  int32_t work;
  float factor;  // kWeights; these two first, for nothing else is told where all may leave
  JudgedPosition here;
  CudaTokens tokens;
};

// To and from shared memory, by a warp.
template <typename T>
__device__ void CopyWords(T* to, const T* from) {
  static_assert(sizeof(T) % sizeof(uint64_t) == 0);
  __syncwarp();
  for (int word = WarpLane(); word < static_cast<int>(sizeof(T) / sizeof(uint64_t)); word += 32)
    reinterpret_cast<uint64_t*>(to)[word] = reinterpret_cast<const uint64_t*>(from)[word];
  __syncwarp();
}

// As CpuPosition (judge.cc). All that a proposed token's row and chance take is computed by JudgeAhead, for every position
// at once, and Open fetches it. The deciding warp calls the functions that SlotJudge does, all its lanes alike; the other
// threads of the team are in Serve meanwhile.
template <typename R>
class CudaPosition {
 public:
  static constexpr Kind kKind = LawRule<R>         ? Kind::kLaw
                                : TokenWiseRule<R> ? Kind::kTokenWise
                                : TestRule<R>      ? Kind::kTest
                                                   : Kind::kBlock;
  static constexpr bool MayBe(Kind kind) { return kind == kKind; }
  // Whether a row or a chance may take passes.
  static constexpr uint32_t kEntropyNeeds =
      Needs::kEntropyQ | Needs::kEntropyP | Needs::kEntropyQ1 | Needs::kEntropyP1;
  static constexpr bool kHasPasses =
      HasDerived<R> || TokenWiseRule<R> || (R::kInfo.needs & kEntropyNeeds) != 0;

  // `state` and `groups` in shared memory, a warp's own that is to decide or to judge ahead; `ahead`: the slot's positions,
  // [block].
  __device__ CudaPosition(const JudgeArgs& args, int32_t slot, RowTeam& team, CudaPositionState& state,
                          GroupWeights& groups, JudgedPosition* ahead)
      : args_(args),
        slot_(slot),
        team_(team),
        state_(state),
        groups_(groups),
        ahead_(ahead),
        rule_(internal::MakeRule<R>(args.params)) {}

  static __device__ Kind kind() { return kKind; }
  __device__ bool leads() const { return WarpLane() == 0; }
  __device__ const Row& row() const { return state_.here.row; }

  __device__ Fault Open(int32_t i, int32_t x) {
    if (i >= args_.proposal.n_proposed[slot_]) return Judge(i, x);
    CopyWords(&state_.here, ahead_ + i);
    if (leads()) SetTokens(static_cast<int64_t>(slot_) * args_.scores.block + i, x);
    __syncwarp();
    return state_.here.fault;
  }
  __device__ void JudgeAhead(int32_t i) {
    Judge(i, args_.proposal.tokens[static_cast<int64_t>(slot_) * args_.scores.block + i]);
    CopyWords(ahead_ + i, &state_.here);
  }

  static __device__ bool has_defers() {
    return TokenWiseRule<R> || requires(const R& rule, const Row& row) { rule.defers(row); };
  }
  __device__ bool Defers() {
    if constexpr (kKind == Kind::kTokenWise) Solve();
    return RuleDefers();
  }
  __device__ double Chance(bool exact) const { return exact ? state_.here.exact_chance : state_.here.chance; }

  __device__ __noinline__ double Mass(double factor, bool* valid) {
    Weigh(factor);
    const double mass = team_.TotalOf(0);
    *valid = !isnan(mass);
    team_.Turn();
    return mass;
  }
  __device__ __noinline__ int32_t Replacement(double factor, double u, double* low, double* high,
                                              bool* valid) {
    BlockChoice choice;
    if (ReplacesByP(factor)) {
      const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + state_.here.row.position;
      choice = ChooseBlock(args_.residual + at * team_.n_blocks(), 1, team_.n_blocks(), u);
      *valid = true;
    } else {
      Weigh(factor);
      *valid = !isnan(team_.TotalOf(0));
      choice = ChooseBlock(team_.BlockSums(0), 1, team_.n_blocks(), u);
      team_.Turn();
    }
    if (choice.block < 0) return -1;
    const auto weight = Weight(static_cast<float>(factor));
    return ChooseInBlock(
        team_.n_vocab(), choice, u, state_.tokens.template Fetch<kNeeds>(),
        [&](int32_t v, const CudaTokens::Logits& logits) { return weight(v, logits).value[0]; }, groups_, low,
        high);
  }
  __device__ __noinline__ int32_t DrawFrom(const Law& law, double u, double* low, double* high) {
    return WarpDrawFromLaw(law, u, groups_, low, high);
  }

  __device__ void Chances(const Row* rows, int n, float* out) const { rule_.chances(rows, n, out); }
  __device__ int Keep(const Row* rows, int n, const bool* heads) const { return rule_.keep(rows, n, heads); }

  // The deciding warp, at the end.
  __device__ void Dismiss() { Ask(CudaPositionState::kLeave, 0); }
  // The other threads, until they are dismissed.
  __device__ void Serve() {
    while (Next() != CudaPositionState::kLeave) {
    }
  }

 private:
  using Bound = internal::Bound<R>;
  static constexpr uint32_t kNeeds = R::kInfo.needs;
  static constexpr bool Has(uint32_t need) { return (kNeeds & need) != 0; }

  __device__ void SetTokens(int64_t at, int32_t x) {
    CudaTokens& tokens = state_.tokens;
    tokens.p = args_.scores.law.row(at);
    tokens.has_draft_law = args_.proposal.has_law;
    tokens.q = args_.proposal.has_law ? args_.proposal.law.row(at) : Law();  // without it, of no tokens
    tokens.x = x;
  }

  __device__ __noinline__ Fault Judge(int32_t i, int32_t x) {
    Fault fault;
    Row row = OpenRow(
        args_, slot_, i, x, team_.n_vocab(), [](const Law& law, int32_t v) { return LawProb(law, v); },
        [](const Law& law, int32_t v) { return LawProb1(law, v); }, &fault);
    if constexpr (Has(Needs::kTv)) {
      if (fault == Fault::kNone) row.tv = TotalVariation(row);
    }
    __syncwarp();
    if (leads()) {
      state_.here = JudgedPosition();
      state_.here.row = row;
      state_.here.fault = fault;
      SetTokens(static_cast<int64_t>(slot_) * args_.scores.block + i, x);
    }
    __syncwarp();
    if (fault != Fault::kNone) return fault;
    if constexpr ((kNeeds & kEntropyNeeds) != 0) Ask(CudaPositionState::kEntropies, 0);
    if constexpr (kKind != Kind::kBlock) {
      const double chance = FindChance(false);
      const double exact = args_.verification == Verification::kBlock ? FindChance(true) : -1;
      __syncwarp();
      if (leads()) {
        state_.here.chance = chance;
        state_.here.exact_chance = exact;
      }
      __syncwarp();
    }
    return Fault::kNone;
  }

  __device__ float TotalVariation(const Row& row) const {
    if (row.greedy) return row.q.argmax == row.p.argmax ? 0 : 1;
    if (!row.has_draft_law) return 1 - row.p.x;
    const int32_t n_blocks = team_.n_blocks();
    const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + row.position;
    const double* blocks = args_.total_variation + at * n_blocks;
    return static_cast<float>(WarpTotal(n_blocks, [&](int32_t b) { return blocks[b]; }));
  }

  // Whether the weights are max(0, p - q), whose sums are there already.
  __device__ bool ReplacesByP(double factor) const {
    if constexpr (R::kInfo.either) {
      const Row& row = state_.here.row;
      return args_.residual != nullptr && factor == 1 && !row.greedy && rule_.law(0.f, 1.f, row) == 1;
    }
    return false;
  }

  __device__ void Solve() {
    if constexpr (HasDerived<R>) {
      if (!state_.here.has_solved) Ask(CudaPositionState::kSolve, 0);
    }
  }
  __device__ int32_t Unsolved() const {
    int32_t work = 0;
    if (HasDerived<R> && !state_.here.has_solved) work |= CudaPositionState::kSolve;
    if (TokenWiseRule<R> && !state_.here.has_rest) work |= CudaPositionState::kRest;
    return work;
  }
  __device__ void SolveAll() {
    if (const int32_t work = Unsolved(); work != 0) Ask(work, 0);
  }
  __device__ void Weigh(double factor) {
    Ask(Unsolved() | CudaPositionState::kWeights, static_cast<float>(factor));
  }

  __device__ bool RuleDefers() const {
    if constexpr (TokenWiseRule<R> || requires(const R& rule, const Row& row) { rule.defers(row); }) {
      return Bound::Defers(args_.params, state_.here.row, state_.here.solved);
    } else {
      return false;
    }
  }

  __device__ double FindChance(bool exact) {
    if constexpr (requires(const R& rule, const Row& row) { rule.chance(row); }) {
      const float chance = rule_.chance(state_.here.row);
      if (!isnan(chance) && (chance < 1 || !exact)) return chance;
    }
    Solve();
    if (kKind == Kind::kTokenWise && !exact && !RuleDefers()) return 1;
    SolveAll();
    if constexpr (kKind != Kind::kBlock) {
      const float value = Bound::Value(args_.params, state_.here.row, state_.here.solved);
      if (!(value >= 0 && isfinite(value))) return -1;
      if (kKind == Kind::kTest || value == 0) return value;
      return static_cast<double>(value) / state_.here.row.q.x;
    }
    return -1;
  }

  // The deciding warp: what is to be done, and its part of it.
  __device__ __noinline__ void Ask(int32_t work, float factor) {
    if (leads()) {
      state_.work = work;
      state_.factor = factor;
    }
    constexpr size_t kWord = sizeof(uint64_t);
    static_assert(offsetof(CudaPositionState, here) >= kWord && sizeof(CudaPositionState) % kWord == 0);
    team_.Spread(reinterpret_cast<uint64_t*>(&state_),
                 work == CudaPositionState::kLeave ? 1 : static_cast<int>(sizeof(CudaPositionState) / kWord));
    Next();
  }

  // All threads: the next thing to do. Every kind of work has a barrier of the team after the last look at what is asked, so
  // that the deciding warp may ask again.
  __device__ __noinline__ int32_t Next() {
    team_.Barrier();
    const int32_t work = state_.work;
    if constexpr ((kNeeds & kEntropyNeeds) != 0) {
      if ((work & CudaPositionState::kEntropies) != 0) FindEntropies();
    }
    if constexpr (HasDerived<R>) {
      if ((work & CudaPositionState::kSolve) != 0) {
        const typename R::Derived derived = rule_.solve(state_.here.row, Sum());
        __syncthreads();
        if (threadIdx.x == 0) {
          std::memcpy(state_.here.solved.derived, &derived, sizeof(derived));
          state_.here.has_solved = true;
        }
        team_.Barrier();
      }
    }
    if constexpr (TokenWiseRule<R>) {
      if ((work & CudaPositionState::kRest) != 0) {
        const Row row = state_.here.row;
        const Solved solved = state_.here.solved;
        const double rest = Sum()(
            [&](const Token& token) { return Bound::Keeps(rule_, token, row, solved) ? 0.f : token.q; });
        __syncthreads();
        if (threadIdx.x == 0) {
          state_.here.solved.rest = rest;
          state_.here.has_rest = true;
        }
        team_.Barrier();
      }
    }
    if ((work & CudaPositionState::kWeights) != 0) {
      team_.SumBlocks<1>(state_.tokens.template Fetch<kNeeds>(), Weight(state_.factor));
      if (!Decides()) team_.Turn();
    }
    return work;
  }
  __device__ bool Decides() const { return team_.is_first_warp(); }

  __device__ void FindEntropies() {
    const CudaTokens tokens = state_.tokens;
    Row& row = state_.here.row;
    const auto set = [](float& entropy, float value) {
      if (threadIdx.x == 0) entropy = value;
    };
    const bool has_law = tokens.has_draft_law;
    if constexpr (Has(Needs::kEntropyQ)) set(row.q.entropy, has_law ? TeamEntropy(team_, tokens.q) : 0);
    if constexpr (Has(Needs::kEntropyQ1)) set(row.q1.entropy, has_law ? TeamEntropy1(team_, tokens.q) : 0);
    if constexpr (Has(Needs::kEntropyP)) set(row.p.entropy, TeamEntropy(team_, tokens.p));
    if constexpr (Has(Needs::kEntropyP1)) set(row.p1.entropy, TeamEntropy1(team_, tokens.p));
    team_.Barrier();
  }

  __device__ CudaTokenSum<kNeeds> Sum() const { return CudaTokenSum<kNeeds>(team_, state_.tokens); }

  // NaN for what is no probability, and so the sum of it and others. Copies of what it looks at, as above.
  __device__ auto Weight(float scale) const {
    return [rule = rule_, tokens = state_.tokens, row = state_.here.row, solved = state_.here.solved, scale](
               int32_t v, const CudaTokens::Logits& logits) {
      const Token token = tokens.template at<kNeeds>(v, logits);
      const auto weight = Bound::WeightOf(rule, token, row, solved, scale);
      return Terms<1>{{weight.bad != 0 ? NAN : weight.value}};
    };
  }

  const JudgeArgs& args_;
  const int32_t slot_;
  RowTeam& team_;
  CudaPositionState& state_;
  GroupWeights& groups_;
  JudgedPosition* ahead_;
  const R rule_;
};

__device__ inline JudgedPosition* PositionsOf(const JudgeArgs& args, int32_t slot) {
  return static_cast<JudgedPosition*>(args.scratch) + static_cast<int64_t>(slot) * args.scores.block;
}

// Of a rule whose rows take passes: a team for every position.
template <typename R>
__global__ void __launch_bounds__(kTeamThreads)
    JudgeAheadKernel(const __grid_constant__ JudgeArgs args, int32_t n_vocab) {
  __shared__ alignas(16) unsigned char state_shared[sizeof(CudaPositionState)];
  __shared__ GroupWeights groups;
  WaitForPrevious();
  LetNextStart();
  RowTeam team(n_vocab);
  const int32_t slot = team.row() / args.scores.block, i = team.row() % args.scores.block;
  const int32_t n_proposed = args.proposal.n_proposed[slot];
  const SeqState& state = args.batch.states[slot];
  if (!state.live || !TargetAdds(state) || i >= n_proposed || n_proposed >= args.scores.block) return;
  team.Arrive();
  CudaPosition<R> position(args, slot, team, *reinterpret_cast<CudaPositionState*>(state_shared), groups,
                           PositionsOf(args, slot));
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
  constexpr bool kAhead = !CudaPosition<R>::kHasPasses;
  __shared__ alignas(16) unsigned char states_shared[(kAhead ? kTeamWarps : 1) * sizeof(CudaPositionState)];
  __shared__ alignas(16) unsigned char ahead_shared[kAhead ? kMaxGamma * sizeof(JudgedPosition) : 16];
  __shared__ GroupWeights groups;
  WaitForPrevious();
  LetNextStart();
  RowTeam team(n_vocab);
  const int32_t slot = team.row();
  const SeqState& state = args.batch.states[slot];
  const int32_t n_proposed = args.proposal.n_proposed[slot];
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
  auto* states = reinterpret_cast<CudaPositionState*>(states_shared);
  auto* positions = kAhead ? reinterpret_cast<JudgedPosition*>(ahead_shared) : PositionsOf(args, slot);
  if (kAhead && team.in_first_block()) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const bool valid = n_proposed < args.scores.block && n_proposed <= kMaxGamma;
    CudaPosition<R> position(args, slot, team, states[kAhead ? warp : 0], groups, positions);
    for (int32_t i = warp; valid && i < n_proposed; i += kTeamWarps) position.JudgeAhead(i);
    __syncthreads();
  }
  CudaPosition<R> position(args, slot, team, states[0], groups, positions);
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
  Launch(JudgeKernel<R>, TeamShape(args.batch.n_slots, n_vocab, has_clusters), stream, args, n_vocab);
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_JUDGE_CUH_
