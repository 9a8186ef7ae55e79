#include "runtime/bench_report.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/metrics_help.h"
#include "runtime/version.h"

namespace tandem {
namespace {

constexpr const char* kRoundPhases[] = {"draft", "verify", "rule", "settle", "idle"};

const Measured& Of(const BenchPass& pass, const std::string& category) {
  return category.empty() ? pass.total : pass.by_category.at(category);
}

Measured Sum(const std::vector<BenchPass>& passes, const std::string& category) {
  Measured sum;
  for (const BenchPass& pass : passes) sum.Add(Of(pass, category));
  return sum;
}

double PhaseMs(const Measured& measured, const char* phase) {
  return NumberOf(absl::StrCat("time_ms.", phase), measured);
}

double RoundMs(const Measured& measured) {
  double ms = 0;
  for (const char* phase : kRoundPhases) ms += PhaseMs(measured, phase);
  return ms;
}

const char* SpeedMetric(const BenchResult& result) {
  return result.is_cascade ? "tokens_per_second.serving" : "tokens_per_second.decode";
}

std::string SpeedRow(const char* name, const char* metric, const Measured& measured) {
  const double n_tokens = static_cast<double>(measured.counts.num_emitted_tokens);
  std::string row = absl::StrFormat("%-14s%10s%10s", name, FormatNumber(NumberOf(metric, measured)),
                                    FormatNumber(RoundMs(measured) / n_tokens));
  for (const char* phase : kRoundPhases) {
    const double ms = PhaseMs(measured, phase) / n_tokens;
    absl::StrAppendFormat(&row, "%9s", ms == 0 ? "-" : absl::StrFormat("%.3f", ms));
  }
  return row;
}

std::string SpeedTable(const BenchResult& result, const Measured& target, const Measured& pair) {
  std::string text = absl::StrFormat("%-14s%10s%10s", "", "tokens/s", "ms/token");
  for (const char* phase : kRoundPhases) absl::StrAppendFormat(&text, "%9s", phase);
  const char* metric = SpeedMetric(result);
  return absl::StrCat(text, "\n", SpeedRow("target alone", metric, target), "\n",
                      SpeedRow(result.is_cascade ? "cascade" : "pair", metric, pair));
}

// The same of a cascade, by output token. What a redone answer cost the draft is in it.
std::string CascadeExplanation(const Measured& target, const Measured& cascade, double speedup) {
  const double plain_ms = RoundMs(target) / static_cast<double>(target.counts.target_calls);
  const auto steps = [&](double ms) {
    return FormatNumber(ms / static_cast<double>(cascade.counts.num_emitted_tokens) / plain_ms);
  };
  const double draft = PhaseMs(cascade, "draft");
  const double verify = PhaseMs(cascade, "verify");
  std::string text = absl::StrCat(
      "a token of the cascade costs ", steps(RoundMs(cascade)), " plain steps of the target\n(draft ",
      steps(draft), ", target ", steps(verify), ", the rest ", steps(RoundMs(cascade) - draft - verify), ")");
  if (speedup < 1) text += ": the cascade is slower here";
  return text;
}

// Why the speedup is what it is: tokens per round against the round's cost in plain steps.
std::string Explanation(const Measured& target, const Measured& pair, double speedup) {
  const double plain_ms = RoundMs(target) / static_cast<double>(target.counts.target_calls);
  const double n_rounds = static_cast<double>(pair.counts.target_calls);
  const auto steps = [&](double ms) { return FormatNumber(ms / n_rounds / plain_ms); };
  const double draft = PhaseMs(pair, "draft");
  const double verify = PhaseMs(pair, "verify");
  std::string text = absl::StrCat(
      "a round of the pair yields ", FormatNumber(NumberOf("mean_acceptance_length", pair)),
      " tokens and costs ", steps(RoundMs(pair)), " plain steps of the target\n(draft ", steps(draft),
      ", verify ", steps(verify), ", the rest ", steps(RoundMs(pair) - draft - verify), ")");
  if (speedup < 1) text += ": speculation is slower here";
  return text;
}

RoundReads ReadsOf(const std::vector<BenchPass>& passes) {
  RoundReads reads;
  for (const BenchPass& pass : passes) reads.Add(pass.reads);
  return reads;
}

// Rounds of a cascade without speculation are no rounds of a pair.
bool HasBudget(const BenchResult& result) {
  return !result.is_cascade && ReadsOf(result.pair).n_rounds > 0 && Sum(result.pair, "").phases;
}

// A round of the pair, beside the time that reading its bytes takes.
std::string RoundText(const BenchResult& result, const RoundBudget& budget) {
  const auto n_rounds = static_cast<double>(ReadsOf(result.pair).n_rounds);
  std::string text = FormatMs(budget.ms() / n_rounds);
  if (budget.floor_ms() > 0) {
    absl::StrAppend(&text, ", ", FormatNumber(budget.ms() / budget.floor_ms()), " x its floor of ",
                    FormatMs(budget.floor_ms() / n_rounds), ": weights and cache, read at ",
                    FormatNumber(result.read_rate * 1e-9), " GB/s");
  }
  return text;
}

OrderedJson RoundJson(const BenchResult& result) {
  const RoundBudget budget = BudgetOf(result);
  const auto n_rounds = static_cast<double>(ReadsOf(result.pair).n_rounds);
  const bool has_floor = budget.floor_ms() > 0;
  OrderedJson json;
  json["ms"] = RoundedJson(budget.ms() / n_rounds);
  json["floor_ms"] = has_floor ? RoundedJson(budget.floor_ms() / n_rounds) : OrderedJson(nullptr);
  json["over_floor"] = has_floor ? RoundedJson(budget.ms() / budget.floor_ms()) : OrderedJson(nullptr);
  json["read_gb_s"] = has_floor ? RoundedJson(result.read_rate * 1e-9) : OrderedJson(nullptr);
  json["limited_by"] = budget.limit();
  for (const RoundBudget::Part& part : budget.Parts())
    json["share"][part.name] = RoundedJson(part.ms / budget.ms());
  return json;
}

std::string SpeedupText(const BenchResult& result, const std::vector<double>& speedups) {
  if (speedups.empty()) return "not measurable: no request got past its first output";
  const Spread spread = SpreadOf(speedups);
  return absl::StrFormat("%.3f x in %s, sd %.3f, %.3f to %.3f in %d repetitions", spread.mean,
                         result.is_cascade ? "serving, prompts included" : "decoding", spread.sd, spread.min,
                         spread.max, speedups.size());
}

std::string OutputsText(const ReportHeader& header, const BenchResult& result) {
  if (!result.compared) return "sampled, not compared: the random choices differ";
  if (result.n_different == 0) {
    return absl::StrCat("equal, token by token: ", FormatCount(result.n_compared), " of ",
                        FormatCount(result.n_compared), " (greedy)");
  }
  const OutputDifference& first = *result.first_difference;
  return absl::StrCat(FormatCount(result.n_different), " of ", FormatCount(result.n_compared),
                      " differ (greedy); first in ", first.id, " at token ", first.position, ": ",
                      first.target_token, " alone, ", first.pair_token,
                      result.is_cascade ? " from the cascade" : " from the pair",
                      result.is_cascade             ? "; a cascade may do that"
                      : header.guarantee == "lossy" ? "; the rule may do that"
                                                    : "");
}

std::string CategoryTable(const BenchResult& result) {
  const bool cascade = result.is_cascade;
  std::string text =
      absl::StrFormat("%-16s%10s%14s%12s%10s", "", "requests", cascade ? "draft's" : "tokens/call",
                      cascade ? "deferred" : "kept", "speedup");
  for (const auto& [category, measured] : result.pair[0].by_category) {
    const Measured sum = Sum(result.pair, category);
    const std::vector<double> speedups = Speedups(result, category);
    const char* deferral = sum.scores.empty() ? "deferral_rate" : "answer_deferral_rate";
    absl::StrAppendFormat(&text, "\n%-16s%10d%14s%12s%10s", category.empty() ? "(none)" : category,
                          measured.num_requests,
                          cascade ? FormatPercent(NumberOf("draft_token_share", sum))
                                  : FormatNumber(NumberOf("mean_acceptance_length", sum)),
                          FormatPercent(NumberOf(cascade ? deferral : "draft_acceptance_rate", sum)),
                          speedups.empty() ? "-" : absl::StrFormat("%.3f x", SpreadOf(speedups).mean));
  }
  return text;
}

OrderedJson SpeedupJson(const std::vector<double>& speedups) {
  OrderedJson json;
  const bool any = !speedups.empty();
  const Spread spread = any ? SpreadOf(speedups) : Spread();
  json["mean"] = any ? RoundedJson(spread.mean) : OrderedJson(nullptr);
  json["sd"] = any ? RoundedJson(spread.sd) : OrderedJson(nullptr);
  json["min"] = any ? RoundedJson(spread.min) : OrderedJson(nullptr);
  json["max"] = any ? RoundedJson(spread.max) : OrderedJson(nullptr);
  json["per_repetition"] = OrderedJson::array();
  for (const double speedup : speedups) json["per_repetition"].push_back(RoundedJson(speedup));
  return json;
}

}  // namespace

BenchPass MeasurePass(const std::vector<RequestResult>& results, const PhaseTimes& times,
                      const RoundReads& reads) {
  std::vector<const RequestResult*> all;
  std::map<std::string, std::vector<const RequestResult*>> by_category;
  for (const RequestResult& result : results) {
    all.push_back(&result);
    by_category[result.request.category].push_back(&result);
  }
  BenchPass pass;
  pass.reads = reads;
  pass.total = Measure(all, times);
  for (const auto& [category, some] : by_category) pass.by_category[category] = Measure(some, std::nullopt);
  return pass;
}

void BenchResult::Compare(const std::vector<RequestResult>& target_results,
                          const std::vector<RequestResult>& pair_results) {
  compared = true;
  for (size_t i = 0; i < target_results.size(); ++i) {
    const std::vector<int32_t>& alone = target_results[i].token_ids;
    const std::vector<int32_t>& both = pair_results[i].token_ids;
    ++n_compared;
    if (alone == both) continue;
    ++n_different;
    if (first_difference) continue;
    size_t at = 0;
    while (at < alone.size() && at < both.size() && alone[at] == both[at]) ++at;
    first_difference = {target_results[i].request.id, static_cast<int64_t>(at),
                        at < alone.size() ? alone[at] : -1, at < both.size() ? both[at] : -1};
  }
}

std::vector<double> Speedups(const BenchResult& result, const std::string& category) {
  std::vector<double> speedups;
  for (size_t r = 0; r < result.target.size(); ++r) {
    const double alone = NumberOf(SpeedMetric(result), Of(result.target[r], category));
    const double both = NumberOf(SpeedMetric(result), Of(result.pair[r], category));
    if (std::isfinite(both / alone)) speedups.push_back(both / alone);
  }
  return speedups;
}

RoundBudget BudgetOf(const BenchResult& result) {
  const Measured pair = Sum(result.pair, "");
  const RoundReads reads = ReadsOf(result.pair);
  const auto floor_ms = [&](double bytes) {
    return result.read_rate > 0 ? bytes / result.read_rate * 1e3 : 0;
  };
  const double idle = PhaseMs(pair, "idle");
  const double launch = std::min(idle, PhaseMs(pair, "launch"));
  return {.draft_ms = PhaseMs(pair, "draft"),
          .verify_ms = PhaseMs(pair, "verify"),
          .rule_ms = PhaseMs(pair, "rule") + PhaseMs(pair, "settle"),
          .launch_ms = launch,
          .host_ms = idle - launch,
          .draft_floor_ms = floor_ms(reads.draft_bytes),
          .verify_floor_ms = floor_ms(reads.verify_bytes)};
}

std::string BenchText(const ReportHeader& header, const BenchResult& result, bool colour) {
  const Measured target = Sum(result.target, "");
  const Measured pair = Sum(result.pair, "");
  const std::vector<double> speedups = Speedups(result, "");
  std::string text = HeaderLines(header, colour);
  text += ReportLine("speedup", SpeedupText(result, speedups), colour);
  text += ReportLine("speed", SpeedTable(result, target, pair), colour);
  if (!speedups.empty()) {
    const double speedup = SpreadOf(speedups).mean;
    text += ReportLine(
        "because",
        result.is_cascade ? CascadeExplanation(target, pair, speedup) : Explanation(target, pair, speedup),
        colour);
  }
  if (HasBudget(result)) {
    const RoundBudget budget = BudgetOf(result);
    text += ReportLine("round", RoundText(result, budget), colour);
    text += ReportLine("limited by", LimitText(budget), colour);
  }
  text += CascadeLines(header, pair, colour);
  text += AcceptanceLines(pair, colour);
  text += ReportLine("outputs", OutputsText(header, result), colour);
  const auto& categories = result.pair[0].by_category;
  if (categories.size() > 1) text += ReportLine("categories", CategoryTable(result), colour);
  return text;
}

OrderedJson BenchJson(const Config& config, const ReportHeader& header, const BenchResult& result) {
  OrderedJson json;
  json["version"] = kVersion;
  json["config"] = ConfigJson(config);
  json["run"] = HeaderJson(header);
  json["speedup"] = SpeedupJson(Speedups(result, ""));
  json["target"] = MetricsJson(Sum(result.target, ""), true);
  json["pair"] = MetricsJson(Sum(result.pair, ""), true);
  json["round"] = HasBudget(result) ? RoundJson(result) : OrderedJson(nullptr);
  OrderedJson& outputs = json["outputs"];
  outputs["compared"] = result.n_compared;
  outputs["different"] = result.n_different;
  outputs["first_difference"] = nullptr;
  if (result.first_difference) {
    const OutputDifference& first = *result.first_difference;
    outputs["first_difference"] = {{"id", first.id},
                                   {"position", first.position},
                                   {"target_token", first.target_token},
                                   {"pair_token", first.pair_token}};
  }
  json["repetitions"] = OrderedJson::array();
  for (size_t r = 0; r < result.target.size(); ++r) {
    json["repetitions"].push_back({{"target", MetricsJson(result.target[r].total, true)},
                                   {"pair", MetricsJson(result.pair[r].total, true)}});
  }
  json["categories"] = OrderedJson::array();
  for (const auto& [category, measured] : result.pair[0].by_category) {
    json["categories"].push_back({{"category", category},
                                  {"speedup", SpeedupJson(Speedups(result, category))},
                                  {"target", MetricsJson(Sum(result.target, category), false)},
                                  {"pair", MetricsJson(Sum(result.pair, category), false)}});
  }
  return json;
}

}  // namespace tandem
