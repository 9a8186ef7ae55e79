// CudaPosition: what SlotJudge (slot_judge.h) asks on a CUDA device.
#ifndef TANDEM_POLICIES_CUDA_POSITION_CUH_
#define TANDEM_POLICIES_CUDA_POSITION_CUH_

#include <cstddef>
#include <cstring>

#include "kernels/law/row_team.cuh"
#include "kernels/sample/sample.cuh"
#include "policies/cuda_tokens.cuh"
#include "policies/slot_judge.h"

// A rule's solve() is for both sides and is handed a sum that is for the device alone.
#pragma nv_diag_suppress 20014

namespace tandem {

// A position, in shared memory.
struct alignas(16) CudaPositionState {
  JudgedPosition here;
  CudaTokens tokens;
  // Where the position was judged ahead: its numbers, and the block that what replaces its token is in, if it is known
  // already.
  bool has_numbers, has_choice;
  double keep, replace;
  BlockChoice choice;
};

// The first warp of the team's first block decides, and asks all threads for what costs passes, or weights of one block: it
// writes what it wants, and the position that it is about, in the memory of every block, and all do it.
struct alignas(16) CudaAsk {
  enum Work : int32_t {
    kLeave = 0,
    kEntropies = 1,
    kSolve = 2,
    kRest = 4,
    kWeights = 8,
    kBlockOfRule = 16,
    kBlockOfP = 32
  };
  int32_t work;
  float factor;  // kWeights, kBlockOfRule
  int32_t position;
  int32_t block;  // kBlockOfRule, kBlockOfP
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
// at once, and Open goes to it. The deciding warp calls the functions that SlotJudge does, all its lanes alike; the other
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
  // Positions in shared memory: all of a block and the one after it, or the one that is open.
  static constexpr int kStates = kHasPasses ? 1 : kMaxGamma + 1;

  // `states` [kStates], `ask`, `groups` in shared memory; `ahead`: the slot's positions, [block], if they take passes.
  __device__ CudaPosition(const JudgeArgs& args, int32_t slot, int32_t n_proposed, RowTeam& team,
                          CudaPositionState* states, CudaAsk& ask, GroupWeights& groups,
                          JudgedPosition* ahead)
      : args_(args),
        slot_(slot),
        n_proposed_(n_proposed),
        team_(team),
        states_(states),
        state_(states),
        ask_(ask),
        groups_(groups),
        ahead_(ahead),
        rule_(internal::MakeRule<R>(args.params)) {}

  static __device__ Kind kind() { return kKind; }
  __device__ bool leads() const { return WarpLane() == 0; }
  __device__ const Row& row() const { return state_->here.row; }

  __device__ Fault Open(int32_t i, int32_t x) {
    if constexpr (!kHasPasses) {
      state_ = states_ + i;
    } else {
      CopyWords(&state_->here, ahead_ + i);
      if (leads()) SetTokens(FetchLaws(i, x));
      __syncwarp();
    }
    return state_->here.fault;
  }
  __device__ Fault OpenBonus(int32_t x) {
    if constexpr (!kHasPasses) state_ = states_ + n_proposed_;
    return Judge(n_proposed_, x);
  }

  // What is in memory about a position.
  struct Fetched {
    static constexpr int kHeld = 8;
    int32_t x;
    Law q, p;  // q of no tokens, if the draft has no law
    double total_variation[kHeld];
    BlockMasses residual;
  };
  // Of the proposed token; the position may be none of the block's as long as there is room for it.
  __device__ Fetched Fetch(int32_t i) const {
    const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + i;
    return Fetch(i, args_.proposal.tokens != nullptr ? args_.proposal.tokens[at] : -1);
  }
  __device__ Fetched Fetch(int32_t i, int32_t x) const {
    const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + i;
    Fetched fetched = FetchLaws(i, x);
    const int32_t n_blocks = team_.n_blocks();
    if constexpr (Has(Needs::kTv)) {
#pragma unroll
      for (int j = 0; j < Fetched::kHeld; ++j) {
        const int32_t b = WarpLane() + 32 * j;
        fetched.total_variation[j] = HasSums() && b < n_blocks ? args_.total_variation[at * n_blocks + b] : 0;
      }
    }
    if constexpr (R::kInfo.either) {
      if (args_.residual != nullptr)
        fetched.residual = FetchMasses(args_.residual + at * n_blocks, 1, n_blocks);
    }
    return fetched;
  }
  // A warp, for a rule whose rows take no pass.
  __device__ void JudgeAhead(int32_t i, const Fetched& fetched) {
    state_ = states_ + i;
    // Lanes 0 and 1: the position's two numbers.
    const double number =
        args_.batch.uniforms.Draw(KeyOf(i, WarpLane() == 0 ? Purpose::kKeep : Purpose::kReplace));
    const double keep = __shfl_sync(~0u, number, 0), replace = __shfl_sync(~0u, number, 1);
    double chance = -1;
    const Fault fault = JudgeFetched(i, fetched, &chance);
    if (leads()) {
      state_->has_numbers = true;
      state_->keep = keep;
      state_->replace = replace;
    }
    if constexpr (R::kInfo.either) {
      if (fault != Fault::kNone || keep < chance || !ReplacesByP(1) || row().greedy) return;
      SetChoice(ChooseBlock(fetched.residual, replace));
    }
  }
  // A warp: where the token after a block that stays is in p.
  __device__ void ChooseBonus(const Fetched& fetched) {
    state_ = states_ + n_proposed_;
    const double replace = args_.batch.uniforms.Draw(KeyOf(n_proposed_, Purpose::kReplace));
    if (leads()) {
      state_->has_numbers = true;
      state_->keep = -1;  // nothing is kept or not there
      state_->replace = replace;
      state_->has_choice = false;
    }
    if (!fetched.p.finite() || fetched.p.greedy() || AddsPi()) return;
    __syncwarp();
    SetChoice(ChooseBlock(FetchLawMasses(fetched.p.blocks, fetched.p.n_vocab), replace));
  }
  __device__ double Draw(const UniformKey& key) const {
    if constexpr (!kHasPasses) {
      const CudaPositionState& of = states_[key.offset];
      if (of.has_numbers && key.purpose != Purpose::kDraft)
        return key.purpose == Purpose::kKeep ? of.keep : of.replace;
    }
    return args_.batch.uniforms.Draw(key);
  }
  // As Open finds it, in global memory.
  __device__ void JudgeAhead(int32_t i) {
    Judge(i, args_.proposal.tokens[static_cast<int64_t>(slot_) * args_.scores.block + i]);
    CopyWords(ahead_ + i, &state_->here);
  }

  static __device__ bool has_defers() {
    return TokenWiseRule<R> || requires(const R& rule, const Row& row) { rule.defers(row); };
  }
  __device__ bool Defers() {
    if constexpr (kKind == Kind::kTokenWise) Solve();
    return RuleDefers();
  }
  __device__ double Chance(bool exact) const {
    return exact ? state_->here.exact_chance : state_->here.chance;
  }

  __device__ __forceinline__ double Mass(double factor, bool* valid) {
    Weigh(factor);
    const double mass = team_.TotalOf(0);
    *valid = !isnan(mass);
    team_.Turn();
    return mass;
  }
  __device__ __forceinline__ int32_t Replacement(double factor, double u, double* low, double* high,
                                                 bool* valid) {
    BlockChoice choice;
    if (ReplacesByP(factor)) {
      *valid = true;
      if (row().greedy) return row().p.argmax == row().q.argmax ? -1 : row().p.argmax;
      if (!state_->has_choice) {
        const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + row().position;
        const int32_t n_blocks = team_.n_blocks();
        SetChoice(ChooseBlock(FetchMasses(args_.residual + at * n_blocks, 1, n_blocks), u));
      }
      choice = state_->choice;
    } else {
      Weigh(factor);
      *valid = !isnan(team_.TotalOf(0));
      choice = ChooseBlock(FetchMasses(team_.BlockSums(0), 1, team_.n_blocks()), u);
      team_.Turn();
    }
    if (choice.block < 0) return -1;
    Ask(CudaAsk::kBlockOfRule, static_cast<float>(factor), choice.block);
    return Choose(choice, u, low, high);
  }
  __device__ __forceinline__ int32_t DrawFrom(const Law& law, double u, double* low, double* high) {
    if (!law.finite()) return -1;
    if constexpr (!kHasPasses) state_ = states_ + n_proposed_;
    const BlockChoice choice = !kHasPasses && state_->has_choice
                                   ? state_->choice
                                   : ChooseBlock(FetchLawMasses(law.blocks, law.n_vocab), u);
    if (choice.block < 0) return -1;
    __syncwarp();
    if (leads()) state_->tokens.p = law;
    Ask(CudaAsk::kBlockOfP, 0, choice.block);
    return Choose(choice, u, low, high);
  }

  __device__ void Chances(const Row* rows, int n, float* out) const { rule_.chances(rows, n, out); }
  __device__ int Keep(const Row* rows, int n, const bool* heads) const { return rule_.keep(rows, n, heads); }

  // The deciding warp, at the end.
  __device__ void Dismiss() { Ask(CudaAsk::kLeave, 0); }
  // The other threads, until they are dismissed.
  __device__ void Serve() {
    while (Next() != CudaAsk::kLeave) {
    }
  }

 private:
  using Bound = internal::Bound<R>;
  static constexpr uint32_t kNeeds = R::kInfo.needs;
  static constexpr bool Has(uint32_t need) { return (kNeeds & need) != 0; }

  __device__ UniformKey KeyOf(int32_t i, Purpose purpose) const {
    const SeqState& state = args_.batch.states[slot_];
    return {state.seed, state.sequence, state.length, i, purpose};
  }
  __device__ bool AddsPi() const { return args_.bonus == Bonus::kPi && args_.proposal.has_bonus_law; }
  __device__ bool HasSums() const { return args_.total_variation != nullptr; }

  __device__ Fetched FetchLaws(int32_t i, int32_t x) const {
    const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + i;
    Fetched fetched = {};
    fetched.x = x;
    fetched.p = args_.scores.law.row(at);
    if (args_.proposal.has_law) fetched.q = args_.proposal.law.row(at);
    return fetched;
  }
  __device__ void SetTokens(const Fetched& fetched) {
    CudaTokens& tokens = state_->tokens;
    tokens.p = fetched.p;
    tokens.q = fetched.q;
    tokens.has_draft_law = args_.proposal.has_law;
    tokens.x = fetched.x;
  }
  __device__ int32_t Choose(const BlockChoice& choice, double u, double* low, double* high) const {
    const TokenChoice token = ChooseInGroups(choice, u, groups_);
    *low = token.low;
    *high = token.high;
    return token.token;
  }
  __device__ void SetChoice(const BlockChoice& choice) {
    if (leads()) {
      state_->choice = choice;
      state_->has_choice = true;
    }
    __syncwarp();
  }

  // Of a position that was not judged ahead, or is by a team.
  __device__ __forceinline__ Fault Judge(int32_t i, int32_t x) {
    double chance;
    const Fault fault = JudgeFetched(i, Fetch(i, x), &chance);
    if (leads()) state_->has_numbers = false;
    __syncwarp();
    return fault;
  }

  // The ten probabilities of a row by ten lanes.
  __device__ __forceinline__ Fault JudgeFetched(int32_t i, const Fetched& fetched, double* chance) {
    const int which = WarpLane() < kNumRowProbs ? WarpLane() : 0;
    const bool at_one = IsAtOne(which);
    const Law law = IsOfP(which) ? fetched.p : fetched.q;
    const int32_t v = TokenOf(which, fetched.q, fetched.p, fetched.x);
    const float logit = LogitOf(law, v);
    const float own = at_one ? Prob1Of(law, logit) : ProbOf(law, v, logit);
    Fault fault;
    Row row = OpenRow(
        args_, n_proposed_, i, fetched.x, team_.n_vocab(), fetched.q, fetched.p,
        [&](int of) { return __shfl_sync(~0u, own, of); }, &fault);
    if constexpr (Has(Needs::kTv)) {
      if (fault == Fault::kNone) row.tv = TotalVariation(row, fetched);
    }
    __syncwarp();
    if (leads()) {
      JudgedPosition& here = state_->here;
      here.row = row;
      here.fault = fault;
      here.has_solved = here.has_rest = false;
      here.solved.rest = 0;
      here.chance = here.exact_chance = -1;
      state_->has_choice = false;
      SetTokens(fetched);
    }
    __syncwarp();
    if (fault != Fault::kNone) return fault;
    if constexpr ((kNeeds & kEntropyNeeds) != 0) Ask(CudaAsk::kEntropies, 0);
    if constexpr (kKind != Kind::kBlock) {
      *chance = FindChance(false);
      const double exact = args_.verification == Verification::kBlock ? FindChance(true) : -1;
      __syncwarp();
      if (leads()) {
        state_->here.chance = *chance;
        state_->here.exact_chance = exact;
      }
      __syncwarp();
    }
    return Fault::kNone;
  }

  __device__ float TotalVariation(const Row& row, const Fetched& fetched) const {
    if (row.greedy) return row.q.argmax == row.p.argmax ? 0 : 1;
    if (!row.has_draft_law) return 1 - row.p.x;
    const int32_t n_blocks = team_.n_blocks();
    double own = 0;
#pragma unroll
    for (int j = 0; j < Fetched::kHeld; ++j) own += fetched.total_variation[j];
    const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + row.position;
    for (int32_t b = WarpLane() + 32 * Fetched::kHeld; b < n_blocks; b += 32)
      own += args_.total_variation[at * n_blocks + b];
    return static_cast<float>(WarpSum(own));
  }

  // Whether the weights are max(0, p - q), whose sums are there already, or one token's alone.
  __device__ bool ReplacesByP(double factor) const {
    if constexpr (R::kInfo.either) {
      const Row& row = state_->here.row;
      return factor == 1 && (row.greedy || args_.residual != nullptr) && rule_.law(0.f, 1.f, row) == 1;
    }
    return false;
  }

  __device__ void Solve() {
    if constexpr (HasDerived<R>) {
      if (!state_->here.has_solved) Ask(CudaAsk::kSolve, 0);
    }
  }
  __device__ int32_t Unsolved() const {
    int32_t work = 0;
    if (HasDerived<R> && !state_->here.has_solved) work |= CudaAsk::kSolve;
    if (TokenWiseRule<R> && !state_->here.has_rest) work |= CudaAsk::kRest;
    return work;
  }
  __device__ void SolveAll() {
    if (const int32_t work = Unsolved(); work != 0) Ask(work, 0);
  }
  __device__ void Weigh(double factor) { Ask(Unsolved() | CudaAsk::kWeights, static_cast<float>(factor)); }

  __device__ bool RuleDefers() const {
    if constexpr (TokenWiseRule<R> || requires(const R& rule, const Row& row) { rule.defers(row); }) {
      return Bound::Defers(args_.params, state_->here.row, state_->here.solved);
    } else {
      return false;
    }
  }

  __device__ double FindChance(bool exact) {
    if constexpr (requires(const R& rule, const Row& row) { rule.chance(row); }) {
      const float chance = rule_.chance(state_->here.row);
      if (!isnan(chance) && (chance < 1 || !exact)) return chance;
    }
    Solve();
    if (kKind == Kind::kTokenWise && !exact && !RuleDefers()) return 1;
    SolveAll();
    if constexpr (kKind != Kind::kBlock) {
      const float value = Bound::Value(args_.params, state_->here.row, state_->here.solved);
      if (!(value >= 0 && isfinite(value))) return -1;
      if (kKind == Kind::kTest || value == 0) return value;
      if (!exact && value >= state_->here.row.q.x) return 1;
      return static_cast<double>(value) / state_->here.row.q.x;
    }
    return -1;
  }

  // The deciding warp: what is to be done, and its part of it.
  __device__ __forceinline__ void Ask(int32_t work, float factor, int32_t block = -1) {
    if (leads()) {
      ask_.work = work;
      ask_.factor = factor;
      ask_.position = static_cast<int32_t>(state_ - states_);
      ask_.block = block;
    }
    constexpr size_t kWord = sizeof(uint64_t);
    static_assert(sizeof(CudaAsk) % kWord == 0 && sizeof(CudaPositionState) % kWord == 0);
    team_.Spread(reinterpret_cast<uint64_t*>(&ask_), static_cast<int>(sizeof(CudaAsk) / kWord));
    constexpr int32_t kByAll = CudaAsk::kEntropies | CudaAsk::kSolve | CudaAsk::kRest | CudaAsk::kWeights;
    if ((work & kByAll) != 0)
      team_.Spread(reinterpret_cast<uint64_t*>(state_), static_cast<int>(sizeof(CudaPositionState) / kWord));
    team_.Barrier();
    Do(work, factor, block);
  }

  // The other threads: the next thing to do.
  __device__ __forceinline__ int32_t Next() {
    team_.Barrier();
    const int32_t work = ask_.work;
    state_ = states_ + ask_.position;
    Do(work, ask_.factor, ask_.block);
    return work;
  }

  // All threads. Every kind of work has a barrier of the team after the last look at what is asked, so that the deciding
  // warp may ask again.
  __device__ __forceinline__ void Do(int32_t work, float factor, int32_t block) {
    if constexpr ((kNeeds & kEntropyNeeds) != 0) {
      if ((work & CudaAsk::kEntropies) != 0) FindEntropies();
    }
    if constexpr (HasDerived<R>) {
      if ((work & CudaAsk::kSolve) != 0) {
        const typename R::Derived derived = rule_.solve(state_->here.row, Sum());
        __syncthreads();
        if (threadIdx.x == 0) {
          std::memcpy(state_->here.solved.derived, &derived, sizeof(derived));
          state_->here.has_solved = true;
        }
        team_.Barrier();
      }
    }
    if constexpr (TokenWiseRule<R>) {
      if ((work & CudaAsk::kRest) != 0) {
        const Row row = state_->here.row;
        const Solved solved = state_->here.solved;
        const double rest = Sum()(
            [&](const Token& token) { return Bound::Keeps(rule_, token, row, solved) ? 0.f : token.q; });
        __syncthreads();
        if (threadIdx.x == 0) {
          state_->here.solved.rest = rest;
          state_->here.has_rest = true;
        }
        team_.Barrier();
      }
    }
    if ((work & CudaAsk::kWeights) != 0) {
      SumWeights(team_, rule_, state_, factor);
      if (!Decides()) team_.Turn();
    }
    if ((work & (CudaAsk::kBlockOfRule | CudaAsk::kBlockOfP)) != 0) {
      if (team_.in_first_block()) {
        if ((work & CudaAsk::kBlockOfRule) != 0) {
          PutRuleBlock(rule_, state_, factor, block, team_.n_vocab(), &groups_);
        } else {
          PutPBlock(state_, block, &groups_);
        }
      }
      team_.Barrier();
    }
  }
  __device__ bool Decides() const { return team_.is_first_warp(); }

  __device__ void FindEntropies() {
    const CudaTokens tokens = state_->tokens;
    Row& row = state_->here.row;
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

  __device__ CudaTokenSum<kNeeds> Sum() const { return CudaTokenSum<kNeeds>(team_, state_->tokens); }

  // NaN for what is no probability, and so the sum of it and others. Copies of what it looks at, as above.
  static __device__ __forceinline__ auto Weight(const R& of, const CudaPositionState& state, float scale) {
    return [rule = of, tokens = state.tokens, row = state.here.row, solved = state.here.solved, scale](
               int32_t v, const CudaTokens::Logits& logits) {
      const Token token = tokens.template at<kNeeds>(v, logits);
      const auto weight = Bound::WeightOf(rule, token, row, solved, scale);
      return Terms<1>{{weight.bad != 0 ? NAN : weight.value}};
    };
  }
  // Not inlined, for there are many calls. With copies: what a function that is not inlined is told the address of lives in
  // memory, and so would the position and all that it refers to, the kernel's arguments too.
  static __device__ __noinline__ void SumWeights(RowTeam team, R rule, const CudaPositionState* state,
                                                 float factor) {
    __builtin_assume(__isShared(state) != 0);
    team.SumBlocks<1>(state->tokens.template Fetch<kNeeds>(), Weight(rule, *state, factor));
  }
  // The weights of a block of the vocabulary, by the threads of the team's first block. Likewise.
  static __device__ __noinline__ void PutRuleBlock(R rule, const CudaPositionState* state, float factor,
                                                   int32_t block, int32_t n_vocab, GroupWeights* groups) {
    __builtin_assume(__isShared(state) != 0 && __isShared(groups) != 0);
    const auto weight = Weight(rule, *state, factor);
    PutBlock<kTeamWarps>(*groups, block, static_cast<int>(threadIdx.x) / 32,
                         state->tokens.template Fetch<kNeeds>(),
                         [&](int32_t v, const CudaTokens::Logits& logits) {
                           return v < n_vocab ? weight(v, logits).value[0] : 0;
                         });
  }
  static __device__ __noinline__ void PutPBlock(const CudaPositionState* state, int32_t block,
                                                GroupWeights* groups) {
    __builtin_assume(__isShared(state) != 0 && __isShared(groups) != 0);
    const Law law = state->tokens.p;
    PutLawBlock<kTeamWarps>(*groups, law, block, static_cast<int>(threadIdx.x) / 32);
  }

  const JudgeArgs& args_;
  const int32_t slot_, n_proposed_;
  RowTeam& team_;
  CudaPositionState* const states_;
  CudaPositionState* state_;  // of the position that is open
  CudaAsk& ask_;
  GroupWeights& groups_;
  JudgedPosition* ahead_;
  const R rule_;
};

}  // namespace tandem

#endif  // TANDEM_POLICIES_CUDA_POSITION_CUH_
