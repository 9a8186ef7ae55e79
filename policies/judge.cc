#include "policies/judge.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/sample/sample.h"
#include "runtime/core/check.h"

namespace tandem {
namespace {

// One slot's round. Holds one position at a time: Open() makes its row, and what costs a pass over the
// vocabulary is made on demand and once.
class SlotJudge {
 public:
  SlotJudge(const JudgeArgs& args, int32_t slot, float* scratch)
      : args_(args),
        rule_(*args.rule),
        state_(args.batch.states[slot]),
        slot_(slot),
        n_proposed_(args.proposal.n_proposed[slot]),
        n_vocab_(std::max(args.scores.law.n_vocab, args.proposal.has_law ? args.proposal.law.n_vocab : 0)),
        scratch_(scratch) {}

  void Run() {
    Set(0, -1, 0);
    if (n_proposed_ < 0 || n_proposed_ >= args_.scores.block || n_proposed_ > kMaxGamma) {
      Fail(Fault::kProposal);
    } else if (rule_.kind == Kind::kBlock) {
      JudgeByBlockRule();
    } else if (args_.verification == Verification::kBlock) {
      JudgeBlock();
    } else {
      JudgeTokens();
    }
    args_.verdicts.fault[slot_] = fault_;
    if (fault_ != Fault::kNone) Set(0, -1, 0);
  }

 private:
  void Set(int32_t n_keep, int32_t next, int32_t n_judged) {
    args_.verdicts.n_keep[slot_] = n_keep;
    args_.verdicts.next[slot_] = next;
    args_.verdicts.n_judged[slot_] = n_judged;
  }
  bool Fail(Fault fault) {
    fault_ = fault;
    return false;
  }
  uint8_t& deferred(int32_t i) const {
    return args_.verdicts.deferred[static_cast<int64_t>(slot_) * args_.verdicts.block + i];
  }
  int32_t proposed(int32_t i) const {
    return args_.proposal.tokens[static_cast<int64_t>(slot_) * args_.proposal.block + i];
  }
  UniformKey key(int32_t i, Purpose purpose) const {
    return {state_.seed, state_.sequence, state_.length, i, purpose};
  }
  bool needs(uint32_t need) const { return (rule_.info->needs & need) != 0; }

  // Makes row_ of position i with token x, n_proposed_ being the bonus. False: a fault.
  bool Open(int32_t i, int32_t x) {
    has_tokens_ = has_solved_ = has_rest_ = false;
    p_ = args_.scores.law.row(static_cast<int64_t>(slot_) * args_.scores.block + i);
    if (!p_.finite()) return Fail(Fault::kTargetLaw);
    if (x < 0 || x >= n_vocab_) return Fail(Fault::kProposal);
    row_ = Row();
    row_.x = x;
    row_.position = i;
    row_.n_proposed = n_proposed_;
    row_.is_bonus = i == n_proposed_;
    row_.has_draft_law = args_.proposal.has_law;
    row_.greedy = p_.greedy();
    row_.p = Figures(p_, x);
    row_.p1 = Figures1(p_, x);
    if (args_.proposal.has_law) {
      q_ = args_.proposal.law.row(static_cast<int64_t>(slot_) * args_.proposal.block + i);
      if (!q_.finite()) return Fail(Fault::kDraftLaw);
      row_.q = Figures(q_, x);
      row_.q1 = Figures1(q_, x);
      LawProbs1(q_, row_.p1.argmax, row_.p1.argmax + 1, &row_.q1_at_top_of_p);
      LawProbs1(p_, row_.q1.argmax, row_.q1.argmax + 1, &row_.p1_at_top_of_q);
    } else {
      row_.q = row_.q1 = {.x = 1, .max = 1, .argmax = x, .lse = 0, .entropy = NAN};
      row_.q1_at_top_of_p = row_.p1.argmax == x ? 1 : 0;
      row_.p1_at_top_of_q = row_.p1.x;
    }
    Passes();
    return true;
  }

  static LawFigures Figures(const Law& law, int32_t x) {
    LawFigures figures;
    LawProbs(law, x, x + 1, &figures.x);
    figures.argmax = law.record.argmax;
    LawProbs(law, figures.argmax, figures.argmax + 1, &figures.max);
    figures.lse = law.greedy() ? 0 : law.record.max * law.record.inv_t + law.record.lse;
    return figures;
  }
  static LawFigures Figures1(const Law& law, int32_t x) {
    LawFigures figures;
    LawProbs1(law, x, x + 1, &figures.x);
    figures.argmax = law.record.argmax;
    LawProbs1(law, figures.argmax, figures.argmax + 1, &figures.max);
    figures.lse = law.record.max + law.record.lse1;
    return figures;
  }

  // The row's figures that cost a pass.
  void Passes() {
    const bool has_law = args_.proposal.has_law;
    if (needs(Needs::kEntropyQ)) row_.q.entropy = has_law ? LawEntropy(q_) : 0;
    if (needs(Needs::kEntropyQ1)) row_.q1.entropy = has_law ? LawEntropy1(q_) : 0;
    if (needs(Needs::kEntropyP)) row_.p.entropy = LawEntropy(p_);
    if (needs(Needs::kEntropyP1)) row_.p1.entropy = LawEntropy1(p_);
    if (!needs(Needs::kTv)) return;
    if (row_.greedy) {
      row_.tv = row_.q.argmax == row_.p.argmax ? 0 : 1;
    } else if (!has_law) {
      row_.tv = 1 - row_.p.x;
    } else {
      const int32_t n_blocks = NumLawBlocks(n_vocab_);
      const int64_t row = static_cast<int64_t>(slot_) * args_.scores.block + row_.position;
      const double* blocks = args_.total_variation + row * n_blocks;
      row_.tv = static_cast<float>(std::accumulate(blocks, blocks + n_blocks, 0.0));
    }
  }

  const Tokens& tokens() {
    if (has_tokens_) return tokens_;
    has_tokens_ = true;
    float* q = scratch_;
    float* p = q + n_vocab_;
    float* q1 = p + n_vocab_;
    float* p1 = q1 + n_vocab_;
    const bool has_law = args_.proposal.has_law;
    if (has_law) {
      LawProbs(q_, 0, n_vocab_, q);
      if (needs(Needs::kTokenQ1)) LawProbs1(q_, 0, n_vocab_, q1);
    } else {
      std::fill(q, q + n_vocab_, 0.f);
      q[row_.x] = 1;
    }
    LawProbs(p_, 0, n_vocab_, p);
    if (needs(Needs::kTokenP1)) LawProbs1(p_, 0, n_vocab_, p1);
    tokens_ = {q, p, nullptr, nullptr, p1 + n_vocab_, n_vocab_};
    if (needs(Needs::kTokenQ1)) tokens_.q1 = has_law ? q1 : q;
    if (needs(Needs::kTokenP1)) tokens_.p1 = p1;
    return tokens_;
  }

  void Solve() {
    if (has_solved_) return;
    has_solved_ = true;
    if (rule_.solve != nullptr) rule_.solve(args_.params, row_, tokens(), &solved_);
  }
  void SolveAll() {
    Solve();
    if (has_rest_) return;
    has_rest_ = true;
    if (rule_.rest != nullptr) rule_.rest(args_.params, row_, tokens(), &solved_);
  }

  bool Defers() {
    if (rule_.kind == Kind::kTokenWise) Solve();
    return rule_.defers(args_.params, row_, solved_);
  }

  // Kind A: pi(x) / q(x), where 1 may stand for any larger ratio unless `exact`. Kind B: the probability that
  // x stays. Looks for an answer that spares the passes over the vocabulary. Negative: a fault.
  double Chance(bool exact) {
    if (rule_.chance != nullptr) {
      const float chance = rule_.chance(args_.params, row_);
      const bool told = !std::isnan(chance);  // apart: GCC 12 takes c < 1 || c >= 1 for true, NaN or not
      if (told && (chance < 1 || !exact)) return chance;
    }
    Solve();
    const bool token_wise = rule_.kind == Kind::kTokenWise;
    if (token_wise && !exact && !rule_.defers(args_.params, row_, solved_)) return 1;
    SolveAll();
    const float value = rule_.value(args_.params, row_, solved_);
    if (!(value >= 0 && std::isfinite(value))) {
      Fail(Fault::kVerdict);
      return -1;
    }
    if (rule_.kind == Kind::kTest || value == 0) return value;
    return static_cast<double>(value) / row_.q.x;
  }

  // A coin that shows heads with this probability; tossed only if it can show either side.
  bool Toss(double chance, int32_t i) {
    if (chance >= 1) return true;
    if (chance <= 0) return false;
    const UniformKey coin = key(i, Purpose::kKeep);
    const bool heads = args_.batch.uniforms.Draw(coin) < chance;
    args_.batch.uniforms.Cell(coin, heads ? 0 : chance, heads ? chance : 1);
    return heads;
  }

  auto Weights(double factor, bool* valid) {
    SolveAll();
    return [this, factor, valid, &tokens = tokens()](int32_t begin, int32_t end, float* out) {
      *valid &= rule_.weights(args_.params, row_, solved_, tokens, begin, end, factor, out);
    };
  }

  // The token in place of x, from max(0, factor pi - q) or the fallback; -1: nothing has weight, or a fault.
  int32_t Replacement(double factor) {
    bool valid = true;
    double low = 0, high = 1;
    const UniformKey draw = key(row_.position, Purpose::kReplace);
    const int32_t token =
        DrawFromWeights(n_vocab_, args_.batch.uniforms.Draw(draw), Weights(factor, &valid), &low, &high);
    args_.batch.uniforms.Cell(draw, low, high);
    if (!valid) Fail(Fault::kVerdict);
    return valid ? token : -1;
  }

  // Judges x at position i alone: -1 if it stays (or at a fault), else the token that replaces it.
  int32_t JudgePosition(int32_t i, int32_t x) {
    if (!Open(i, x)) return -1;
    const double chance = Chance(false);
    if (fault_ != Fault::kNone || Toss(chance, i)) return -1;
    return Replacement(1);
  }

  void JudgeTokens() {
    for (int32_t i = 0; i < n_proposed_; ++i) {
      const int32_t replacement = JudgePosition(i, proposed(i));
      if (fault_ != Fault::kNone) return;
      deferred(i) = rule_.defers != nullptr ? Defers() : replacement >= 0;
      if (replacement >= 0) return Set(i, replacement, i + 1);
    }
    AddBonus(n_proposed_);
  }

  void AddBonus(int32_t n_judged) {
    const int32_t i = n_proposed_;
    int32_t next = -1;
    if (args_.bonus == Bonus::kPi && args_.proposal.has_bonus_law) {
      const Law q = args_.proposal.law.row(static_cast<int64_t>(slot_) * args_.proposal.block + i);
      if (!q.finite()) return void(Fail(Fault::kDraftLaw));
      const int32_t x = DrawToken(q, key(i, Purpose::kDraft));
      next = JudgePosition(i, x);
      if (next < 0) next = x;
    } else {
      const Law p = args_.scores.law.row(static_cast<int64_t>(slot_) * args_.scores.block + i);
      if (!p.finite()) return void(Fail(Fault::kTargetLaw));
      next = DrawToken(p, key(i, Purpose::kReplace));
    }
    if (fault_ == Fault::kNone) Set(n_proposed_, next, n_judged);
  }
  int32_t DrawToken(const Law& law, const UniformKey& draw) {
    if (law.greedy()) return law.record.argmax;
    double low = 0, high = 1;
    const int32_t token = DrawFromLaw(law, args_.batch.uniforms.Draw(draw), &low, &high);
    args_.batch.uniforms.Cell(draw, low, high);
    return token;
  }

  void JudgeBlock() {
    const int32_t n = n_proposed_;
    double prefix[kMaxGamma + 1] = {1};  // P_i
    for (int32_t i = 0; i < n; ++i) {
      if (!Open(i, proposed(i))) return;
      if (prefix[i] > 0) {
        // A prefix of 1 cannot grow.
        prefix[i + 1] = std::min(1.0, prefix[i] * Chance(prefix[i] < 1));
        if (fault_ != Fault::kNone) return;
      }
      if (rule_.defers != nullptr) deferred(i) = Defers();
    }
    // From the last coin down: what lies before the first heads need not be computed.
    int32_t n_keep = n;
    for (; n_keep > 0; --n_keep) {
      const double chance = n_keep == n ? prefix[n] : HeadsBefore(n_keep, prefix[n_keep]);
      if (fault_ != Fault::kNone) return;
      if (Toss(chance, n_keep - 1)) break;
    }
    FinishBlock(n_keep, prefix);
  }

  // The probability of heads of coin i < n, from the residual mass of the position after i tokens.
  double HeadsBefore(int32_t i, double prefix) {
    if (prefix == 0) return 0;
    if (!Open(i, proposed(i))) return 0;
    bool valid = true;
    const auto weights = Weights(prefix, &valid);
    double mass = 0;
    float block[kLawBlock];
    for (int32_t begin = 0; begin < n_vocab_; begin += kLawBlock) {
      const int32_t end = std::min(n_vocab_, begin + kLawBlock);
      weights(begin, end, block);
      mass += SumWeights(block, end - begin);
    }
    if (!valid) Fail(Fault::kVerdict);
    const double rest = mass + 1 - prefix;
    return rest > 0 ? mass / rest : 1;
  }

  void FinishBlock(int32_t n_keep, const double* prefix) {
    int32_t replacement = -1;
    for (; n_keep < n_proposed_; ++n_keep) {
      if (!Open(n_keep, proposed(n_keep))) return;
      replacement = Replacement(prefix[n_keep]);
      if (fault_ != Fault::kNone) return;
      if (replacement >= 0) break;
    }
    if (rule_.defers == nullptr) {
      for (int32_t i = 0; i < n_proposed_; ++i) deferred(i) = i >= n_keep;
    }
    if (replacement >= 0) return Set(n_keep, replacement, n_proposed_);
    AddBonus(n_proposed_);
  }

  // Kind C: coins with the rule's chances, then the rule's count.
  void JudgeByBlockRule() {
    const int32_t n = n_proposed_;
    Row rows[kMaxGamma + 1];
    float chances[kMaxGamma + 1] = {};
    bool heads[kMaxGamma + 1] = {};
    for (int32_t i = 0; i < n; ++i) {
      if (!Open(i, proposed(i))) return;
      rows[i] = row_;
    }
    if (n == 0) return AddBonus(0);
    rule_.chances(args_.params, rows, n, chances);
    for (int32_t i = 0; i < n; ++i) {
      if (!(chances[i] >= 0 && std::isfinite(chances[i]))) return void(Fail(Fault::kVerdict));
      heads[i] = Toss(chances[i], i);
    }
    const int n_keep = rule_.keep(args_.params, rows, n, heads);
    if (n_keep < 0 || n_keep > n) return void(Fail(Fault::kVerdict));
    const double all_keep[kMaxGamma + 1] = {};
    FinishBlock(n_keep, all_keep);
  }

  const JudgeArgs& args_;
  const RuleEntry& rule_;
  const SeqState& state_;
  const int32_t slot_;
  const int32_t n_proposed_;
  const int32_t n_vocab_;
  float* const scratch_;
  Fault fault_ = Fault::kNone;

  // The open position.
  Law q_, p_;
  Row row_;
  Tokens tokens_;
  Solved solved_;
  bool has_tokens_ = false, has_solved_ = false, has_rest_ = false;
};

}  // namespace

int64_t JudgeScratch(int32_t n_vocab) { return int64_t{5} * n_vocab; }

void JudgeCpu(const JudgeArgs& args, Worker worker) {
  const Share share = ShareOf(args.batch.n_slots, worker);
  float* scratch = args.scratch + worker.index * args.scratch_stride;
  for (int64_t slot = share.begin; slot < share.end; ++slot) {
    const SeqState& state = args.batch.states[slot];
    if (state.live && TargetAdds(state)) {
      SlotJudge(args, static_cast<int32_t>(slot), scratch).Run();
      continue;
    }
    // What the draft of a token cascade wrote is not judged: it stands.
    args.verdicts.n_keep[slot] =
        state.live && state.writer == Writer::kDraft ? args.proposal.n_proposed[slot] : 0;
    args.verdicts.next[slot] = -1;
    args.verdicts.n_judged[slot] = 0;
    args.verdicts.fault[slot] = Fault::kNone;
  }
}

}  // namespace tandem
