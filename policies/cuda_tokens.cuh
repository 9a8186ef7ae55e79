// What a rule sees of the whole vocabulary at one position, on a CUDA device: its tokens, sums over them, entropies of its
// laws. By all threads of a team (kernels/law/row_team.cuh).
#ifndef TANDEM_POLICIES_CUDA_TOKENS_CUH_
#define TANDEM_POLICIES_CUDA_TOKENS_CUH_

#include <type_traits>

#include "kernels/law/law.cuh"
#include "kernels/law/row_team.cuh"
#include "policies/rule.h"

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

}  // namespace tandem

#endif  // TANDEM_POLICIES_CUDA_TOKENS_CUH_
