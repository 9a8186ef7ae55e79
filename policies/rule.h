// What a rule is written against. A rule is a struct of float parameters with a static kInfo and a few const
// functions of numbers; it owns no memory, draws no random number and sees no cache, stream or logits. This
// header and runtime/core are all it may include; the same source is for CPU and CUDA (TANDEM_HD).
//
// x ~ q is a proposed token; p is the target's law; q1, p1 are both laws at temperature 1 before top-k, top-p
// and min-p. The kind of a rule is told by which of these it has ([, d] if it declares a struct Derived):
//
//   A, a law        float law(float q, float p, const Row&[, d])     pi(v) of a token with these q and p
//   A, token-wise   bool keeps(const Token&, const Row&[, d])        may the draft emit this token?
//                                                                    pi = q [keeps] + (1 - q(kept)) p
//   B, a test       float accept(const Row&[, d])                    probability that x stays
//                   float fallback(const Token&, const Row&[, d])    the law that replaces x, up to a factor
//   C, a block rule void chances(const Row* rows, int n, float*)     of n independent coins, one a position
//                   int keep(const Row* rows, int n, const bool*)    tokens that stay, from what the coins showed
//                   float fallback(const Token&, const Row&)         the law of the token after them
//
// A says what law comes out, exactly: x stays with probability min(1, pi(x) / q(x)), else a token is drawn
// from max(0, pi - q). pi must not look at x. For B it is q(v) a(v) + sum over x of q(x) (1 - a(x)) f_x(v).
//
// Also, where it applies:
//
//   Derived solve(const Row&, const Sum& sum)   what must be computed from the whole vocabulary first. sum(f) adds
//                                               up f(float q, float p) or f(const Token&) over it, in double, in a
//                                               fixed order; if f returns Terms<N>, Sums<N>. sum.KthLargestP1(k) is
//                                               what it says.
//   bool defers(const Row&)                     reported: the rule hands this position to the target. Without it a
//                                               token-wise rule defers where x is not kept, others where x is
//                                               replaced
//   float chance(const Row&)                    min(1, pi(x) / q(x)) if it can be told without solve(), which
//                                               spares the passes; else NaN
//   float draft_stop()                          drafting should stop after a token whose q is under this
#ifndef TANDEM_POLICIES_RULE_H_
#define TANDEM_POLICIES_RULE_H_

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "runtime/core/platform.h"

namespace tandem {

enum class Guarantee : int32_t {
  kExact,        // the output law is the target's
  kExactAtZero,  // at T = 0
  kLossy,
};

// What costs a pass over the vocabulary, or cannot be had from every drafter. Only what is declared is
// computed; the rest is NaN.
struct Needs {
  static constexpr uint32_t kNone = 0;
  static constexpr uint32_t kDraftLaw = 1 << 0;  // refused with a drafter that has no law (n-gram lookup)
  static constexpr uint32_t kTv = 1 << 1;        // Row::tv
  static constexpr uint32_t kEntropyQ = 1 << 2;  // Row::q.entropy, and so on
  static constexpr uint32_t kEntropyP = 1 << 3;
  static constexpr uint32_t kEntropyQ1 = 1 << 4;
  static constexpr uint32_t kEntropyP1 = 1 << 5;
  static constexpr uint32_t kTokenQ1 = 1 << 6;  // Token::q1
  static constexpr uint32_t kTokenP1 = 1 << 7;  // Token::p1; KthLargestP1
};

inline constexpr int kMaxParams = 4;
inline constexpr int kMaxCheckValues = 4;

// Values at which `rules check` tries a parameter: such that three tokens are enough to see every branch.
struct CheckValues {
  constexpr CheckValues() = default;
  constexpr CheckValues(std::initializer_list<float> values) {
    for (float v : values) value[n++] = v;
  }
  float value[kMaxCheckValues] = {};
  int32_t n = 0;
};

struct ParamInfo {
  const char* name = nullptr;
  float min = 0, max = 0;  // both allowed
  float value = 0;         // default
  const char* help = "";
  CheckValues check;
  bool whole = false;  // whole numbers only
};

// What a rule states about itself. policies/README.md says the same of every built-in rule, and a test
// compares.
struct RuleInfo {
  const char* name = nullptr;  // of its file, and of its struct in CamelCase
  Guarantee guarantee = Guarantee::kLossy;
  uint32_t needs = Needs::kNone;
  bool draft_only =
      false;  // defers() looks at q and q1 alone and not at x: a token-level cascade, which has neither p
              // nor a token yet when it decides, may use this rule
  bool either =
      false;  // kind A without Derived: at every position pi is q or p, whole; a replacement is then drawn
              // from max(0, p - q)
  ParamInfo params[kMaxParams] = {};  // in the order of the struct's members
  const char* about = "";             // one line
  const char* tests = "";             // the laws it looks at
  const char* fallback = "";          // kind B: what replaces a token
  const char* at_zero = "";           // its form at T = 0
  const char* source = "";

  constexpr int n_params() const {
    int n = 0;
    while (n < kMaxParams && params[n].name != nullptr) ++n;
    return n;
  }
};

// One law at one position, by its figures. At T = 0 q and p are one-hot at their argmax; a proposal without a
// law counts as one-hot at x, in q and q1.
struct LawFigures {
  float x = NAN;        // probability of the proposed token
  float max = NAN;      // largest probability
  int32_t argmax = -1;  // the lowest token that has it
  float lse = NAN;      // log of the sum of exp(logit / T) over the tokens not cut off; T = 0 or no law: 0
  float entropy = NAN;  // nats; with the need
};

// One position, as a rule sees it.
struct Row {
  int32_t x = -1;  // the proposed token
  LawFigures q, p, q1, p1;
  float q1_at_top_of_p = NAN;  // q1 of p1.argmax
  float p1_at_top_of_q = NAN;  // p1 of q1.argmax
  float tv = NAN;              // sum over v of max(0, q(v) - p(v)); with the need
  int32_t position = 0;        // in the block, from 0
  int32_t n_proposed = 0;
  bool is_bonus = false;  // the position after the last proposed token (bonus: pi)
  bool has_draft_law = true;
  bool greedy = false;  // T = 0
};

// One token of the vocabulary, at one position.
struct Token {
  int32_t id = -1;
  float q = NAN, p = NAN, q1 = NAN, p1 = NAN;
};

// Several sums from one pass: what f returns for a token, and what sum(f) returns.
template <int N>
struct Terms {
  float value[N] = {};
};
template <int N>
struct Sums {
  double value[N] = {};
  TANDEM_HD double operator[](int i) const { return value[i]; }
};

// log(a / b) for a > 0, to 2e-7; infinity for b = 0. Without branches or calls, so that sums over it become
// vector code: the ratio is 2^e m, m in [sqrt(1/2), sqrt(2)), and log(m) a polynomial in m - 1.
TANDEM_HD inline float LogRatio(float a, float b) {
  const float ratio = a / b;
  const auto bits = std::bit_cast<int32_t>(ratio);
  const int32_t e = (bits - 0x3f3504f3) >> 23;
  const float f = std::bit_cast<float>(bits - (e << 23)) - 1;
  const float high = 0.199102387f + f * (-0.171669066f + f * (0.161411762f - f * 0.10224203f));
  const float cubic = 0.333346903f + f * (-0.249805734f + f * high);
  const float log_m = f + f * f * (f * cubic - 0.5f);
  return b == 0 ? INFINITY : log_m + 0.693147181f * static_cast<float>(e);
}

// The draft's law clamped between two multiples of the target's: pi(v) = max(min(q, upper p), lower p), 0 <=
// lower <= 1 <= upper. With lower such that it adds up to 1 it has, of all laws with pi <= upper p, the least
// KL(p || pi).
struct ClampedLaw {
  float upper = 1, lower = 1;

  TANDEM_HD float pi(float q, float p) const {
    const float most = upper * p, least = lower * p;
    const float low = q < most ? q : most;
    return low > least ? low : least;
  }

  // The `lower` of a given `upper`. The sum over pi is convex and piecewise linear in `lower`, so Newton's
  // steps from above (start: 1, or the lower of a smaller upper) come down to the root in a few passes and
  // never cross it. Solving for lower in [0, 1] and not for beta = 1 / lower has no case in which there is no
  // root.
  template <typename Sum>
  TANDEM_HD static ClampedLaw Solve(float upper, float start, const Sum& sum) {
    ClampedLaw law = {upper, start};
    for (int step = 0; step < 64; ++step) {
      const Sums<2> s = sum([law](float q, float p) {
        const float pi = law.pi(q, p);
        return Terms<2>{{pi, pi > q ? p : 0.f}};
      });
      const double excess = s[0] - 1;
      if (!(excess > 0) || !(s[1] > 0)) break;
      const double next = law.lower - excess / s[1];
      const float lower = next > 0 ? static_cast<float>(next) : 0;
      if (lower == law.lower) break;
      law.lower = lower;
    }
    return law;
  }

  // KL(p || pi) in nats, and its derivative by log(upper) when lower follows.
  struct Divergence {
    double value, slope;
  };
  template <typename Sum>
  TANDEM_HD Divergence From(const Sum& sum) const {
    const Sums<3> s = sum([law = *this](float q, float p) {
      const bool above = q >= law.upper * p;
      const bool below = !above && q <= law.lower * p;
      const float between = above || below || p == 0 ? 0.f : p * LogRatio(p, q);
      return Terms<3>{{above ? p : 0.f, below ? p : 0.f, between}};
    });
    double value = s[2] - s[0] * std::log(static_cast<double>(upper));
    if (s[1] > 0) value -= s[1] * std::log(static_cast<double>(lower));
    return {value, s[0] * (upper / static_cast<double>(lower) - 1)};
  }
};

template <typename R>
concept HasDerived = requires {
  typename R::Derived;
};

template <typename R>
concept LawRule = requires(const R& rule, const Row& row) {
  rule.law(0.f, 0.f, row);
}
|| requires(const R& rule, const Row& row, const typename R::Derived& d) { rule.law(0.f, 0.f, row, d); };

template <typename R>
concept TokenWiseRule = requires(const R& rule, const Token& token, const Row& row) {
  rule.keeps(token, row);
}
|| requires(const R& rule, const Token& token, const Row& row, const typename R::Derived& d) {
  rule.keeps(token, row, d);
};

template <typename R>
concept BlockRule = requires(const R& rule, const Token& token, const Row* rows, float* chances,
                             const bool* heads) {
  rule.chances(rows, 1, chances);
  { rule.keep(rows, 1, heads) } -> std::convertible_to<int>;
  rule.fallback(token, *rows);
};

template <typename R>
concept TestRule =
    !BlockRule<R> &&
    (
        requires(const R& rule, const Row& row) { rule.accept(row); } ||
        requires(const R& rule, const Row& row, const typename R::Derived& d) { rule.accept(row, d); });

template <typename R>
concept Rule = std::is_aggregate_v<R> && std::is_trivially_copyable_v<R> &&
               (LawRule<R> + TokenWiseRule<R> + TestRule<R> + BlockRule<R> == 1) &&
               requires {
  R::kInfo.name;
};

}  // namespace tandem

#endif  // TANDEM_POLICIES_RULE_H_
