// The report of a sweep: one HTML file that needs nothing else (no network, no script), and its charts as SVG.
#ifndef TANDEM_RUNTIME_SWEEP_HTML_REPORT_H_
#define TANDEM_RUNTIME_SWEEP_HTML_REPORT_H_

#include <string>
#include <vector>

#include "runtime/sweep/report_charts.h"
#include "runtime/sweep/results.h"

namespace tandem {

struct SweepReport {
  std::string html;
  std::vector<NamedChart> charts;
  std::string text;  // for a terminal: what each curve reaches
};

// REQUIRES: at least one cell.
SweepReport MakeSweepReport(const SweepResults& results);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_HTML_REPORT_H_
