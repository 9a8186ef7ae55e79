// Results of sweeps: a file of JSON lines, and what it says as values.
//
// A line is {"record": "sweep", ...}: that a sweep began, with its configuration, machine and list of cells; or
// {"record": "cell", ...}: a finished cell. Lines are only ever added, so a file holds every sweep that was run into
// it, and cells that two of them share once. Only the last sweep's cells are its results.
#ifndef TANDEM_RUNTIME_SWEEP_RESULTS_H_
#define TANDEM_RUNTIME_SWEEP_RESULTS_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/report.h"
#include "runtime/report_json.h"
#include "runtime/sweep/cell_runner.h"
#include "runtime/sweep/plan.h"

namespace tandem {

// A cell's line. `date`: when it ended, "2026-11-25".
OrderedJson CellJson(const Cell& cell, const CellResult& result, const std::string& date);
// The line that opens a sweep.
OrderedJson SweepJson(const Config& config, const ReportHeader& header, const SweepPrompts& prompts,
                      const std::vector<Cell>& cells, const std::string& date);
std::string Today();

// The file while a sweep writes it; locked, so that no other sweep does.
class ResultsFile {
 public:
  // Makes the file or reads it. What follows the last newline is a line that a crash tore: it is removed. kNotFound,
  // kUnavailable (another sweep has it), kInvalidArgument (a line that is not ours, by its place).
  static absl::StatusOr<std::unique_ptr<ResultsFile>> Open(const std::string& path);
  ~ResultsFile();

  bool Has(const std::string& key) const { return keys_.contains(key); }
  // On disk when it returns.
  absl::Status Append(const OrderedJson& line);

 private:
  ResultsFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  int fd_;
  const std::string path_;
  std::set<std::string> keys_;
};

struct SweepResults {
  OrderedJson sweep;               // the last sweep's opening line
  std::vector<OrderedJson> cells;  // its cells that are finished, in the order of the plan
  int64_t n_planned = 0;
};

// Reads a results file, a torn last line or none. kNotFound, kInvalidArgument (by file and line).
absl::StatusOr<SweepResults> ReadResults(const std::string& path);
// The same of a text; `path` names it.
absl::StatusOr<SweepResults> ParseResults(std::string_view text, const std::string& path);

// A row per cell; what a cell has not is empty.
std::string ResultsCsv(const SweepResults& results);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_RESULTS_H_
