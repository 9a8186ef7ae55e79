#include "runtime/cascade/cascade_config.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "policies/registry.h"
#include "runtime/config_keys.h"
#include "runtime/names.h"

namespace tandem {
namespace {

class Checker {
 public:
  Checker(const Config& config, std::vector<Complaint>* complaints)
      : config_(config), cascade_(config.cascade), complaints_(complaints) {}

  void Run() {
    if (cascade_.mode == "none") {
      // `mode: none`, written, turns a cascade off and lets the rest of it stand.
      if (Written("cascade.mode") == nullptr)
        RefuseAll("cascade.", "cascade.mode is missing; expected token or query");
      return;
    }
    if (config_.draft_kind != DraftKind::kModel) {
      Complain(*Written("cascade.mode"),
               absl::StrCat("cascade.mode: ", cascade_.mode, " needs a draft model, and ",
                            config_.draft_kind == DraftKind::kNgram
                                ? "n-gram lookup has no law and answers nothing"
                                : "there is no draft",
                            "; write draft: {model: FOLDER}"));
    }
    cascade_.is_token() ? CheckToken() : CheckQuery();
  }

 private:
  const Where* Written(const std::string& path) const {
    const auto found = config_.origins.find(path);
    return found == config_.origins.end() ? nullptr : &found->second;
  }
  void Complain(const Where& where, std::string message) {
    complaints_->push_back({where, std::move(message)});
  }
  void Refuse(const std::string& path, const std::string& why) {
    if (const Where* where = Written(path)) Complain(*where, absl::StrCat(path, ": ", why));
  }
  // Every key that is written in this section, a rule's parameters included.
  void RefuseAll(const std::string& section, const std::string& why) {
    for (const ConfigKey& key : ConfigKeys()) {
      if (absl::StartsWith(key.path, section)) Refuse(key.path, why);
    }
    const auto& parameters = section == "rule." ? config_.rule.parameters : cascade_.parameters;
    for (const auto& [name, parameter] : parameters) {
      if (!parameter.where.source.empty()) Complain(parameter.where, absl::StrCat(section, name, ": ", why));
    }
  }

  void CheckToken() {
    RefuseAll("rule.",
              "a token cascade judges no block; its rule is cascade.rule. Remove rule (--set 'rule={}')");
    const std::string why =
        "a token cascade does not speculate; remove speculation (--set 'speculation={}'), or cascade";
    if (config_.speculation.gamma != 0) Refuse("speculation.gamma", why);
    Refuse("speculation.schedule", why);
    Refuse("speculation.draft_confidence_min", why);
    for (const char* path : {"cascade.score", "cascade.quantile", "cascade.threshold"})
      Refuse(path, "belongs to cascade.mode query; mode token defers by cascade.rule. Remove it");
  }

  void CheckQuery() {
    Refuse("cascade.rule",
           "belongs to cascade.mode token; mode query defers by score and threshold. Remove it");
    const std::vector<std::string> names = {"mode", "score", "quantile", "threshold"};
    for (const auto& [name, parameter] : cascade_.parameters) {
      Complain(parameter.where, absl::StrCat("cascade.", name, ": unknown key", Suggestion(name, names)));
    }
    if (Written("cascade.threshold") == nullptr) {
      Complain(
          *Written("cascade.mode"),
          "cascade.threshold: missing; expected the score under which an answer is redone, such as -0.5");
    }
    if (cascade_.score != "quantile")
      Refuse("cascade.quantile", "belongs to cascade.score quantile; write it, or remove the quantile");
    const RuleEntry* rule = FindRule(config_.rule.name);
    if (rule == nullptr || rule->info->guarantee == Guarantee::kExact) return;
    std::vector<std::string> exact;
    for (const RuleEntry& entry : Rules()) {
      if (entry.info->guarantee == Guarantee::kExact) exact.push_back(entry.info->name);
    }
    Refuse("rule.name", absl::StrCat(config_.rule.name, " is ", Name(rule->info->guarantee),
                                     ", and a query cascade redoes answers as the target's own; use ",
                                     absl::StrJoin(exact, " or ")));
  }

  const Config& config_;
  const CascadeConfig& cascade_;
  std::vector<Complaint>* complaints_;
};

AnswerScore ScoreNamed(const std::string& name) {
  return name == "sum" ? AnswerScore::kSum : name == "quantile" ? AnswerScore::kQuantile : AnswerScore::kMean;
}

}  // namespace

void CheckCascadeConfig(const Config& config, std::vector<Complaint>* complaints) {
  Checker(config, complaints).Run();
}

QueryCascadeOptions MakeQueryCascadeOptions(const CascadeConfig& config) {
  return {ScoreNamed(config.score), config.quantile, config.threshold};
}

std::string DescribeCascade(const Config& config) {
  const CascadeConfig& cascade = config.cascade;
  if (cascade.is_token()) return "token by token: the target writes where the draft defers; no speculation";
  if (!cascade.is_query()) return "";
  const std::string score = cascade.score == "quantile"
                                ? absl::StrCat(ShortestNumber(cascade.quantile), " quantile")
                                : cascade.score;
  return absl::StrCat("whole answers: the target redoes those whose log-probabilities have a ", score,
                      " under ", ShortestNumber(cascade.threshold));
}

}  // namespace tandem
