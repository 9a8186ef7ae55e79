#include "runtime/sweep/frontier.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace tandem {
namespace {

// Okabe and Ito's colours, which most colour-blind people tell apart.
constexpr const char* kBlack = "#000000";
constexpr const char* kBlue = "#0072B2";
constexpr const char* kVermillion = "#D55E00";
constexpr const char* kGreen = "#009E73";
constexpr const char* kPurple = "#CC79A7";
constexpr const char* kOrange = "#E69F00";
constexpr const char* kSky = "#56B4E9";
constexpr const char* kDashed = "7 4";
constexpr const char* kDotted = "2 4";

struct Known {
  const char* name;
  SeriesStyle style;
};

const std::vector<Known>& KnownStyles() {
  static const std::vector<Known> styles = {
      {"token_v1", {kBlue, Marker::kCircle, kDotted}},
      {"token_v2", {kBlue, Marker::kSquare, kDashed}},
      {"token_v3", {kBlue, Marker::kUp, ""}},
      {"top_k", {kBlue, Marker::kPlus, kDotted}},
      {"chow", {kVermillion, Marker::kCircle, kDotted}},
      {"diff", {kVermillion, Marker::kSquare, kDashed}},
      {"opt", {kVermillion, Marker::kUp, ""}},
      {"lossy_sd", {kGreen, Marker::kCircle, ""}},
      {"lenience", {kGreen, Marker::kSquare, kDashed}},
      {"mentored", {kGreen, Marker::kDown, kDotted}},
      {"threshold_single_acc", {kGreen, Marker::kPlus, kDotted}},
      {"bild", {kPurple, Marker::kDiamond, ""}},
      {"typical", {kPurple, Marker::kDown, kDashed}},
      {"ensemble", {kPurple, Marker::kCross, kDotted}},
      {kTokenCascade, {kOrange, Marker::kDiamond, kDashed}},
      {kQueryCascade, {kOrange, Marker::kDown, kDotted}},
      {kTruncated, {kBlack, Marker::kCross, kDashed}},
      {kLossless, {kBlack, Marker::kDiamond, ""}},
      {kTargetAlone, {kBlack, Marker::kStar, ""}},
      {kDraftAlone, {kBlack, Marker::kDown, ""}},
  };
  return styles;
}

const OrderedJson* At(const OrderedJson& cell, const std::string& pointer) {
  const OrderedJson::json_pointer at(pointer);
  return cell.contains(at) ? &cell.at(at) : nullptr;
}

}  // namespace

Average FrontierPoint::Of(const std::string& pointer) const {
  std::vector<double> values;
  for (const OrderedJson* cell : cells) {
    const OrderedJson* value = At(*cell, pointer);
    if (value != nullptr && value->is_number()) values.push_back(value->get<double>());
  }
  if (values.empty()) return {std::nan(""), 0, 0};
  const Spread spread = SpreadOf(values);
  return {spread.mean, spread.sd, static_cast<int>(values.size())};
}

std::vector<double> FrontierPoint::ListOf(const std::string& pointer) const {
  std::vector<double> sums;
  std::vector<int> counts;
  for (const OrderedJson* cell : cells) {
    const OrderedJson* list = At(*cell, pointer);
    if (list == nullptr || !list->is_array()) continue;
    sums.resize(std::max(sums.size(), list->size()), 0);
    counts.resize(sums.size(), 0);
    for (size_t i = 0; i < list->size(); ++i) {
      if (!(*list)[i].is_number()) continue;
      sums[i] += (*list)[i].get<double>();
      ++counts[i];
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) sums[i] = counts[i] > 0 ? sums[i] / counts[i] : std::nan("");
  return sums;
}

const FrontierSeries* Facet::Find(const std::string& name) const {
  const auto found =
      std::find_if(series.begin(), series.end(), [&](const FrontierSeries& one) { return one.name == name; });
  return found == series.end() ? nullptr : &*found;
}

double Facet::TargetsOwn(const std::string& pointer) const {
  const FrontierSeries* target = Find(kTargetAlone);
  return target == nullptr ? std::nan("") : target->points[0].Of(pointer).mean;
}

std::vector<Facet> MakeFacets(const SweepResults& results) {
  std::set<std::pair<double, int>> shown;
  for (const OrderedJson& cell : results.cells) {
    if (cell["gamma"] > 0) shown.insert({cell["temperature"].get<double>(), cell["gamma"].get<int>()});
  }
  std::vector<Facet> facets;
  for (const auto& [temperature, gamma] : shown) {
    Facet facet{temperature, gamma, {}};
    for (const OrderedJson& cell : results.cells) {
      if (cell["temperature"] != temperature || (cell["gamma"] != gamma && cell["gamma"] != 0)) continue;
      const std::string name = cell["series"];
      const std::string label = cell["label"];
      auto series = std::find_if(facet.series.begin(), facet.series.end(),
                                 [&](const FrontierSeries& one) { return one.name == name; });
      if (series == facet.series.end()) {
        facet.series.push_back({name, StyleOf(name), {}});
        series = facet.series.end() - 1;
      }
      auto point = std::find_if(series->points.begin(), series->points.end(),
                                [&](const FrontierPoint& one) { return one.label == label; });
      if (point == series->points.end()) {
        series->points.push_back({label, {}});
        point = series->points.end() - 1;
      }
      point->cells.push_back(&cell);
    }
    facets.push_back(std::move(facet));
  }
  return facets;
}

SeriesStyle StyleOf(const std::string& series) {
  // The longest name that the series begins with: "lossless, min-p" before "lossless".
  const Known* best = nullptr;
  size_t best_size = 0;
  for (const Known& known : KnownStyles()) {
    const std::string name = known.name;
    const bool begins =
        series.rfind(name, 0) == 0 && (series.size() == name.size() || series[name.size()] == ',');
    if (begins && name.size() > best_size) {
      best = &known;
      best_size = name.size();
    }
  }
  if (best != nullptr) {
    SeriesStyle style = best->style;
    if (series.size() > best_size && series != kTruncated) style.dash = "1 3";  // a variant of the rule
    return style;
  }
  // A rule that is not built in: by its name, so that it looks the same in every chart.
  size_t hash = 0;
  for (const char c : series) hash = hash * 31 + static_cast<unsigned char>(c);
  static constexpr Marker kMarkers[] = {Marker::kCircle, Marker::kSquare, Marker::kUp, Marker::kDiamond};
  return {hash % 2 == 0 ? kSky : kOrange, kMarkers[hash / 2 % 4], hash / 8 % 2 == 0 ? "" : kDashed};
}

double QualityMargin(const Facet& facet, bool items) {
  const double least = items ? kItemsMargin : kTextsMargin;
  const FrontierSeries* target = facet.Find(kTargetAlone);
  if (target == nullptr || facet.temperature == 0) return least;
  const Average error = target->points[0].Of(items ? "/items/exact_match_se" : "/texts/log_prob_se");
  return error.n == 0 ? least : std::max(least, error.mean / std::sqrt(static_cast<double>(error.n)));
}

Reached WhatIsReached(const Facet& facet, const FrontierSeries& series, bool items) {
  const std::string quality = items ? "/items/exact_match" : "/texts/log_prob";
  const std::string latency = items ? "/items/latency/relative" : "/texts/latency/relative";
  const double enough = facet.TargetsOwn(quality) - QualityMargin(facet, items);
  Reached reached;
  for (const FrontierPoint& point : series.points) {
    const double q = point.Of(quality).mean;
    const double t = point.Of(latency).mean;
    const auto faster = [&](const FrontierPoint* other) { return t < other->Of(latency).mean; };
    if (q >= enough && (reached.fastest == nullptr || faster(reached.fastest))) reached.fastest = &point;
    if (t > 1 && series.name != kTargetAlone) continue;
    const double best = reached.best == nullptr ? -HUGE_VAL : reached.best->Of(quality).mean;
    if (q > best || (q == best && faster(reached.best))) reached.best = &point;
  }
  return reached;
}

}  // namespace tandem
