// The frontier of a sweep: its cells sorted into curves, seeds averaged. Plain values over the JSON of SweepResults,
// which outlives them.
#ifndef TANDEM_RUNTIME_SWEEP_FRONTIER_H_
#define TANDEM_RUNTIME_SWEEP_FRONTIER_H_

#include <string>
#include <vector>

#include "runtime/sweep/chart.h"
#include "runtime/sweep/results.h"

namespace tandem {

// A figure over seeds; NaN if no cell has it.
struct Average {
  double mean = 0;
  double sd = 0;  // n - 1; 0 of a single cell
  int n = 0;
};

// The cells that differ in their seed only.
struct FrontierPoint {
  std::string label;
  std::vector<const OrderedJson*> cells;

  // Of the figure at a JSON pointer, such as "/items/exact_match".
  Average Of(const std::string& pointer) const;
  // The mean of a list of numbers, element by element; null elements are left out.
  std::vector<double> ListOf(const std::string& pointer) const;
};

struct FrontierSeries {
  std::string name;
  SeriesStyle style;
  std::vector<FrontierPoint> points;  // in the order of the plan
};

// What is drawn together: the cells of one temperature and gamma, and the baselines without a gamma.
struct Facet {
  double temperature = 0;
  int gamma = 0;
  std::vector<FrontierSeries> series;

  // Null if it is not there.
  const FrontierSeries* Find(const std::string& name) const;
  // Of the target alone: what every rule is measured against. NaN if it has not run.
  double TargetsOwn(const std::string& pointer) const;
};

// By temperature, then gamma, both rising.
std::vector<Facet> MakeFacets(const SweepResults& results);

// One colour per family of rules; marker and dashes tell its members apart.
SeriesStyle StyleOf(const std::string& series);

// Two points of a curve that say what it is worth (the protocol of arXiv 2405.19261, table 2), on items or on texts.
struct Reached {
  const FrontierPoint* fastest = nullptr;  // of those at the target's quality; null: none is
  const FrontierPoint* best = nullptr;     // of those no slower than the target alone; null: none is
};
// Quality is the target's if it is at most this much below: a percentage point of exact match, 0.05 nats of
// log-probability; or one standard error of the target's own figure, if it was sampled and that is more.
inline constexpr double kItemsMargin = 0.01;
inline constexpr double kTextsMargin = 0.05;
double QualityMargin(const Facet& facet, bool items);
Reached WhatIsReached(const Facet& facet, const FrontierSeries& series, bool items);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_FRONTIER_H_
