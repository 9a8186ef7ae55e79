#include "policies/judge.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/sample/sample.h"
#include "policies/cpu_prob.h"
#include "policies/slot_judge.h"

namespace tandem {
namespace {

// A position on the CPU: what costs a pass over the vocabulary is made on demand and once.
class CpuPosition {
 public:
  CpuPosition(const JudgeArgs& args, int32_t slot, float* scratch)
      : args_(args),
        rule_(*args.rule),
        slot_(slot),
        n_vocab_(std::max(args.scores.law.n_vocab, args.proposal.has_law ? args.proposal.law.n_vocab : 0)),
        scratch_(scratch) {}

  static constexpr bool MayBe(Kind) { return true; }
  static constexpr bool leads() { return true; }
  Kind kind() const { return rule_.kind; }
  double Draw(const UniformKey& key) const { return args_.batch.uniforms.Draw(key); }
  const Row& row() const { return row_; }

  Fault Open(int32_t i, int32_t x) {
    has_tokens_ = has_solved_ = has_rest_ = false;
    const int64_t at = static_cast<int64_t>(slot_) * args_.scores.block + i;
    p_ = args_.scores.law.row(at);
    if (args_.proposal.has_law) q_ = args_.proposal.law.row(at);
    const auto prob = [&](int which) {
      const Law& law = IsOfP(which) ? p_ : q_;
      const int32_t v = TokenOf(which, q_, p_, x);
      return IsAtOne(which) ? CpuProb1(law, v) : CpuProb(law, v);
    };
    Fault fault;
    row_ = OpenRow(args_, args_.proposal.n_proposed[slot_], i, x, n_vocab_, q_, p_, prob, &fault);
    if (fault != Fault::kNone) return fault;
    Passes();
    return Fault::kNone;
  }

  bool has_defers() const { return rule_.defers != nullptr; }
  bool Defers() {
    if (rule_.kind == Kind::kTokenWise) Solve();
    return rule_.defers(args_.params, row_, solved_);
  }

  Fault OpenBonus(int32_t x) { return Open(args_.proposal.n_proposed[slot_], x); }

  // Looks for an answer that spares the passes over the vocabulary.
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
    if (!(value >= 0 && std::isfinite(value))) return -1;
    if (rule_.kind == Kind::kTest || value == 0) return value;
    return static_cast<double>(value) / row_.q.x;
  }

  // Weights block by block, for the sums and draws below.
  auto Weights(double factor, bool* valid) {
    SolveAll();
    return [this, factor, valid, &tokens = tokens()](int32_t begin, int32_t end, float* out) {
      *valid &= rule_.weights(args_.params, row_, solved_, tokens, begin, end, factor, out);
    };
  }

  double Mass(double factor, bool* valid) {
    const auto weights = Weights(factor, valid);
    double mass = 0;
    float block[kLawBlock];
    for (int32_t begin = 0; begin < n_vocab_; begin += kLawBlock) {
      const int32_t end = std::min(n_vocab_, begin + kLawBlock);
      weights(begin, end, block);
      mass += SumWeights(block, end - begin);
    }
    return mass;
  }
  int32_t Replacement(double factor, double u, double* low, double* high, bool* valid) {
    return DrawFromWeights(n_vocab_, u, Weights(factor, valid), low, high);
  }
  int32_t DrawFrom(const Law& law, double u, double* low, double* high) {
    return DrawFromLaw(law, u, low, high);
  }

  void Chances(const Row* rows, int n, float* out) { rule_.chances(args_.params, rows, n, out); }
  int Keep(const Row* rows, int n, const bool* heads) { return rule_.keep(args_.params, rows, n, heads); }

 private:
  bool needs(uint32_t need) const { return (rule_.info->needs & need) != 0; }

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

  const JudgeArgs& args_;
  const RuleEntry& rule_;
  const int32_t slot_;
  const int32_t n_vocab_;
  float* const scratch_;

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
  float* scratch = static_cast<float*>(args.scratch) + worker.index * args.scratch_stride;
  for (int64_t slot = share.begin; slot < share.end; ++slot) {
    const SeqState& state = args.batch.states[slot];
    if (state.live && TargetAdds(state)) {
      CpuPosition position(args, static_cast<int32_t>(slot), scratch);
      SlotJudge(args, static_cast<int32_t>(slot), position).Run();
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
