// The law of every rule that has a closed form, written from the papers' definitions and apart from the
// rules: in double, as whole distributions.
#ifndef TANDEM_TESTS_POLICIES_FORMULAS_H_
#define TANDEM_TESTS_POLICIES_FORMULAS_H_

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "policies/implied.h"

namespace tandem {

using Probs = std::vector<double>;
using Params = std::map<std::string, double>;

inline double Max(const Probs& p) { return *std::max_element(p.begin(), p.end()); }
inline int ArgMax(const Probs& p) {
  return static_cast<int>(std::max_element(p.begin(), p.end()) - p.begin());
}
inline double Tv(const Probs& a, const Probs& b) {
  double sum = 0;
  for (size_t v = 0; v < a.size(); ++v) sum += std::abs(a[v] - b[v]) / 2;
  return sum;
}
inline double Kl(const Probs& a, const Probs& b) {
  double sum = 0;
  for (size_t v = 0; v < a.size(); ++v) sum += a[v] > 0 ? a[v] * std::log(a[v] / b[v]) : 0;
  return sum;
}
inline Probs Norm(Probs f) {
  const double total = std::accumulate(f.begin(), f.end(), 0.0);
  for (double& x : f) x /= total;
  return f;
}
inline Probs Mixture(const Probs& q, const Probs& p, bool defer) { return defer ? p : q; }
// pi = q on the allowed tokens, and what q has elsewhere is handed out by p.
inline Probs TokenLaw(const Probs& q, const Probs& p, const std::function<bool(size_t)>& allowed) {
  Probs pi(q.size());
  double eta = 1;
  for (size_t v = 0; v < q.size(); ++v) eta -= allowed(v) ? q[v] : 0;
  for (size_t v = 0; v < q.size(); ++v) pi[v] = (allowed(v) ? q[v] : 0) + eta * p[v];
  return pi;
}
// Accept-test rules: x with probability accept(x), else a token of replace(x), a law.
inline Probs TestLaw(const Probs& q, const std::function<double(size_t)>& accept,
                     const std::function<Probs(size_t)>& replace) {
  Probs pi(q.size(), 0);
  for (size_t x = 0; x < q.size(); ++x) {
    if (q[x] == 0) continue;
    const double a = accept(x);
    pi[x] += q[x] * a;
    if (a >= 1) continue;
    const Probs f = replace(x);
    for (size_t v = 0; v < q.size(); ++v) pi[v] += q[x] * (1 - a) * f[v];
  }
  return pi;
}
inline Probs Without(Probs p, size_t x) {
  p[x] = 0;
  return Norm(p);
}
inline Probs OneHot(size_t n, size_t at) {
  Probs p(n, 0);
  p[at] = 1;
  return p;
}
inline Probs PositivePart(const Probs& p, const Probs& q) {
  Probs f(p.size());
  for (size_t v = 0; v < p.size(); ++v) f[v] = std::max(0.0, p[v] - q[v]);
  return Norm(f);
}

inline Probs Clamped(const Probs& q, const Probs& p, double alpha, double beta) {
  Probs pi(q.size());
  for (size_t v = 0; v < q.size(); ++v) pi[v] = std::max(std::min(q[v], p[v] / alpha), p[v] / beta);
  return pi;
}
// The beta at which Clamped is a law, by bisection over 1 / beta.
inline double Beta(const Probs& q, const Probs& p, double alpha) {
  double low = 0, high = 1;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    const Probs pi = Clamped(q, p, alpha, 1 / middle);
    (std::accumulate(pi.begin(), pi.end(), 0.0) > 1 ? high : low) = middle;
  }
  return 2 / (low + high);
}

// mentored's law: the clamped law whose KL(p || pi) is the budget, by bisection over log(1 / alpha) up to 16.
struct Mentored {
  Probs pi;
  double alpha = 1, beta = 1;
};
inline Mentored MentoredLaw(const Probs& q, const Probs& p, double budget) {
  if (Kl(p, q) <= budget) return {q};
  double low = 0, high = 16;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2, alpha = std::exp(-middle);
    (Kl(p, Clamped(q, p, alpha, Beta(q, p, alpha))) > budget ? high : low) = middle;
  }
  const double alpha = std::exp(-low), beta = Beta(q, p, alpha);
  return {Clamped(q, p, alpha, beta), alpha, beta};
}

using Formula = std::function<Probs(const PositionLaws&, Params)>;
inline std::map<std::string, Formula> Formulas() {
  std::map<std::string, Formula> f;
  f["lossless"] = [](const PositionLaws& l, Params) { return l.p; };
  f["sample_match"] = f["lossless"];
  f["greedy"] = [](const PositionLaws& l, Params) { return OneHot(l.p.size(), ArgMax(l.p1)); };
  f["chow"] = [](const PositionLaws& l, Params a) { return Mixture(l.q, l.p, Max(l.q1) < 1 - a["alpha"]); };
  f["entropy"] = [](const PositionLaws& l, Params a) {
    double entropy = 0;
    for (double q : l.q1) entropy -= q > 0 ? q * std::log(q) : 0;
    return Mixture(l.q, l.p, entropy > a["alpha"]);
  };
  f["diff"] = [](const PositionLaws& l, Params a) {
    return Mixture(l.q, l.p, Max(l.q1) < Max(l.p1) - a["alpha"]);
  };
  f["opt"] = [](const PositionLaws& l, Params a) {
    return Mixture(l.q, l.p, Max(l.q1) < Max(l.p1) - a["alpha"] * Tv(l.q, l.p));
  };
  f["token_v1"] = [](const PositionLaws& l, Params a) {
    return TokenLaw(l.q, l.p, [&](size_t v) { return l.q1[v] >= Max(l.p1) - a["alpha"]; });
  };
  f["token_v2"] = [](const PositionLaws& l, Params a) {
    return TokenLaw(l.q, l.p, [&](size_t v) { return l.p1[v] >= Max(l.p1) - a["alpha"]; });
  };
  f["token_v3"] = [](const PositionLaws& l, Params a) {
    return TokenLaw(l.q, l.p, [&](size_t v) { return l.p1[v] >= (1 - a["alpha"]) * Max(l.p1); });
  };
  f["top_k"] = [](const PositionLaws& l, Params a) {
    return TokenLaw(l.q, l.p, [&](size_t v) {
      const auto better = std::count_if(l.p1.begin(), l.p1.end(), [&](double p) { return p > l.p1[v]; });
      return better < a["k"];
    });
  };
  f["ensemble"] = [](const PositionLaws& l, Params a) {
    const double w = a["weight"];
    if (l.greedy) {
      const int x = ArgMax(l.q1), y = ArgMax(l.p1);
      return OneHot(l.p.size(), w * l.p1[x] + (1 - w) * l.q1[x] > w * l.p1[y] + (1 - w) * l.q1[y] ? x : y);
    }
    Probs pi(l.q.size());
    for (size_t v = 0; v < pi.size(); ++v) pi[v] = w * l.p[v] + (1 - w) * l.q[v];
    return pi;
  };
  f["lossy_sd"] = [](const PositionLaws& l, Params a) {
    return Clamped(l.q, l.p, 1 - a["alpha"], Beta(l.q, l.p, 1 - a["alpha"]));
  };
  f["lenience"] = [](const PositionLaws& l, Params a) {
    const double lenience = a["lenience"];
    return TestLaw(
        l.q,
        [&](size_t x) {
          if (l.greedy) return l.p1[x] >= lenience * Max(l.p1) ? 1.0 : 0.0;
          return std::min(1.0, l.p[x] / (lenience * l.q[x]));
        },
        [&](size_t) { return PositivePart(l.p, l.q); });
  };
  f["typical"] = [](const PositionLaws& l, Params a) {
    double entropy = 0;
    for (double p : l.p) entropy -= p > 0 ? p * std::log(p) : 0;
    const double threshold = std::min(a["eps"], a["delta"] * std::exp(-entropy));
    return TestLaw(
        l.q, [&](size_t x) { return (l.greedy ? l.p[x] == 1 : l.p[x] > threshold) ? 1.0 : 0.0; },
        [&](size_t) { return l.p; });
  };
  f["bild"] = [](const PositionLaws& l, Params a) {
    return TestLaw(
        l.q,
        [&](size_t x) {
          if (Max(l.q1) < a["fallback"]) return 0.0;  // handed over
          const bool likeliest = static_cast<int>(x) == ArgMax(l.p1);
          return !likeliest && -std::log(l.p1[x]) > a["rollback"] ? 0.0 : 1.0;
        },
        [&](size_t) { return l.p; });
  };
  f["threshold_single_acc"] = [](const PositionLaws& l, Params a) {
    return TestLaw(
        l.q,
        [&](size_t x) {
          if (l.greedy) return l.p[x];
          return l.p[x] >= a["single"] ? 1.0 : std::min(1.0, l.p[x] / a["acc"]);
        },
        [&](size_t x) { return Without(l.p, x); });
  };
  return f;
}

}  // namespace tandem

#endif  // TANDEM_TESTS_POLICIES_FORMULAS_H_
