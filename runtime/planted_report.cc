// What the bench of a planted pair shows: a table for people, JSON for programs.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "runtime/planted_bench.h"
#include "runtime/report.h"
#include "runtime/version.h"

namespace tandem {
namespace {

std::string Describe(const PlantedShape& shape) {
  return absl::StrCat(std::string(shape.name), ", ", FormatParameters(PlantedBytes(shape) / 2),
                      " parameters, bf16");
}

OrderedJson ShapeJson(const PlantedShape& shape) {
  return {{"name", std::string(shape.name)},
          {"parameters", PlantedBytes(shape) / 2},
          {"weight_bytes", PlantedBytes(shape)},
          {"layers", shape.n_layers},
          {"hidden", shape.hidden},
          {"intermediate", shape.intermediate},
          {"heads", shape.n_heads},
          {"kv_heads", shape.n_kv_heads},
          {"head_dim", shape.head_dim},
          {"vocabulary", shape.n_vocab}};
}

std::string Table(const PlantedBenchResult& result) {
  std::string text = absl::StrFormat("%-26s%12s %-9s%10s%9s", "", "", "", "floor", "x floor");
  for (const PlantedFigure& figure : result.figures) {
    absl::StrAppendFormat(&text, "\n%-26s%12s %-9s%10s%9s  %s", figure.key,
                          figure.value ? FormatNumber(*figure.value) : "-", figure.unit,
                          figure.floor ? FormatNumber(*figure.floor) : "",
                          figure.over_floor() ? absl::StrFormat("%.3f", *figure.over_floor()) : "",
                          figure.value ? figure.about : absl::StrCat("missing: ", figure.missing));
  }
  return text;
}

// How the parts, measured by themselves, add up to a round.
std::string BudgetText(const PlantedBenchResult& result, const RoundBudget& budget) {
  const double sum = budget.draft_ms + budget.verify_ms + budget.rule_ms;
  const PlantedFigure& round = *result.Find("round_ms_sampled");
  return absl::StrCat("draft ", FormatNumber(budget.draft_ms), " + verification ",
                      FormatNumber(budget.verify_ms), " + tail ", FormatNumber(budget.rule_ms), " = ",
                      FormatNumber(sum), " ms of ", FormatNumber(*round.value), " (T = 1)",
                      round.over_floor() ? absl::StrCat(", ", FormatNumber(*round.over_floor()),
                                                        " x the floor of ", FormatNumber(*round.floor))
                                         : "");
}

}  // namespace

std::optional<RoundBudget> BudgetOf(const PlantedBenchOptions& options, const PlantedBenchResult& result) {
  // The draft's step stands fourth among the figures (planted_bench.cc), under a name that depends on its shape.
  const PlantedFigure* step = nullptr;
  for (const PlantedFigure& figure : result.figures) {
    if (step == nullptr && figure.key.rfind("step_", 0) == 0) step = &figure;
  }
  const PlantedFigure* verify = result.Find("forward_5_ms");
  const PlantedFigure* tail = result.Find("tail_us");
  const PlantedFigure* round = result.Find("round_ms_sampled");
  if (options.gamma != 4 || step == nullptr || !step->value || !verify->value || !tail->value ||
      !round->value)
    return std::nullopt;
  RoundBudget budget = {.draft_ms = options.gamma * *step->value,
                        .verify_ms = *verify->value,
                        .rule_ms = *tail->value * 1e-3,
                        .draft_floor_ms = options.gamma * step->floor.value_or(0),
                        .verify_floor_ms = verify->floor.value_or(0)};
  (options.device.is_cuda() ? budget.launch_ms : budget.host_ms) = std::max(0., *round->value - budget.ms());
  return budget;
}

std::string PlantedBenchText(const PlantedBenchOptions& options, const PlantedBenchResult& result,
                             bool colour) {
  std::string text = ReportLine("target", Describe(*options.target), colour);
  text += ReportLine("draft",
                     absl::StrCat(Describe(*options.draft), "; agreement ", FormatNumber(options.agreement),
                                  ", gamma ", options.gamma),
                     colour);
  text += ReportLine("machine", result.device, colour);
  text +=
      ReportLine("measured",
                 absl::StrCat(result.date, "; context ", FormatCount(options.context),
                              ", products in bf16, medians of ", options.n_repetitions,
                              " repetitions after a warm-up, ", FormatNumber(result.seconds), " s in all"),
                 colour);
  text += ReportLine("figures", Table(result), colour);
  if (const PlantedFigure* tokens = result.Find("tokens_per_round"); tokens->value) {
    const PlantedFigure* speedup = result.Find("spec_over_plain");
    const double at_formula =
        speedup->value.value_or(std::nan("")) / *tokens->value * result.formula_tokens_per_round;
    text +=
        ReportLine("round",
                   absl::StrCat(FormatNumber(*tokens->value), " tokens a round; ",
                                FormatNumber(result.planted_tokens_per_round.value_or(std::nan(""))),
                                " planted along these texts, ", FormatNumber(result.formula_tokens_per_round),
                                " by the sum of agreement^i, i = 0 to ", options.gamma,
                                "; with as many, spec_over_plain ", FormatNumber(at_formula)),
                   colour);
  }
  if (const std::optional<RoundBudget> budget = BudgetOf(options, result)) {
    text += ReportLine("budget", BudgetText(result, *budget), colour);
    text += ReportLine("limited by", LimitText(*budget), colour);
  }
  text += ReportLine("floor",
                     "bytes of weights and cache that must be read, over read_gb_s; x floor: how far from it",
                     colour);
  text +=
      ReportLine("outputs",
                 result.n_different == 0
                     ? absl::StrCat("as planted, token by token: ", FormatCount(result.n_compared), " of ",
                                    FormatCount(result.n_compared), " (greedy)")
                     : absl::StrCat(FormatCount(result.n_different), " of ", FormatCount(result.n_compared),
                                    " differ from what was planted (greedy)"),
                 colour);
  return text;
}

OrderedJson PlantedBenchJson(const PlantedBenchOptions& options, const PlantedBenchResult& result) {
  OrderedJson json;
  json["version"] = kVersion;
  json["device"] = result.device;
  json["date"] = result.date;
  json["target"] = ShapeJson(*options.target);
  json["draft"] = ShapeJson(*options.draft);
  json["small"] = options.small == nullptr ? OrderedJson(nullptr) : ShapeJson(*options.small);
  json["settings"] = {{"agreement", options.agreement},
                      {"gamma", options.gamma},
                      {"context", options.context},
                      {"prefill", options.n_prefill},
                      {"rounds", options.n_rounds},
                      {"repetitions", options.n_repetitions},
                      {"seed", options.seed}};
  for (const PlantedFigure& figure : result.figures)
    json[figure.key] = figure.value ? RoundedJson(*figure.value) : OrderedJson(nullptr);
  json["planted_tokens_per_round"] =
      result.planted_tokens_per_round ? RoundedJson(*result.planted_tokens_per_round) : OrderedJson(nullptr);
  json["formula_tokens_per_round"] = RoundedJson(result.formula_tokens_per_round);
  const std::optional<RoundBudget> budget = BudgetOf(options, result);
  json["limited_by"] = budget ? OrderedJson(budget->limit()) : OrderedJson(nullptr);
  json["floors"] = OrderedJson::object();
  json["missing"] = OrderedJson::object();
  json["about"] = OrderedJson::object();
  for (const PlantedFigure& figure : result.figures) {
    if (figure.floor) {
      json["floors"][figure.key] = {
          {"floor", RoundedJson(*figure.floor)},
          {"over_floor", figure.over_floor() ? RoundedJson(*figure.over_floor()) : OrderedJson(nullptr)}};
    }
    if (!figure.value) json["missing"][figure.key] = figure.missing;
    json["about"][figure.key] = figure.about;
  }
  json["greedy_outputs"] = {{"compared", result.n_compared}, {"different", result.n_different}};
  json["seconds"] = RoundedJson(result.seconds);
  return json;
}

}  // namespace tandem
