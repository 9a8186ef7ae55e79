// Policy: a rule with its parameters, the way blocks are verified and where the bonus token comes from. The
// engine owns one; it records the judge step and owns that step's buffers, and outlives the programs that
// hold it.
//
// Made and recorded by one thread, const afterwards.
#ifndef TANDEM_POLICIES_POLICY_H_
#define TANDEM_POLICIES_POLICY_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policies/defer.h"
#include "policies/judge.h"
#include "runtime/core/buffer.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/status.h"

namespace tandem {

struct PolicyOptions {
  std::string rule = "lossless";
  std::map<std::string, double> params;  // what is not named has its default
  Verification verification = Verification::kToken;
  Bonus bonus = Bonus::kP;
};

class Policy {
 public:
  // `draft_has_law`: false for a drafter whose proposals are point masses. Errors: kInvalidArgument, naming
  // the nearest valid rule or parameter, the range, or what cannot be combined and the cure.
  static absl::StatusOr<std::unique_ptr<Policy>> Create(const PolicyOptions& options, bool draft_has_law);
  // The same for a rule that is not built in; options.rule is ignored.
  static absl::StatusOr<std::unique_ptr<Policy>> Create(const RuleEntry& entry, const PolicyOptions& options,
                                                        bool draft_has_law);

  // Appends the judge step, with buffers on the batch's device that all programs share: verdicts are of one round. REQUIRES:
  // proposal.has_bonus_law if needs_bonus_law().
  Verdicts judge(Program& round, const Batch& batch, const Proposal& proposal, const Scores& scores);

  const RuleInfo& info() const { return *entry_.info; }
  Kind kind() const { return entry_.kind; }
  const PolicyOptions& options() const { return options_; }
  // What it guarantees of sampled or of greedy output: kExact or kLossy.
  Guarantee guarantee(bool greedy) const;
  bool needs_draft_law() const { return (entry_.info->needs & Needs::kDraftLaw) != 0; }
  // q of the position after the last proposed token is wanted. An exact rule's pi is p, which needs none.
  bool needs_bonus_law() const;
  // Drafting should stop after a token whose q (q1 at T = 0) is under this: for SeqState::confidence_min.
  std::optional<float> draft_stop() const;

  // The rule's test by itself, for a token-level cascade. REQUIRES: info().draft_only.
  DeferralTest deferral_test() const;

  // The law that the rule claims at one position (policies/implied.h). REQUIRES: kind() != kBlock.
  ImpliedSplit Split(const PositionLaws& laws) const;
  std::vector<double> ImpliedLaw(const PositionLaws& laws) const { return Split(laws).law(); }

 private:
  Policy(const RuleEntry& entry, const PolicyOptions& options) : entry_(entry), options_(options) {}
  absl::Status SetParams();
  absl::Status CheckCombination(bool draft_has_law) const;

  RuleEntry entry_;
  PolicyOptions options_;
  float params_[kMaxParams] = {};
  Arena arena_;
};

const char* Name(Guarantee guarantee);        // "exact", "exact at T = 0", "lossy"
const char* Name(Kind kind);                  // "law", "token-wise law", "test", "block rule"
const char* Name(Verification verification);  // "token", "block"
const char* Name(Bonus bonus);                // "p", "pi"

}  // namespace tandem

#endif  // TANDEM_POLICIES_POLICY_H_
