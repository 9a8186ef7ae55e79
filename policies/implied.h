// ImpliedLaw: the law pi that a rule claims to sample from at one position, in double and from its definition
// (rule.h): plain loops that share nothing with the judge but the rule's own functions. `rules check` and the
// tests compare the judge with it.
#ifndef TANDEM_POLICIES_IMPLIED_H_
#define TANDEM_POLICIES_IMPLIED_H_

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "policies/rule.h"

namespace tandem {

// The laws of one position; all of one size. At T = 0, q and p are one-hot; without a draft law, q and q1 are
// one-hot at the proposed token.
struct PositionLaws {
  std::vector<double> q, p, q1, p1;
  bool greedy = false;
  bool has_draft_law = true;
  bool is_bonus = false;
  int32_t position = 0;
  int32_t n_proposed = 1;
};

namespace internal {

inline LawFigures ReferenceFigures(const std::vector<double>& law) {
  LawFigures figures;
  const auto max = std::max_element(law.begin(), law.end());
  figures.max = static_cast<float>(*max);
  figures.argmax = static_cast<int32_t>(max - law.begin());
  double entropy = 0;
  for (double p : law) entropy -= p > 0 ? p * std::log(p) : 0;
  figures.entropy = static_cast<float>(entropy);
  return figures;
}

// Without a proposed token.
inline Row ReferenceRow(const PositionLaws& laws) {
  Row row;
  row.q = ReferenceFigures(laws.q);
  row.p = ReferenceFigures(laws.p);
  row.q1 = ReferenceFigures(laws.q1);
  row.p1 = ReferenceFigures(laws.p1);
  row.q1_at_top_of_p = static_cast<float>(laws.q1[row.p1.argmax]);
  row.p1_at_top_of_q = static_cast<float>(laws.p1[row.q1.argmax]);
  double tv = 0;
  for (size_t v = 0; v < laws.q.size(); ++v) tv += std::max(0.0, laws.q[v] - laws.p[v]);
  row.tv = static_cast<float>(tv);
  row.position = laws.position;
  row.n_proposed = laws.n_proposed;
  row.is_bonus = laws.is_bonus;
  row.has_draft_law = laws.has_draft_law;
  row.greedy = laws.greedy;
  return row;
}

// `row` with x as the proposed token.
inline Row WithProposed(Row row, const PositionLaws& laws, int32_t x) {
  row.x = x;
  row.q.x = static_cast<float>(laws.q[x]);
  row.p.x = static_cast<float>(laws.p[x]);
  row.q1.x = static_cast<float>(laws.q1[x]);
  row.p1.x = static_cast<float>(laws.p1[x]);
  return row;
}

inline Token ReferenceToken(const PositionLaws& laws, int32_t v) {
  return {v, static_cast<float>(laws.q[v]), static_cast<float>(laws.p[v]), static_cast<float>(laws.q1[v]),
          static_cast<float>(laws.p1[v])};
}

class ReferenceSum {
 public:
  explicit ReferenceSum(const PositionLaws& laws) : laws_(laws) {}

  template <typename F>
  auto operator()(F f) const {
    auto term = [&](int32_t v) {
      const Token token = ReferenceToken(laws_, v);
      if constexpr (std::is_invocable_v<F, float, float>) {
        return f(token.q, token.p);
      } else {
        return f(token);
      }
    };
    if constexpr (std::is_arithmetic_v<decltype(term(0))>) {
      double total = 0;
      for (size_t v = 0; v < laws_.q.size(); ++v) total += term(static_cast<int32_t>(v));
      return total;
    } else {
      return AddTerms(term, term(0));
    }
  }
  float KthLargestP1(int32_t k) const {
    std::vector<double> sorted = laws_.p1;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    return static_cast<float>(sorted[std::min<size_t>(k, sorted.size()) - 1]);
  }

 private:
  template <typename G, int N>
  Sums<N> AddTerms(G term, Terms<N>) const {
    Sums<N> total;
    for (size_t v = 0; v < laws_.q.size(); ++v) {
      const Terms<N> one = term(static_cast<int32_t>(v));
      for (int i = 0; i < N; ++i) total.value[i] += one.value[i];
    }
    return total;
  }

  const PositionLaws& laws_;
};

}  // namespace internal

// pi(v) in two parts: v was proposed and stays, or v replaces what was proposed. They tell where a round ends.
struct ImpliedSplit {
  std::vector<double> stays, replaced;

  std::vector<double> law() const {
    std::vector<double> pi = stays;
    for (size_t v = 0; v < pi.size(); ++v) pi[v] += replaced[v];
    return pi;
  }
};

template <typename R>
ImpliedSplit Implied(const R& rule, const PositionLaws& laws) {
  const auto n = static_cast<int32_t>(laws.q.size());
  std::vector<double> pi(n, 0);
  ImpliedSplit split{std::vector<double>(n, 0), std::vector<double>(n, 0)};
  // What solve() finds, as arguments: none if the rule has no solve().
  auto derive = [&](const Row& row) {
    if constexpr (HasDerived<R>) {
      return std::make_tuple(rule.solve(row, internal::ReferenceSum(laws)));
    } else {
      return std::make_tuple();
    }
  };
  const Row row = internal::ReferenceRow(laws);
  if constexpr (LawRule<R>) {
    const auto derived = derive(row);
    for (int32_t v = 0; v < n; ++v) {
      const Token token = internal::ReferenceToken(laws, v);
      pi[v] = std::apply([&](const auto&... d) { return rule.law(token.q, token.p, row, d...); }, derived);
    }
  } else if constexpr (TokenWiseRule<R>) {
    const auto derived = derive(row);
    double kept_mass = 0;
    for (int32_t v = 0; v < n; ++v) {
      const Token token = internal::ReferenceToken(laws, v);
      if (std::apply([&](const auto&... d) { return rule.keeps(token, row, d...); }, derived)) {
        pi[v] = laws.q[v];
        kept_mass += laws.q[v];
      }
    }
    for (int32_t v = 0; v < n; ++v) pi[v] += (1 - kept_mass) * laws.p[v];
  } else {
    std::vector<double> fallback(n);
    for (int32_t x = 0; x < n; ++x) {
      if (laws.q[x] == 0) continue;
      const Row proposed = internal::WithProposed(row, laws, x);
      const auto derived = derive(proposed);
      double accept = std::apply([&](const auto&... d) { return rule.accept(proposed, d...); }, derived);
      accept = std::min(1.0, accept);
      double total = 0;
      for (int32_t v = 0; v < n && accept < 1; ++v) {
        const Token token = internal::ReferenceToken(laws, v);
        fallback[v] =
            std::apply([&](const auto&... d) { return rule.fallback(token, proposed, d...); }, derived);
        total += fallback[v];
      }
      if (total == 0) accept = 1;  // nothing to replace x with: it stays
      split.stays[x] += laws.q[x] * accept;
      for (int32_t v = 0; v < n && accept < 1; ++v)
        split.replaced[v] += laws.q[x] * (1 - accept) * fallback[v] / total;
    }
    return split;
  }
  for (int32_t v = 0; v < n; ++v) {
    split.stays[v] = std::min(laws.q[v], pi[v]);
    split.replaced[v] = pi[v] - split.stays[v];
  }
  return split;
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_IMPLIED_H_
