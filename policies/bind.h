// Binds a rule to the judge: MakeRuleEntry<R>() turns a struct (policies/rule.h) into a table of functions,
// so that one judge loop, compiled once, serves every rule, and a rule is inlined into the loops over the
// vocabulary that it needs.
#ifndef TANDEM_POLICIES_BIND_H_
#define TANDEM_POLICIES_BIND_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/law/law.h"
#include "policies/implied.h"
#include "policies/rule.h"

namespace tandem {

struct DeferArgs;  // policies/defer.h
struct JudgeArgs;  // policies/judge.h

enum class Kind : int32_t { kLaw, kTokenWise, kTest, kBlock };

// The whole vocabulary at one position; q1 and p1 null unless the rule needs them. [n]
struct Tokens {
  const float* q = nullptr;
  const float* p = nullptr;
  const float* q1 = nullptr;
  const float* p1 = nullptr;
  float* spare = nullptr;
  int32_t n = 0;

  // A token with what a rule of these needs may look at.
  template <uint32_t kNeeds>
  Token at(int32_t v) const {
    Token token;
    token.id = v;
    token.q = q[v];
    token.p = p[v];
    if constexpr ((kNeeds & Needs::kTokenQ1) != 0) token.q1 = q1[v];
    if constexpr ((kNeeds & Needs::kTokenP1) != 0) token.p1 = p1[v];
    return token;
  }
};

// The `sum` that solve() is handed: blocks of kLawBlock tokens in order, four running sums in each.
template <uint32_t kNeeds>
class TokenSum {
 public:
  explicit TokenSum(const Tokens& tokens) : tokens_(tokens) {}

  template <typename F>
  auto operator()(F f) const {
    if constexpr (std::is_invocable_v<F, float, float>) {
      return Add([&](int32_t v) { return f(tokens_.q[v], tokens_.p[v]); });
    } else {
      return Add([&](int32_t v) { return f(tokens_.template at<kNeeds>(v)); });
    }
  }
  float KthLargestP1(int32_t k) const { return KthLargest(tokens_.p1, tokens_.n, k, tokens_.spare); }

 private:
  static constexpr int kLanes = 16;

  template <typename G>
  auto Add(G g) const {
    if constexpr (std::is_arithmetic_v<decltype(g(0))>) {
      return Add([&](int32_t v) { return Terms<1>{{g(v)}}; })[0];
    } else {
      return AddTerms(g, g(0));
    }
  }

  // The inner loops' lengths are constants, so that the compiler turns them into vector code.
  template <typename G, int N>
  Sums<N> AddTerms(G g, Terms<N>) const {
    Sums<N> total;
    for (int32_t begin = 0; begin < tokens_.n; begin += kLawBlock) {
      const int32_t end = std::min(tokens_.n, begin + kLawBlock);
      double lane[N][kLanes] = {};
      for (int32_t v = begin; v < end; v += kLanes) {
        float term[N][kLanes] = {};
        auto fill = [&](int j) {
          const Terms<N> terms = g(v + j);
          for (int i = 0; i < N; ++i) term[i][j] = terms.value[i];
        };
        if (v + kLanes <= end) {
          for (int j = 0; j < kLanes; ++j) fill(j);
        } else {
          for (int j = 0; v + j < end; ++j) fill(j);
        }
        for (int i = 0; i < N; ++i) {
          for (int j = 0; j < kLanes; ++j) lane[i][j] += term[i][j];
        }
      }
      for (int i = 0; i < N; ++i) {
        for (int half = kLanes / 2; half > 0; half /= 2) {
          for (int j = 0; j < half; ++j) lane[i][j] += lane[i][j + half];
        }
        total.value[i] += lane[i][0];
      }
    }
    return total;
  }

  const Tokens& tokens_;
};

inline constexpr size_t kMaxDerived = 64;

// What solve() found at a position, and the mass that a token-wise rule takes from the draft: q(not kept).
struct Solved {
  alignas(16) std::byte derived[kMaxDerived];
  double rest = 0;
};

// A rule as the judge calls it. `params` are the struct's members. Null where the rule has no such part.
struct RuleEntry {
  const RuleInfo* info = nullptr;
  Kind kind = Kind::kLaw;

  float (*chance)(const float* params, const Row& row) = nullptr;
  void (*solve)(const float* params, const Row& row, const Tokens& tokens, Solved* solved) = nullptr;
  void (*rest)(const float* params, const Row& row, const Tokens& tokens, Solved* solved) = nullptr;
  bool (*defers)(const float* params, const Row& row, const Solved& solved) = nullptr;
  // Kind A: pi(x). Kind B: the probability that x stays.
  float (*value)(const float* params, const Row& row, const Solved& solved) = nullptr;
  // out[v - begin] = max(0, factor * pi(v) - q(v)), or the fallback of kinds B and C. False: a value is no
  // probability.
  bool (*weights)(const float* params, const Row& row, const Solved& solved, const Tokens& tokens,
                  int32_t begin, int32_t end, double factor, float* out) = nullptr;
  void (*chances)(const float* params, const Row* rows, int n, float* out) = nullptr;
  int (*keep)(const float* params, const Row* rows, int n, const bool* heads) = nullptr;
  float (*draft_stop)(const float* params) = nullptr;
  ImpliedSplit (*implied)(const float* params, const PositionLaws& laws) = nullptr;
  // Launches the judge's kernels of this rule; null in a build without CUDA, and for a rule that is not built in.
  void (*judge_cuda)(const JudgeArgs& args, CudaStream stream) = nullptr;
  // Likewise the deferral test's, of a draft_only rule.
  void (*defer_cuda)(const DeferArgs& args, CudaStream stream) = nullptr;
};

namespace internal {

template <typename R>
TANDEM_HD R MakeRule(const float* params) {
  R rule{};
  if constexpr (R::kInfo.n_params() > 0) {
    static_assert(sizeof(R) == R::kInfo.n_params() * sizeof(float),
                  "one float member for every parameter, no others");
    std::memcpy(&rule, params, sizeof(R));
  }
  return rule;
}

// f(leading..., d) if R has a Derived, else f(leading...).
template <typename R, typename F, typename... Args>
TANDEM_HD auto WithDerived(const Solved& solved, F f, const Args&... args) {
  if constexpr (HasDerived<R>) {
    typename R::Derived derived;
    std::memcpy(&derived, solved.derived, sizeof(derived));
    return f(args..., derived);
  } else {
    return f(args...);
  }
}

template <typename R>
struct Bound {
  using Sum = TokenSum<R::kInfo.needs>;

  static float Chance(const float* params, const Row& row) { return MakeRule<R>(params).chance(row); }

  static void Solve(const float* params, const Row& row, const Tokens& tokens, Solved* solved) {
    static_assert(std::is_trivially_copyable_v<typename R::Derived> &&
                  sizeof(typename R::Derived) <= kMaxDerived);
    const typename R::Derived derived = MakeRule<R>(params).solve(row, Sum(tokens));
    std::memcpy(solved->derived, &derived, sizeof(derived));
  }

  TANDEM_HD static bool Keeps(const R& rule, const Token& token, const Row& row, const Solved& solved) {
    return WithDerived<R>(
        solved, [&](const auto&... args) { return rule.keeps(args...); }, token, row);
  }
  TANDEM_HD static Token Proposed(const Row& row) { return {row.x, row.q.x, row.p.x, row.q1.x, row.p1.x}; }

  static void Rest(const float* params, const Row& row, const Tokens& tokens, Solved* solved) {
    const R rule = MakeRule<R>(params);
    solved->rest =
        Sum(tokens)([&](const Token& token) { return Keeps(rule, token, row, *solved) ? 0.f : token.q; });
  }

  TANDEM_HD static bool Defers(const float* params, const Row& row, const Solved& solved) {
    const R rule = MakeRule<R>(params);
    if constexpr (requires { rule.defers(row); }) {
      return rule.defers(row);
    } else {
      return !Keeps(rule, Proposed(row), row, solved);
    }
  }

  TANDEM_HD static float Pi(const R& rule, const Token& token, const Row& row, const Solved& solved) {
    if constexpr (TokenWiseRule<R>) {
      const float kept = Keeps(rule, token, row, solved) ? token.q : 0;
      return kept + static_cast<float>(solved.rest) * token.p;
    } else {
      return WithDerived<R>(
          solved, [&](const auto&... args) { return rule.law(token.q, token.p, args...); }, row);
    }
  }

  TANDEM_HD static float Value(const float* params, const Row& row, const Solved& solved) {
    const R rule = MakeRule<R>(params);
    if constexpr (TestRule<R>) {
      return WithDerived<R>(
          solved, [&](const auto&... args) { return rule.accept(args...); }, row);
    } else {
      return Pi(rule, Proposed(row), row, solved);
    }
  }

  // A token's weight as a replacement of the proposed one; bad: no probability, 0 or 1.
  struct Weight {
    float value;
    int bad;
  };
  TANDEM_HD static Weight WeightOf(const R& rule, const Token& token, const Row& row, const Solved& solved,
                                   float scale) {
    if constexpr (LawRule<R> || TokenWiseRule<R>) {
      const float pi = Pi(rule, token, row, solved);
      const float weight = scale * pi - token.q;
      // 2: room for rounding, not for infinity
      return {weight > 0 ? weight : 0, static_cast<int>(!(pi >= 0)) | static_cast<int>(!(pi < 2))};
    } else {
      const float weight = WithDerived<R>(
          solved, [&](const auto&... args) { return rule.fallback(args...); }, token, row);
      return {weight, static_cast<int>(!(weight >= 0)) | static_cast<int>(!(weight < 1e30f))};
    }
  }

  static bool Weights(const float* params, const Row& row_in, const Solved& solved_in,
                      const Tokens& tokens_in, int32_t begin, int32_t end, double factor,
                      float* __restrict out) {
    const R rule = MakeRule<R>(params);
    // Copies: nothing that is written can be one of them.
    const Row row = row_in;
    const Solved solved = solved_in;
    const Tokens tokens = tokens_in;
    const float scale = static_cast<float>(factor);
    auto one = [&](int32_t v) {
      const Weight weight = WeightOf(rule, tokens.at<R::kInfo.needs>(v), row, solved, scale);
      out[v - begin] = weight.value;
      return weight.bad;
    };
    constexpr int kLanes = 16;  // as in TokenSum
    int bad[kLanes] = {};
    int32_t v = begin;
    for (; v + kLanes <= end; v += kLanes) {
      for (int j = 0; j < kLanes; ++j) bad[j] |= one(v + j);
    }
    for (; v < end; ++v) bad[0] |= one(v);
    return std::all_of(bad, bad + kLanes, [](int b) { return b == 0; });
  }

  static void Chances(const float* params, const Row* rows, int n, float* out) {
    MakeRule<R>(params).chances(rows, n, out);
  }
  static int Keep(const float* params, const Row* rows, int n, const bool* heads) {
    return MakeRule<R>(params).keep(rows, n, heads);
  }
  static float DraftStop(const float* params) { return MakeRule<R>(params).draft_stop(); }
  static ImpliedSplit Implied(const float* params, const PositionLaws& laws) {
    return tandem::Implied(MakeRule<R>(params), laws);
  }
};

}  // namespace internal

template <Rule R>
constexpr RuleEntry MakeRuleEntry() {
  using B = internal::Bound<R>;
  static_assert(!R::kInfo.draft_only || (LawRule<R> &&
                                         requires(const R& rule, const Row& row) {
                                           { rule.defers(row) } -> std::same_as<bool>;
                                         }),
                "a rule that is draft_only says defers(row), and its law is p there and q elsewhere");
  static_assert(!R::kInfo.either || (LawRule<R> && !HasDerived<R>),
                "`either` is for kind A, without Derived");
  RuleEntry entry;
  entry.info = &R::kInfo;
  entry.kind = LawRule<R>         ? Kind::kLaw
               : TokenWiseRule<R> ? Kind::kTokenWise
               : TestRule<R>      ? Kind::kTest
                                  : Kind::kBlock;
  entry.weights = &B::Weights;
  if constexpr (BlockRule<R>) {
    entry.chances = &B::Chances;
    entry.keep = &B::Keep;
  } else {
    entry.value = &B::Value;
    entry.implied = &B::Implied;
  }
  if constexpr (TokenWiseRule<R>) entry.rest = &B::Rest;
  if constexpr (HasDerived<R>) entry.solve = &B::Solve;
  if constexpr (TokenWiseRule<R> || requires(const R& rule, const Row& row) { rule.defers(row); }) {
    entry.defers = &B::Defers;
  }
  if constexpr (requires(const R& rule, const Row& row) { rule.chance(row); }) {
    entry.chance = &B::Chance;
  }
  if constexpr (requires(const R& rule) { rule.draft_stop(); }) entry.draft_stop = &B::DraftStop;
  return entry;
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_BIND_H_
