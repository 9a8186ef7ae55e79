// CheckRule: the exact law of the first tokens that the engine emits under a rule, against the law that the rule
// claims. No sampling: every outcome of every random number is swept (runtime/enumerate.h) through the real engine,
// with real caches and the structure of the real random keys, on two models whose laws depend on the whole prefix
// (HashChainModel) over a vocabulary of two or three tokens. A batch holds many runs at a time, each with numbers of its
// own, so an outcome is also one that no neighbour in the batch changes.
//
// The claim, for the law of the first n tokens x_1 .. x_n:
//   exact rules, every rule with bonus pi,
//   and token cascades                          the product of p(x_i | x_<i), or of pi(x_i | x_<i)
//   others                                      the same with p in place of pi wherever a fully kept block ends, which
//                                               makes the law depend on where blocks begin: a sum over the ways in
//                                               which rounds can cover the tokens
// It is computed in double from the models' logits and the rule's definition (policies/implied.h), with no engine.
#ifndef TANDEM_RUNTIME_RULES_CHECK_H_
#define TANDEM_RUNTIME_RULES_CHECK_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "runtime/engine.h"
#include "runtime/enumerate.h"

namespace tandem {

inline constexpr double kLawTolerance = 1e-6;

struct LawCheck {
  PolicyOptions policy;
  int32_t gamma = 1;
  int32_t n_vocab = 3;
  int32_t n_tokens = 3;  // of the law; more than one round is needed for them in most outcomes
  Sampling sampling = {.temperature = 0.7f};
  uint64_t salt = 1;                     // of the models
  std::vector<int32_t> prompt = {0, 1};  // another one makes other laws, as another salt does
  bool token_cascade =
      false;              // no speculation: the draft writes where the rule, a draft_only one, does not defer
  int32_t n_at_once = 1;  // runs of a batch
  Device device;
  bool through_table = false;  // on the CPU, too, hand the steps their numbers in tables
  // For tests: a rule that is not built in, and a wrong way to key random numbers.
  const RuleEntry* rule = nullptr;
  std::function<UniformKey(const UniformKey&)> rekey;
};

struct LawCheckResult {
  std::vector<double>
      law;  // of the first tokens: n_vocab ^ n_tokens probabilities, the last token's id fastest
  double largest_difference = 0;  // between a probability in the law and in the claim
  double tv_to_target = 0;        // between the law and the product of p
  double total = 0;               // of the law; 1 up to rounding
  int64_t n_runs = 0;             // outcomes swept

  bool ok() const { return largest_difference < kLawTolerance; }
};

absl::StatusOr<LawCheckResult> CheckLaw(const LawCheck& check);

// The checks of one rule at one setting of its parameters: gamma 1 to 4, greedy and sampled, token and (where the rule
// is a law) block verification, bonus p and pi, through the engine on `device`; of a draft_only rule the token cascade
// too.
struct RuleCheckLine {
  LawCheck check;
  LawCheckResult result;
};
absl::Status CheckRule(const std::string& rule, const std::map<std::string, double>& params, Device device,
                       const std::function<void(const RuleCheckLine&)>& line);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_RULES_CHECK_H_
