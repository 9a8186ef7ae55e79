#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/session.h"
#include "runtime/config_keys.h"
#include "runtime/rule_config.h"
#include "runtime/sweep/cell_runner.h"
#include "runtime/sweep/html_report.h"
#include "runtime/sweep/plan.h"
#include "runtime/sweep/results.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string TimeLeft(double seconds) {
  if (seconds < 90) return absl::StrFormat("%.0f s left", std::max(1.0, seconds));
  if (seconds < 5400) return absl::StrFormat("%.0f min left", seconds / 60);
  return absl::StrFormat("%.1f h left", seconds / 3600);
}

std::string NameOf(const Cell& cell) {
  return absl::StrCat(cell.label, ", T ", ShortestNumber(cell.temperature),
                      cell.gamma > 0 ? absl::StrCat(", gamma ", cell.gamma) : "",
                      cell.seed > 0 ? absl::StrCat(", seed ", cell.seed) : "");
}

// Shows how far the whole sweep is; a cell's share of it is its share of all requests.
class SweepListener : public EngineListener {
 public:
  SweepListener(const InterruptScope& interrupt, size_t n_cells, int64_t n_requests)
      : interrupt_(interrupt), n_cells_(n_cells), n_requests_(n_requests) {}

  void Begin(size_t index, const std::string& name) {
    index_ = index;
    name_ = name;
    n_finished_ = 0;
    Show();
  }
  void OnFinish(const RequestResult&) override {
    ++n_finished_;
    Show();
  }
  bool Cancelled() override { return interrupt_.Raised(); }
  void Hide() { progress_.Hide(); }

 private:
  void Show() {
    const double share = std::min(1.0, static_cast<double>(n_finished_) / static_cast<double>(n_requests_));
    const double done = (static_cast<double>(index_) + share) / static_cast<double>(n_cells_);
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin_).count();
    // Baselines, which come first, are slower than most: no forecast from a few of them.
    const std::string left = done > 0.02 ? TimeLeft(elapsed / done * (1 - done)) : "";
    progress_.Show(absl::StrCat(index_ + 1, "/", n_cells_, "  ", name_, left.empty() ? "" : "  ", left),
                   done);
  }

  const InterruptScope& interrupt_;
  const size_t n_cells_;
  const int64_t n_requests_;
  const Clock::time_point begin_ = Clock::now();
  size_t index_ = 0;
  int64_t n_finished_ = 0;
  std::string name_;
  ProgressBar progress_;
};

// "exact match 91.2 %, log-probability -2.31, 0.62 x the target's latency"
std::string Summary(const OrderedJson& cell) {
  std::string text;
  double latency = NAN;
  for (const char* set : {"items", "texts"}) {
    const OrderedJson& figures = cell[set];
    if (figures.is_null()) continue;
    const bool items = std::string_view(set) == "items";
    const OrderedJson& quality = figures[items ? "exact_match" : "log_prob"];
    if (quality.is_number()) {
      absl::StrAppend(&text, text.empty() ? "" : ", ",
                      items ? "exact match " + FormatPercent(quality.get<double>())
                            : absl::StrFormat("log-probability %.2f", quality.get<double>()));
    }
    const OrderedJson& relative = figures["latency"]["relative"];
    if (std::isnan(latency) && relative.is_number()) latency = relative.get<double>();
  }
  return absl::StrCat(text, ", ", FormatNumber(latency), " x the target's latency");
}

// The folder that results go to.
std::string OutFolder(const Args& args) {
  return args.Value("--out", absl::StrCat(fs::path(args.operand(0)).stem().string(), ".sweep"));
}

// What stands before the first cell: everything that a user could have got wrong has been checked.
struct Sweep {
  Session session;
  std::vector<Cell> cells;
  SweepPrompts prompts;
};

int Prepare(const Args& args, Sweep* sweep) {
  std::vector<Override> overrides;
  if (const int code = ReadOverrides(args, &overrides); code != kExitOk) return code;
  absl::StatusOr<Config> config = LoadConfig(args.operand(0), overrides);
  if (!config.ok()) return Fail(config.status(), kExitConfig);
  absl::StatusOr<SweepPrompts> prompts = SelectPrompts(*config);
  if (!prompts.ok()) return Fail(prompts.status(), kExitConfig);
  absl::StatusOr<std::vector<Cell>> cells = PlanSweep(*config, overrides);
  if (!cells.ok())
    return Fail(cells.status(), absl::IsInvalidArgument(cells.status()) ? kExitConfig : kExitModel);
  sweep->session.config = *std::move(config);
  sweep->prompts = *std::move(prompts);
  sweep->cells = *std::move(cells);
  if (const int code = OpenPair(&sweep->session); code != kExitOk) return code;

  const Pair& pair = sweep->session.pair;
  SweepContext context{.prompts = sweep->prompts, .settings = sweep->session.config.sweep};
  context.machine =
      absl::StrCat(CpuName(), ", ", MakeEngineOptions(sweep->session.config).n_threads, " threads");
  for (const ModelSpec* model : {&pair.spec.target, pair.spec.draft ? &*pair.spec.draft : nullptr}) {
    if (model == nullptr) continue;
    const absl::StatusOr<std::string> fingerprint = FingerprintModel(model->name);
    if (!fingerprint.ok()) return Fail(fingerprint.status(), kExitModel);
    absl::StrAppend(&context.models, *fingerprint, " ");
  }
  NameCells(context, &sweep->cells);
  return kExitOk;
}

int RunCells(Sweep& sweep, ResultsFile* file) {
  const Session& session = sweep.session;
  std::vector<const Cell*> left;
  for (const Cell& cell : sweep.cells) {
    if (!file->Has(cell.key)) left.push_back(&cell);
  }
  Log(absl::StrCat(sweep.cells.size(), " cells, ", sweep.cells.size() - left.size(), " of them done; ",
                   sweep.prompts.items.size(), " items, ", sweep.prompts.texts.size(), " texts"));
  CellRunner runner(session.config, session.pair, sweep.prompts);
  const InterruptScope interrupt;
  SweepListener listener(interrupt, left.size(), runner.n_requests());
  for (size_t i = 0; i < left.size(); ++i) {
    const Cell& cell = *left[i];
    listener.Begin(i, NameOf(cell));
    const absl::StatusOr<CellResult> result = runner.Run(cell, &listener);
    listener.Hide();
    if (absl::IsCancelled(result.status())) {
      Log(absl::StrCat("interrupted: ", left.size() - i,
                       " cells are left; the same command goes on with them"));
      return kExitInterrupt;
    }
    if (absl::IsInvalidArgument(result.status())) return Fail(result.status(), kExitConfig);
    if (!result.ok()) return FailedRun(session, result.status());
    const OrderedJson line = CellJson(cell, *result, Today());
    if (const absl::Status status = file->Append(line); !status.ok()) return Fail(status, kExitFailure);
    Log(absl::StrFormat("%d/%d  %s: %s (%.1f s)", i + 1, left.size(), NameOf(cell), Summary(line),
                        result->elapsed_s));
  }
  return kExitOk;
}

int ListCells(const Sweep& sweep, const std::string& path) {
  std::set<std::string> done;
  if (fs::exists(path)) {
    const absl::StatusOr<SweepResults> results = ReadResults(path);
    if (!results.ok()) return Fail(results.status(), kExitConfig);
    for (const OrderedJson& cell : results->cells) done.insert(cell["key"].get<std::string>());
  }
  std::string text;
  for (const Cell& cell : sweep.cells) {
    absl::StrAppend(&text, cell.key, done.contains(cell.key) ? "  done  " : "        ", NameOf(cell), "\n");
  }
  return Print(text).ok() ? kExitOk : kExitFailure;
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  stream.close();
  if (!stream) return absl::UnknownError(absl::StrCat(path, ": cannot be written"));
  return absl::OkStatus();
}

// Writes the report `html`, its charts beside it, and the table; says where, and the text summary on stdout.
int WriteReport(const std::string& results_path, const std::string& html) {
  const absl::StatusOr<SweepResults> results = ReadResults(results_path);
  if (!results.ok()) return Fail(results.status(), kExitConfig);
  if (results->cells.empty()) {
    Log(absl::StrCat(results_path, ": no cell is finished yet"));
    return kExitConfig;
  }
  const fs::path folder = fs::absolute(html).parent_path();
  const SweepReport report = MakeSweepReport(*results);
  absl::Status status = WriteText(html, report.html);
  for (const NamedChart& chart : report.charts) {
    if (status.ok()) status = WriteText((folder / (chart.name + ".svg")).string(), chart.svg);
  }
  if (status.ok()) status = WriteText((folder / "results.csv").string(), ResultsCsv(*results));
  if (status.ok()) status = Print(report.text);
  if (!status.ok()) return Fail(status, kExitFailure);
  Log(absl::StrCat("wrote ", html, ", ", report.charts.size(), " charts (.svg) and results.csv beside it"));
  return kExitOk;
}

}  // namespace

int RunSweep(const Args& args) {
  Sweep sweep;
  if (const int code = Prepare(args, &sweep); code != kExitOk) return code;
  const std::string folder = OutFolder(args);
  const std::string path = absl::StrCat(folder, "/results.jsonl");
  if (args.Has("--list")) return ListCells(sweep, path);
  std::error_code error;
  fs::create_directories(folder, error);
  const absl::StatusOr<std::unique_ptr<ResultsFile>> file = ResultsFile::Open(path);
  if (!file.ok()) return Fail(file.status(), kExitFailure);
  const absl::StatusOr<std::unique_ptr<Policy>> policy = MakePolicy(sweep.session.config);
  const ReportHeader header = DescribeRun(sweep.session.config, sweep.session.pair, **policy);
  const absl::Status begun =
      (*file)->Append(SweepJson(sweep.session.config, header, sweep.prompts, sweep.cells, Today()));
  if (!begun.ok()) return Fail(begun, kExitFailure);
  const int code = RunCells(sweep, file->get());
  if (code != kExitOk && code != kExitInterrupt) return code;
  const int written = WriteReport(path, absl::StrCat(folder, "/report.html"));
  return code == kExitOk ? written : code;
}

int RunReport(const Args& args) {
  std::string results = args.operand(0);
  if (fs::is_directory(results)) results = (fs::path(results) / "results.jsonl").string();
  const std::string beside = (fs::path(results).parent_path() / "report.html").string();
  return WriteReport(results, args.Value("--out", beside));
}

}  // namespace tandem
