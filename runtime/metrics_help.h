// The table of every metric: its name in JSON, its unit, what it means, and how it follows from what was
// measured. Reports, JSON and `tandem help metrics` are all made from it.
#ifndef TANDEM_RUNTIME_METRICS_HELP_H_
#define TANDEM_RUNTIME_METRICS_HELP_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/report.h"

namespace tandem {

// Nothing: undefined here, such as a rate of no events; null in JSON.
using MetricValue = std::variant<std::monostate, int64_t, double, std::vector<int64_t>, std::vector<double>>;

struct Metric {
  const char* name;  // a dot stands for one level of JSON
  const char* unit;
  const char* help;
  bool of_run;  // of a whole run only, not of one request
  MetricValue (*value)(const Measured&);
};

std::span<const Metric> Metrics();

// By name; for the report's text. CHECKs that the name is there.
MetricValue ValueOf(std::string_view name, const Measured& measured);
// The same as one number; NaN if undefined.
double NumberOf(std::string_view name, const Measured& measured);

// What `tandem bench --json` adds to these; its figures are made of them.
struct BenchMetric {
  const char* name;
  const char* unit;
  const char* help;
};
std::span<const BenchMetric> BenchMetrics();

// The text of `tandem help metrics`.
std::string MetricsHelp();

}  // namespace tandem

#endif  // TANDEM_RUNTIME_METRICS_HELP_H_
