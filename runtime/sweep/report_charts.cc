#include "runtime/sweep/report_charts.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/config_keys.h"

namespace tandem {
namespace {

constexpr const char* kPhases[] = {"prefill", "draft", "verify", "rule", "settle", "idle"};
constexpr const char* kPhaseColours[] = {"#bbbbbb", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#e8e8e8"};

// "t0_5-g3"
std::string FileSuffix(const Facet& facet) {
  std::string temperature = ShortestNumber(facet.temperature);
  std::replace(temperature.begin(), temperature.end(), '.', '_');
  return absl::StrCat("t", temperature, "-g", facet.gamma);
}

bool IsAlone(const FrontierSeries& series) {
  return series.name == kTargetAlone || series.name == kDraftAlone;
}

std::string Subtitle(const Facet& facet, const std::string& counts) {
  size_t n_seeds = 1;
  for (const FrontierSeries& series : facet.series) {
    for (const FrontierPoint& point : series.points) n_seeds = std::max(n_seeds, point.cells.size());
  }
  return absl::StrCat(
      FacetName(facet), "; ", counts,
      n_seeds > 1 ? absl::StrCat("; mean of ", n_seeds, " seeds, bars: standard deviation") : "");
}

// How a chart's curves come from the cells.
struct Source {
  std::string x, y;         // JSON pointers
  bool small_y = false;     // less is better
  bool draft_at_0 = false;  // the draft alone is a mark: nothing that it writes is rejected
};

CurveChart Curves(const Facet& facet, const Source& source, const Axis& x_axis, const Axis& y_axis) {
  CurveChart chart;
  chart.x = x_axis;
  chart.y = y_axis;
  std::vector<std::pair<double, double>> all;
  for (const FrontierSeries& series : facet.series) {
    const bool at_0 = series.name == kDraftAlone && source.draft_at_0;
    if (IsAlone(series) && !at_0) continue;
    ChartSeries curve{series.name, series.style, {}};
    for (const FrontierPoint& point : series.points) {
      const Average x = at_0 ? Average{} : point.Of(source.x);
      const Average y = point.Of(source.y);
      if (!std::isfinite(x.mean) || !std::isfinite(y.mean)) continue;
      const std::string note = absl::StrCat(
          point.label, "\n", y_axis.percent ? FormatPercent(y.mean) : absl::StrFormat("%.3f", y.mean), " at ",
          x_axis.percent ? FormatPercent(x.mean) : absl::StrFormat("%.3f", x.mean));
      curve.points.push_back({x.mean, y.mean, x.sd, y.sd, note});
      all.push_back({x.mean, y.mean});
    }
    if (!curve.points.empty()) chart.series.push_back(std::move(curve));
  }
  chart.front = ParetoFront(std::move(all), source.small_y);
  chart.front_name = "Pareto front";
  return chart;
}

// The target's and the draft's own quality, as levels across the chart.
std::vector<Level> OwnLevels(const Facet& facet, const std::string& set) {
  std::vector<Level> levels;
  for (const char* name : {kTargetAlone, kDraftAlone}) {
    const FrontierSeries* series = facet.Find(name);
    if (series == nullptr) continue;
    const double quality = series->points[0].Of(QualityPath(set)).mean;
    if (!std::isfinite(quality)) continue;
    const double latency = series->points[0].Of(absl::StrCat("/", set, "/latency/relative")).mean;
    levels.push_back({quality, absl::StrCat(name, ": ", QualityText(set, quality), ", ",
                                            name == kTargetAlone ? "1" : FormatNumber(latency), " x")});
  }
  return levels;
}

const FrontierPoint& Chosen(const Facet& facet, const FrontierSeries& series, bool items) {
  const Reached reached = WhatIsReached(facet, series, items);
  if (reached.fastest != nullptr) return *reached.fastest;
  return reached.best != nullptr ? *reached.best : series.points[0];
}

ChartSeries PositionCurve(const FrontierSeries& series, const FrontierPoint& point, const std::string& root) {
  ChartSeries curve{point.label, series.style, {}};
  const std::vector<double> rates = point.ListOf(root + "conditional_acceptance_by_position");
  for (size_t i = 0; i < rates.size(); ++i) {
    if (!std::isfinite(rates[i])) continue;
    curve.points.push_back({static_cast<double>(i + 1), rates[i], 0, 0,
                            absl::StrCat(point.label, "\nposition ", i + 1, ": ", FormatPercent(rates[i]))});
  }
  return curve;
}

Bar KeptBar(const FrontierPoint& point, const std::string& root, int gamma) {
  std::vector<double> rounds = point.ListOf(root + "acceptance_histogram");
  rounds.resize(gamma + 1, 0);
  const double total = std::accumulate(rounds.begin(), rounds.end(), 0.0);
  for (double& n : rounds) n = total > 0 ? n / total : 0;
  const double length = point.Of(root + "mean_acceptance_length").mean;
  return {point.label, rounds, absl::StrCat(NumberText(length), " tok./call")};
}

Bar TimeBar(const FrontierPoint& point, const std::string& root) {
  Bar bar{point.label, {}, ""};
  for (const char* phase : kPhases) {
    const double ms = point.Of(absl::StrCat(root, "latency/phase_ms_per_token/", phase)).mean;
    bar.parts.push_back(std::isfinite(ms) ? ms : 0);
  }
  bar.total = absl::StrCat(FormatNumber(point.Of(root + "latency/ms_per_token").mean), " ms");
  return bar;
}

}  // namespace

std::string QualityPath(const std::string& set) {
  return set == "items" ? "/items/exact_match" : "/texts/log_prob";
}

std::string QualityText(const std::string& set, double value) {
  return set == "items" ? FormatPercent(value) : NumberText(value);
}

std::string NumberText(double value, const char* unit) {
  return std::isfinite(value) ? absl::StrFormat("%.2f%s", value, unit) : "-";
}

std::string WithSpread(const Average& average, bool percent) {
  if (!std::isfinite(average.mean)) return "-";
  const std::string mean = percent ? FormatPercent(average.mean) : NumberText(average.mean);
  if (average.n < 2) return mean;
  return mean +
         (percent ? absl::StrFormat(" ± %.1f", 100 * average.sd) : absl::StrFormat(" ± %.2f", average.sd));
}

std::string FacetName(const Facet& facet) {
  return absl::StrCat("T = ", ShortestNumber(facet.temperature), ", gamma ", facet.gamma);
}

bool HasFigures(const Facet& facet, const std::string& set) {
  for (const FrontierSeries& series : facet.series) {
    for (const FrontierPoint& point : series.points) {
      if (std::isfinite(point.Of(QualityPath(set)).mean)) return true;
    }
  }
  return false;
}

std::vector<NamedChart> FrontierCharts(const Facet& facet, const std::string& set,
                                       const std::string& counts) {
  const bool items = set == "items";
  const std::string what = items ? "Quality on tasks" : "Quality on text";
  const std::string root = absl::StrCat("/", set, "/");
  const Axis latency_axis = {"time per output token, relative to the target alone (batch 1)"};
  const Axis rejection_axis = {"judged draft tokens that did not stay", true};
  const Axis quality_axis = {items ? "exact match" : "log-probability per token, by the target", items};
  std::vector<NamedChart> charts;
  const auto add = [&](const std::string& name, const std::string& title, CurveChart chart) {
    if (chart.series.empty()) return;
    chart.title = title;
    chart.subtitle = Subtitle(facet, counts);
    charts.push_back({absl::StrCat(set, "-", name, "-", FileSuffix(facet)), Svg(chart)});
  };
  CurveChart latency =
      Curves(facet, {root + "latency/relative", QualityPath(set)}, latency_axis, quality_axis);
  latency.levels = OwnLevels(facet, set);
  add("latency", what + " against latency", std::move(latency));
  CurveChart rejection =
      Curves(facet, {root + "rejection_rate", QualityPath(set), false, true}, rejection_axis, quality_axis);
  rejection.levels = OwnLevels(facet, set);
  add("rejection", what + " against rejection rate", std::move(rejection));
  if (!items) {
    add("tv", "Distance of the rule's law to the target's, against rejection rate",
        Curves(facet, {root + "rejection_rate", root + "tv", true, true}, rejection_axis,
               {"total variation; 0: the target's law"}));
  }
  return charts;
}

std::vector<NamedChart> RoundCharts(const Facet& facet, const std::string& set) {
  const bool items = set == "items";
  const std::string root = absl::StrCat("/", set, "/");
  const std::string on = items ? "tasks" : "text";
  CurveChart position;
  BarChart kept, time;
  for (const FrontierSeries& series : facet.series) {
    const FrontierPoint& point = Chosen(facet, series, items);
    time.bars.push_back(TimeBar(point, root));
    if (IsAlone(series)) continue;
    position.series.push_back(PositionCurve(series, point, root));
    kept.bars.push_back(KeptBar(point, root, facet.gamma));
  }
  const std::string subtitle = absl::StrCat(
      FacetName(facet), "; of each curve the fastest point at the target's quality, else its best");
  position.title = absl::StrCat("Tokens kept by position in the block, ", on);
  position.subtitle = subtitle + "; given that all before it were kept";
  position.x = {.label = "position in the block", .min = 0.7, .max = facet.gamma + 0.3, .whole = true};
  position.y = {.label = "kept", .percent = true, .min = 0, .max = 1.02};
  kept.title = absl::StrCat("Tokens kept of a block, ", on);
  kept.subtitle = subtitle;
  kept.axis = "share of the rounds";
  kept.percent = true;
  for (int k = 0; k <= facet.gamma; ++k) {
    kept.parts.push_back(absl::StrCat(k, " kept"));
    const int shade = 235 - 190 * k / std::max(1, facet.gamma);  // from light to dark, in print too
    kept.colours.push_back(
        absl::StrFormat("#%02x%02x%02x", shade * 2 / 3, shade * 5 / 6, std::min(255, shade + 20)));
  }
  time.title = absl::StrCat("Where the time goes, ", on);
  time.subtitle = subtitle;
  time.axis = "ms per output token (batch 1)";
  time.parts = {std::begin(kPhases), std::end(kPhases)};
  time.colours = {std::begin(kPhaseColours), std::end(kPhaseColours)};
  const std::string suffix = FileSuffix(facet);
  return {{absl::StrCat(set, "-position-", suffix), Svg(position)},
          {absl::StrCat(set, "-kept-", suffix), Svg(kept)},
          {absl::StrCat(set, "-time-", suffix), Svg(time)}};
}

}  // namespace tandem
