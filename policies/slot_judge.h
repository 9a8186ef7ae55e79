// SlotJudge: one slot's round as judge.h states it, one source for the CPU and CUDA. It decides; what needs a rule or a
// pass over the vocabulary it asks of a Position, which holds one position at a time:
//
//   static constexpr bool MayBe(Kind)        whether rules of this kind are judged by it
//   double Draw(const UniformKey&)           the number of that key
//   Kind kind(); bool leads()                leads: this thread writes results and reports cells
//   Fault Open(int i, int x)                 goes to position i with token x, the proposed one
//   Fault OpenBonus(int x)                   goes to the position after them
//   const Row& row(); bool has_defers(); bool Defers()
//   double Chance(bool exact)                kind A: pi(x) / q(x), where 1 may stand for any larger ratio unless
//                                            `exact`; kind B: the probability that x stays. Negative: no probability
//   double Mass(double factor, bool* valid)  sum over v of max(0, factor pi(v) - q(v)); valid: all are probabilities
//   int32_t Replacement(double factor, double u, double* low, double* high, bool* valid)
//                                            drawn from max(0, factor pi - q) or the fallback; -1: nothing has weight
//   int32_t DrawFrom(const Law&, double u, double* low, double* high)
//   void Chances(const Row*, int n, float*); int Keep(const Row*, int n, const bool*)    kind C
//
// Every thread that judges a slot runs it with the same values.
#ifndef TANDEM_POLICIES_SLOT_JUDGE_H_
#define TANDEM_POLICIES_SLOT_JUDGE_H_

#include <cmath>

#include "policies/judge.h"

namespace tandem {

template <typename Position>
class SlotJudge {
 public:
  TANDEM_DEVICE SlotJudge(const JudgeArgs& args, int32_t slot, Position& position)
      : args_(args), slot_(slot), n_proposed_(args.proposal.n_proposed[slot]), position_(position) {}

  TANDEM_DEVICE void Run() {
    bool all_stay = false;
    if (n_proposed_ < 0 || n_proposed_ >= args_.scores.block || n_proposed_ > kMaxGamma) {
      Fail(Fault::kProposal);
    } else if (position_.kind() == Kind::kBlock) {
      if constexpr (Position::MayBe(Kind::kBlock)) all_stay = JudgeByBlockRule();
    } else if (args_.verification == Verification::kBlock) {
      if constexpr (Position::MayBe(Kind::kLaw) || Position::MayBe(Kind::kTokenWise)) all_stay = JudgeBlock();
    } else {
      all_stay = JudgeTokens();
    }
    if (all_stay) AddBonus();
    if (!position_.leads()) return;
    args_.verdicts.fault[slot_] = fault_;
    if (fault_ != Fault::kNone) Set(0, -1, 0);
  }

 private:
  TANDEM_DEVICE void Set(int32_t n_keep, int32_t next, int32_t n_judged) {
    if (!position_.leads()) return;
    args_.verdicts.n_keep[slot_] = n_keep;
    args_.verdicts.next[slot_] = next;
    args_.verdicts.n_judged[slot_] = n_judged;
  }
  TANDEM_DEVICE void SetDeferred(int32_t i, bool deferred) {
    if (position_.leads())
      args_.verdicts.deferred[static_cast<int64_t>(slot_) * args_.verdicts.block + i] = deferred;
  }
  TANDEM_DEVICE bool Fail(Fault fault) {
    fault_ = fault;
    return false;
  }
  TANDEM_DEVICE bool Open(int32_t i, int32_t x) {
    const Fault fault = position_.Open(i, x);
    return fault == Fault::kNone || Fail(fault);
  }
  TANDEM_DEVICE int32_t proposed(int32_t i) const {
    return args_.proposal.tokens[static_cast<int64_t>(slot_) * args_.proposal.block + i];
  }
  TANDEM_DEVICE UniformKey key(int32_t i, Purpose purpose) const {
    const SeqState& state = args_.batch.states[slot_];
    return {state.seed, state.sequence, state.length, i, purpose};
  }
  TANDEM_DEVICE void Cell(const UniformKey& key, double low, double high) const {
    if (position_.leads()) args_.batch.uniforms.Cell(key, low, high);
  }

  TANDEM_DEVICE double Chance(bool exact) {
    const double chance = position_.Chance(exact);
    if (chance < 0) Fail(Fault::kVerdict);
    return chance;
  }

  // A coin that shows heads with this probability; tossed only if it can show either side.
  TANDEM_DEVICE bool Toss(double chance, int32_t i) {
    if (chance >= 1) return true;
    if (chance <= 0) return false;
    const UniformKey coin = key(i, Purpose::kKeep);
    const bool heads = position_.Draw(coin) < chance;
    Cell(coin, heads ? 0 : chance, heads ? chance : 1);
    return heads;
  }

  // The token in place of x, from max(0, factor pi - q) or the fallback; -1: nothing has weight, or a fault.
  TANDEM_DEVICE int32_t Replacement(int32_t i, double factor) {
    bool valid = true;
    double low = 0, high = 1;
    const UniformKey draw = key(i, Purpose::kReplace);
    const int32_t token = position_.Replacement(factor, position_.Draw(draw), &low, &high, &valid);
    Cell(draw, low, high);
    if (!valid) Fail(Fault::kVerdict);
    return valid ? token : -1;
  }

  // Judges the token of the open position, i, alone: -1 if it stays (or at a fault), else the token that replaces it.
  TANDEM_DEVICE int32_t JudgePosition(int32_t i) {
    const double chance = Chance(false);
    if (fault_ != Fault::kNone || Toss(chance, i)) return -1;
    return Replacement(i, 1);
  }

  // This one and the two below: whether every proposed token stays, and no fault was met. If not, all is said.
  TANDEM_DEVICE bool JudgeTokens() {
    for (int32_t i = 0; i < n_proposed_; ++i) {
      if (!Open(i, proposed(i))) return false;
      const int32_t replacement = JudgePosition(i);
      if (fault_ != Fault::kNone) return false;
      SetDeferred(i, position_.has_defers() ? position_.Defers() : replacement >= 0);
      if (replacement < 0) continue;
      Set(i, replacement, i + 1);
      return false;
    }
    return true;
  }

  TANDEM_DEVICE void AddBonus() {
    const int32_t i = n_proposed_;
    const int64_t row = static_cast<int64_t>(slot_) * args_.scores.block + i;
    int32_t next = -1;
    if (args_.bonus == Bonus::kPi && args_.proposal.has_bonus_law) {
      const Law q = args_.proposal.law.row(row);
      if (!q.finite()) return void(Fail(Fault::kDraftLaw));
      const int32_t x = DrawToken(q, key(i, Purpose::kDraft));
      const Fault fault = position_.OpenBonus(x);
      if (fault != Fault::kNone) return void(Fail(fault));
      next = JudgePosition(i);
      if (next < 0) next = x;
    } else {
      const Law p = args_.scores.law.row(row);
      if (!p.finite()) return void(Fail(Fault::kTargetLaw));
      next = DrawToken(p, key(i, Purpose::kReplace));
    }
    if (fault_ == Fault::kNone) Set(n_proposed_, next, n_proposed_);
  }
  TANDEM_DEVICE int32_t DrawToken(const Law& law, const UniformKey& draw) {
    if (law.greedy()) return law.record.argmax;
    double low = 0, high = 1;
    const int32_t token = position_.DrawFrom(law, position_.Draw(draw), &low, &high);
    Cell(draw, low, high);
    return token;
  }

  TANDEM_DEVICE bool JudgeBlock() {
    const int32_t n = n_proposed_;
    double prefix[kMaxGamma + 1] = {1};  // P_i
    for (int32_t i = 0; i < n; ++i) {
      if (!Open(i, proposed(i))) return false;
      if (prefix[i] > 0) {
        // A prefix of 1 cannot grow.
        const double grown = prefix[i] * Chance(prefix[i] < 1);
        prefix[i + 1] = grown < 1 ? grown : 1;
        if (fault_ != Fault::kNone) return false;
      }
      if (position_.has_defers()) SetDeferred(i, position_.Defers());
    }
    // From the last coin down: what lies before the first heads need not be computed.
    int32_t n_keep = n;
    for (; n_keep > 0; --n_keep) {
      const double chance = n_keep == n ? prefix[n] : HeadsBefore(n_keep, prefix[n_keep]);
      if (fault_ != Fault::kNone) return false;
      if (Toss(chance, n_keep - 1)) break;
    }
    return FinishBlock(n_keep, prefix);
  }

  // The probability of heads of coin i < n, from the residual mass of the position after i tokens.
  TANDEM_DEVICE double HeadsBefore(int32_t i, double prefix) {
    if (prefix == 0) return 0;
    if (prefix == 1) return 1;
    if (!Open(i, proposed(i))) return 0;
    bool valid = true;
    const double mass = position_.Mass(prefix, &valid);
    if (!valid) Fail(Fault::kVerdict);
    const double rest = mass + (1 - prefix);
    return rest > 0 ? mass / rest : 1;
  }

  TANDEM_DEVICE bool FinishBlock(int32_t n_keep, const double* prefix) {
    int32_t replacement = -1;
    for (; n_keep < n_proposed_; ++n_keep) {
      if (!Open(n_keep, proposed(n_keep))) return false;
      replacement = Replacement(n_keep, prefix[n_keep]);
      if (fault_ != Fault::kNone) return false;
      if (replacement >= 0) break;
    }
    if (!position_.has_defers()) {
      for (int32_t i = 0; i < n_proposed_; ++i) SetDeferred(i, i >= n_keep);
    }
    if (replacement >= 0) Set(n_keep, replacement, n_proposed_);
    return replacement < 0;
  }

  // Kind C: coins with the rule's chances, then the rule's count.
  TANDEM_DEVICE bool JudgeByBlockRule() {
    const int32_t n = n_proposed_;
    Row rows[kMaxGamma + 1];
    float chances[kMaxGamma + 1] = {};
    bool heads[kMaxGamma + 1] = {};
    for (int32_t i = 0; i < n; ++i) {
      if (!Open(i, proposed(i))) return false;
      rows[i] = position_.row();
    }
    if (n == 0) return true;
    position_.Chances(rows, n, chances);
    for (int32_t i = 0; i < n; ++i) {
      if (!(chances[i] >= 0 && std::isfinite(chances[i]))) return Fail(Fault::kVerdict);
      heads[i] = Toss(chances[i], i);
    }
    const int n_keep = position_.Keep(rows, n, heads);
    if (n_keep < 0 || n_keep > n) return Fail(Fault::kVerdict);
    const double all_keep[kMaxGamma + 1] = {};
    return FinishBlock(n_keep, all_keep);
  }

  const JudgeArgs& args_;
  const int32_t slot_;
  const int32_t n_proposed_;
  Position& position_;
  Fault fault_ = Fault::kNone;
};

// The probabilities that a row holds, each of one token under one law: p or q, at its temperature or at 1.
enum RowProb : int {
  kPX,
  kPMax,
  kQX,
  kQMax,
  kP1X,
  kP1Max,
  kQ1X,
  kQ1Max,
  kQ1AtTopOfP,
  kP1AtTopOfQ,
  kNumRowProbs,
};
inline constexpr unsigned kOfP = 1u << kPX | 1u << kPMax | 1u << kP1X | 1u << kP1Max | 1u << kP1AtTopOfQ;
inline constexpr unsigned kOfX = 1u << kPX | 1u << kQX | 1u << kP1X | 1u << kQ1X;
inline constexpr unsigned kAtTopOfP =
    1u << kPMax | 1u << kP1Max | 1u << kQ1AtTopOfP;  // others: at the top of q
TANDEM_HD inline bool IsOfP(int which) { return (kOfP >> which & 1) != 0; }
TANDEM_HD inline bool IsAtOne(int which) { return which >= kP1X; }
TANDEM_HD inline int32_t TokenOf(int which, const Law& q, const Law& p, int32_t x) {
  if ((kOfX >> which & 1) != 0) return x;
  return (kAtTopOfP >> which & 1) != 0 ? p.record.argmax : q.record.argmax;
}

// The row of position i with token x under its laws (q: of no tokens, if the draft has no law), but for what costs a pass
// over the vocabulary. prob(which): a RowProb. *fault: x is no token, or a law is not finite; then the row is empty.
template <typename Prob>
TANDEM_DEVICE Row OpenRow(const JudgeArgs& args, int32_t n_proposed, int32_t i, int32_t x, int32_t n_vocab,
                          const Law& q, const Law& p, Prob prob, Fault* fault) {
  Row row;
  *fault = Fault::kNone;
  if (args.proposal.has_law && !q.finite()) *fault = Fault::kDraftLaw;
  if (x < 0 || x >= n_vocab) *fault = Fault::kProposal;
  if (!p.finite()) *fault = Fault::kTargetLaw;
  if (*fault != Fault::kNone) return row;
  const auto figures = [&](const Law& law, float of_x, float of_top) {
    return LawFigures{.x = of_x,
                      .max = of_top,
                      .argmax = law.record.argmax,
                      .lse = law.greedy() ? 0 : law.record.max * law.record.inv_t + law.record.lse};
  };
  const auto figures1 = [&](const Law& law, float of_x, float of_top) {
    return LawFigures{
        .x = of_x, .max = of_top, .argmax = law.record.argmax, .lse = law.record.max + law.record.lse1};
  };
  row.x = x;
  row.position = i;
  row.n_proposed = n_proposed;
  row.is_bonus = i == row.n_proposed;
  row.has_draft_law = args.proposal.has_law;
  row.greedy = p.greedy();
  row.p = figures(p, prob(kPX), prob(kPMax));
  row.p1 = figures1(p, prob(kP1X), prob(kP1Max));
  if (!args.proposal.has_law) {
    row.q.x = row.q.max = 1;
    row.q.argmax = x;
    row.q.lse = 0;
    row.q1 = row.q;
    row.q1_at_top_of_p = row.p1.argmax == x ? 1 : 0;
    row.p1_at_top_of_q = row.p1.x;
    return row;
  }
  row.q = figures(q, prob(kQX), prob(kQMax));
  row.q1 = figures1(q, prob(kQ1X), prob(kQ1Max));
  row.q1_at_top_of_p = prob(kQ1AtTopOfP);
  row.p1_at_top_of_q = prob(kP1AtTopOfQ);
  return row;
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_SLOT_JUDGE_H_
