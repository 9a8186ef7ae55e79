// The charts of a sweep's report, and how its figures are written. Pure functions of a Facet.
#ifndef TANDEM_RUNTIME_SWEEP_REPORT_CHARTS_H_
#define TANDEM_RUNTIME_SWEEP_REPORT_CHARTS_H_

#include <string>
#include <vector>

#include "runtime/sweep/frontier.h"

namespace tandem {

// The two sets of prompts, as the results name them: "items", "texts".
inline constexpr const char* kPromptSets[] = {"items", "texts"};

// Where a cell's quality on the set stands: exact match, or log-probability.
std::string QualityPath(const std::string& set);
std::string QualityText(const std::string& set, double value);
// "0.38 x"; "-" if it is not finite.
std::string NumberText(double value, const char* unit = "");
// "88.1 % ± 0.4"
std::string WithSpread(const Average& average, bool percent);
// "T = 1, gamma 5"
std::string FacetName(const Facet& facet);
// Whether any cell of the facet has figures of the set.
bool HasFigures(const Facet& facet, const std::string& set);

struct NamedChart {
  std::string name;  // of its file, without .svg
  std::string svg;
};

// Quality against latency and against the rejection rate; of texts also TV. `counts`: "84 items".
std::vector<NamedChart> FrontierCharts(const Facet& facet, const std::string& set, const std::string& counts);

// What a round does, of one point of each curve: what is kept by position, how many tokens are kept, and the time by
// phase. The point is the fastest at the target's quality, or else the best.
std::vector<NamedChart> RoundCharts(const Facet& facet, const std::string& set);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_REPORT_CHARTS_H_
