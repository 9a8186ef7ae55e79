#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "policies/registry.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/config_keys.h"
#include "runtime/names.h"
#include "runtime/report.h"
#include "runtime/rules_check.h"
#include "runtime/wrap.h"

namespace tandem {
namespace {

const char* Explained(Guarantee guarantee) {
  switch (guarantee) {
    case Guarantee::kExact:
      return "exact: the output law is the target's";
    case Guarantee::kExactAtZero:
      return "exact at temperature 0: the output is the target's; lossy above";
    case Guarantee::kLossy:
      return "lossy: the output law is the rule's";
  }
  return "";
}

int UnknownRule(const char* command, const std::string& name) {
  std::vector<std::string> names;
  for (const RuleEntry& rule : Rules()) names.push_back(rule.info->name);
  Log(absl::StrCat(command, ": unknown rule ", name, Suggestion(name, names)));
  return kExitUsage;
}

// What `rules check` found: a row for each way to run a rule, a column for each gamma.
class CheckTable {
 public:
  void Begin(const RuleInfo& info, const std::map<std::string, double>& params) {
    std::vector<std::string> settings;
    for (int i = 0; i < info.n_params(); ++i) {
      const auto found = params.find(info.params[i].name);
      const double value = found == params.end() ? info.params[i].value : found->second;
      settings.push_back(
          absl::StrCat(info.params[i].name, "=", ShortestNumber(ShortestDecimal(static_cast<float>(value)))));
    }
    setting_ = absl::StrCat(info.name, settings.empty() ? "" : " ", absl::StrJoin(settings, " "));
    is_exact_ = info.guarantee == Guarantee::kExact;
    rows_.clear();
    n_done_ = 0;
  }

  void Add(const RuleCheckLine& line) {
    const char* sampling = line.check.sampling.greedy() ? "greedy" : "sampled";
    const std::string way = line.check.token_cascade ? absl::StrFormat("%-8s token cascade", sampling)
                                                     : absl::StrFormat("%-8s %-6s bonus %-3s", sampling,
                                                                       Name(line.check.policy.verification),
                                                                       Name(line.check.policy.bonus));
    Row& row = rows_[way];
    row.difference[line.check.gamma] = line.result.largest_difference;
    row.tv = std::max(row.tv, line.result.tv_to_target);
    row.ok = row.ok && line.result.ok();
    // Written so that a NaN counts as the largest.
    if (!(line.result.largest_difference <= largest_)) largest_ = line.result.largest_difference;
    n_runs_ += line.result.n_runs;
    ok_ = ok_ && line.result.ok();
    progress_.Show(setting_, ++n_done_ / 32.0);
  }

  absl::Status PrintSetting() {
    progress_.Hide();
    std::string text = absl::StrFormat("%-34s", setting_);
    for (const auto& [gamma, unused] : rows_.begin()->second.difference) {
      absl::StrAppendFormat(&text, "%10s", absl::StrCat("gamma ", gamma));
    }
    absl::StrAppend(&text, is_exact_ ? "" : "   TV to p", "\n");
    for (const auto& [way, row] : rows_) {
      absl::StrAppendFormat(&text, "  %-32s", way);
      for (const auto& [gamma, unused] : rows_.begin()->second.difference) {
        const auto found = row.difference.find(gamma);  // a token cascade has no gamma
        absl::StrAppend(&text, found == row.difference.end() ? std::string(10, ' ')
                                                             : absl::StrFormat("%10.1e", found->second));
      }
      if (!is_exact_) absl::StrAppendFormat(&text, "%10.4f", row.tv);
      absl::StrAppend(&text, row.ok ? "" : "  FAILED", "\n");
    }
    return Print(text);
  }

  std::string Summary() const {
    return absl::StrFormat(
        "\n%s: the largest difference between a probability and the claimed law is %.1e (limit %.0e)"
        " over %s outcomes\n",
        ok_ ? "ok" : "FAILED", largest_, kLawTolerance, FormatCount(n_runs_));
  }
  bool ok() const { return ok_; }

 private:
  struct Row {
    std::map<int32_t, double> difference;  // by gamma
    double tv = 0;
    bool ok = true;
  };

  std::string setting_;
  bool is_exact_ = false;
  std::map<std::string, Row> rows_;
  int n_done_ = 0;
  double largest_ = 0;
  int64_t n_runs_ = 0;
  bool ok_ = true;
  ProgressBar progress_;
};

}  // namespace

int RunRulesList(const Args&) {
  std::string text = absl::StrFormat("  %-22s%-16s%-16s%s\n", "rule", "kind", "guarantee", "what it does");
  for (const RuleEntry& entry : Rules()) {
    const std::string start =
        absl::StrFormat("  %-22s%-16s%-16s", entry.info->name, Name(entry.kind), Name(entry.info->guarantee));
    absl::StrAppend(&text, start, Wrap(entry.info->about, static_cast<int>(start.size()), 110), "\n");
  }
  return Print(text).ok() ? kExitOk : kExitFailure;
}

int RunRulesInfo(const Args& args) {
  const std::string name = args.operand(0);
  const RuleEntry* entry = FindRule(name);
  if (entry == nullptr) return UnknownRule("rules info", name);
  const RuleInfo& info = *entry->info;
  std::string text = absl::StrCat(info.name, ": ", info.about, "\n\n");
  const auto line = [&](const char* label, const std::string& what) {
    if (!what.empty()) text += Entry(label, what, 16);
  };
  line("guarantee", Explained(info.guarantee));
  line("kind", Name(entry->kind));
  line("tests", info.tests);
  line("fallback", info.fallback);
  line("at T = 0", info.at_zero);
  line("drafter", (info.needs & Needs::kDraftLaw) != 0 ? "needs one with a law: a model"
                                                       : "any: a model, or n-gram lookup");
  line("source", info.source);
  text += "\nparameters:\n";
  for (int i = 0; i < info.n_params(); ++i) {
    const ParamInfo& param = info.params[i];
    text += Entry(param.name,
                  absl::StrCat(param.help, " (a number from ", param.min, " to ", param.max, "; default ",
                               param.value, ")"),
                  16);
  }
  if (info.n_params() == 0) text += "  none\n";
  absl::StrAppend(&text, "\nrule: {name: ", info.name);
  for (int i = 0; i < info.n_params(); ++i) {
    absl::StrAppend(&text, ", ", info.params[i].name, ": ", info.params[i].value);
  }
  text += "}\n";
  return Print(text).ok() ? kExitOk : kExitFailure;
}

int RunRulesCheck(const Args& args) {
  const std::string name = args.operand(0);
  std::vector<const RuleEntry*> rules;
  for (const RuleEntry& rule : Rules()) {
    if (name == "all" || name == rule.info->name) rules.push_back(&rule);
  }
  if (rules.empty()) return UnknownRule("rules check", name);
  const absl::StatusOr<Device> device = ParseDevice(args.Has("--device") ? args.Value("--device") : "cpu");
  if (!device.ok())
    return Fail(absl::InvalidArgumentError(absl::StrCat("--device: ", device.status().message())),
                kExitUsage);
  CheckTable table;
  for (const RuleEntry* rule : rules) {
    for (const std::map<std::string, double>& params : CheckSettings(*rule->info)) {
      table.Begin(*rule->info, params);
      const absl::Status status =
          CheckRule(rule->info->name, params, *device, [&](const RuleCheckLine& line) { table.Add(line); });
      if (!status.ok()) return Fail(status, kExitFailure);
      if (const absl::Status printed = table.PrintSetting(); !printed.ok())
        return Fail(printed, kExitFailure);
    }
  }
  if (const absl::Status printed = Print(table.Summary()); !printed.ok()) return Fail(printed, kExitFailure);
  return table.ok() ? kExitOk : kExitCheck;
}

}  // namespace tandem
