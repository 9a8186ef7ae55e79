#include "policies/policy.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <cmath>

#include "kernels/total_variation/total_variation.h"
#include "policies/registry.h"

namespace tandem {
namespace {

// Edits (insert, delete, replace) that make b of a.
int Distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

std::string Nearest(const std::string& name, const std::vector<std::string>& valid) {
  return *std::min_element(valid.begin(), valid.end(), [&](const std::string& a, const std::string& b) {
    return Distance(name, a) < Distance(name, b);
  });
}

absl::Status UnknownRule(const std::string& name) {
  std::vector<std::string> names;
  for (const RuleEntry& entry : Rules()) names.push_back(entry.info->name);
  return absl::InvalidArgumentError(absl::StrCat("rule: expected the name of a rule, got '", name,
                                                 "'; nearest is '", Nearest(name, names), "', all are ",
                                                 absl::StrJoin(names, ", ")));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Policy>> Policy::Create(const PolicyOptions& options, bool draft_has_law) {
  const RuleEntry* entry = FindRule(options.rule);
  if (entry == nullptr) return UnknownRule(options.rule);
  return Create(*entry, options, draft_has_law);
}

absl::StatusOr<std::unique_ptr<Policy>> Policy::Create(const RuleEntry& entry, const PolicyOptions& options,
                                                       bool draft_has_law) {
  std::unique_ptr<Policy> policy(new Policy(entry, options));
  policy->options_.rule = entry.info->name;
  TANDEM_RETURN_IF_ERROR(policy->SetParams());
  TANDEM_RETURN_IF_ERROR(policy->CheckCombination(draft_has_law));
  return policy;
}

absl::Status Policy::SetParams() {
  const RuleInfo& info = *entry_.info;
  std::vector<std::string> names;
  for (int i = 0; i < info.n_params(); ++i) {
    params_[i] = info.params[i].value;
    names.push_back(info.params[i].name);
  }
  for (const auto& [name, value] : options_.params) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rule ", info.name, ": unknown parameter '", name, "'; ",
                       names.empty() ? std::string("it has none")
                                     : absl::StrCat("nearest is '", Nearest(name, names), "', all are ",
                                                    absl::StrJoin(names, ", "))));
    }
    const auto i = found - names.begin();
    const ParamInfo& param = info.params[i];
    // Written so that a NaN is out of range.
    if (!(value >= param.min && value <= param.max)) {
      return absl::InvalidArgumentError(absl::StrCat("rule ", info.name, ": ", name, ": expected ", param.min,
                                                     " to ", param.max, ", got ", value, "; default ",
                                                     param.value));
    }
    if (param.whole && value != std::floor(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("rule ", info.name, ": ", name, ": expected a whole number, got ", value));
    }
    params_[i] = static_cast<float>(value);
  }
  return absl::OkStatus();
}

absl::Status Policy::CheckCombination(bool draft_has_law) const {
  const RuleInfo& info = *entry_.info;
  auto refuse = [&](const auto&... words) {
    return absl::InvalidArgumentError(absl::StrCat("rule ", info.name, ": ", words...));
  };
  if (needs_draft_law() && !draft_has_law) {
    return refuse(
        "needs the draft's law, and this drafter proposes tokens without one; draft with a model, or use "
        "another rule (lossless works with any drafter)");
  }
  const bool is_law = entry_.kind == Kind::kLaw || entry_.kind == Kind::kTokenWise;
  if (options_.verification == Verification::kBlock && !is_law) {
    return refuse("verification: block needs a rule that states a law, and this one is a ", Name(entry_.kind),
                  "; use verification: token");
  }
  if (options_.bonus == Bonus::kPi && entry_.kind == Kind::kBlock) {
    return refuse("bonus: pi is not defined for a block rule; use bonus: p");
  }
  if (needs_bonus_law() && !draft_has_law) {
    return refuse(
        "bonus: pi needs the draft's law, and this drafter proposes tokens without one; use bonus: p");
  }
  return absl::OkStatus();
}

Guarantee Policy::guarantee(bool greedy) const {
  const Guarantee stated = entry_.info->guarantee;
  if (stated == Guarantee::kExactAtZero) return greedy ? Guarantee::kExact : Guarantee::kLossy;
  return stated;
}

bool Policy::needs_bonus_law() const {
  return options_.bonus == Bonus::kPi && entry_.info->guarantee != Guarantee::kExact;
}

std::optional<float> Policy::draft_stop() const {
  if (entry_.draft_stop == nullptr) return std::nullopt;
  return entry_.draft_stop(params_);
}

DeferralTest Policy::deferral_test() const {
  TANDEM_CHECK(entry_.info->draft_only) << entry_.info->name << " does not look at the draft alone";
  DeferralTest test{.rule = &entry_};
  std::copy(params_, params_ + kMaxParams, test.params);
  return test;
}

ImpliedSplit Policy::Split(const PositionLaws& laws) const {
  TANDEM_CHECK(entry_.implied != nullptr) << entry_.info->name << " is a block rule";
  return entry_.implied(params_, laws);
}

Verdicts Policy::judge(Program& round, const Batch& batch, const Proposal& proposal, const Scores& scores) {
  TANDEM_CHECK(!needs_bonus_law() || proposal.has_bonus_law)
      << "bonus: pi needs q after the last proposed token";
  arena_.Place(batch.device);
  arena_.Rewind();
  Verdicts verdicts;
  verdicts.block = scores.block;
  verdicts.n_keep = arena_.New<int32_t>(batch.n_slots);
  verdicts.next = arena_.New<int32_t>(batch.n_slots);
  verdicts.n_judged = arena_.New<int32_t>(batch.n_slots);
  verdicts.deferred = arena_.New<uint8_t>(static_cast<size_t>(batch.n_slots) * scores.block);
  verdicts.fault = arena_.New<Fault>(batch.n_slots);

  JudgeArgs args{};
  const int32_t n_vocab = std::max(scores.law.n_vocab, proposal.has_law ? proposal.law.n_vocab : 0);
  const bool looks_at_tv = (entry_.info->needs & Needs::kTv) != 0;
  const bool replaces_by_p = entry_.info->either && batch.device.is_cuda();
  if (proposal.has_law && (looks_at_tv || replaces_by_p)) {
    const size_t n_blocks = static_cast<size_t>(batch.n_slots) * scores.block * NumLawBlocks(n_vocab);
    auto* blocks = arena_.New<double>(n_blocks);
    auto* residual = replaces_by_p ? arena_.New<double>(n_blocks) : nullptr;
    if (looks_at_tv) args.total_variation = blocks;
    args.residual = residual;
    round.Add(TotalVariationArgs{.n_slots = batch.n_slots,
                                 .states = batch.states,
                                 .proposal = proposal,
                                 .scores = scores,
                                 .out = blocks,
                                 .residual = residual});
  }
  args.rule = &entry_;
  std::copy(params_, params_ + kMaxParams, args.params);
  args.verification = options_.verification;
  args.bonus = needs_bonus_law() ? Bonus::kPi : Bonus::kP;
  args.batch = batch;
  args.proposal = proposal;
  args.scores = scores;
  args.verdicts = verdicts;
  if (batch.device.is_cuda()) {
    args.scratch = arena_.New<JudgedPosition>(static_cast<size_t>(batch.n_slots) * scores.block);
  } else {
    args.scratch_stride = JudgeScratch(n_vocab);
    args.scratch = arena_.New<float>(static_cast<size_t>(batch.n_workers) * args.scratch_stride);
  }
  round.Add(args);
  return verdicts;
}

const char* Name(Guarantee guarantee) {
  switch (guarantee) {
    case Guarantee::kExact:
      return "exact";
    case Guarantee::kExactAtZero:
      return "exact at T = 0";
    case Guarantee::kLossy:
      return "lossy";
  }
  return "";
}

const char* Name(Kind kind) {
  switch (kind) {
    case Kind::kLaw:
      return "law";
    case Kind::kTokenWise:
      return "token-wise law";
    case Kind::kTest:
      return "test";
    case Kind::kBlock:
      return "block rule";
  }
  return "";
}

const char* Name(Verification verification) {
  return verification == Verification::kToken ? "token" : "block";
}
const char* Name(Bonus bonus) { return bonus == Bonus::kP ? "p" : "pi"; }

}  // namespace tandem
