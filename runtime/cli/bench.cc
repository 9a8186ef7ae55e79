#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "runtime/bench_report.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/session.h"
#include "runtime/pair.h"
#include "runtime/read_rate.h"
#include "runtime/round_budget.h"
#include "runtime/rule_config.h"

namespace tandem {
namespace {

// Counts the requests that end over the whole bench, for the progress bar.
class BenchListener : public EngineListener {
 public:
  BenchListener(const InterruptScope& interrupt, int64_t n_total)
      : interrupt_(interrupt), n_total_(n_total) {}

  void Now(const std::string& what) {
    what_ = what;
    progress_.Show(what_, static_cast<double>(n_done_) / n_total_);
  }
  void OnRound(std::span<const SlotRecord> slots) override {
    if (reader_) reads_.Add(reader_->Of(slots));
  }
  void OnFinish(const RequestResult&) override {
    ++n_done_;
    Now(what_);
  }
  bool Cancelled() override { return interrupt_.Raised(); }

  // What the rounds from now on read; `reader` is that of the engine that runs them, or null.
  void CountReads(const RoundReader* reader) {
    reader_ = reader;
    reads_ = {};
  }
  const RoundReads& reads() const { return reads_; }

 private:
  const InterruptScope& interrupt_;
  const int64_t n_total_;
  const RoundReader* reader_ = nullptr;
  RoundReads reads_;
  int64_t n_done_ = 0;
  std::string what_;
  ProgressBar progress_;
};

// The two sides, and what is measured of them.
class Bench {
 public:
  Bench(const Session& session, const InterruptScope& interrupt, int n_repetitions)
      : session_(session),
        interrupt_(interrupt),
        n_repetitions_(n_repetitions),
        listener_(interrupt,
                  int64_t{2} * (n_repetitions + 1) * static_cast<int64_t>(session.requests.size())) {}

  // Runs it all; the exit code.
  int Run() {
    listener_.Now("the read rate");
    const EngineOptions options = MakeEngineOptions(session_.config);
    // Before the caches take what is free. A device with no room has no rate, and the report no floor.
    result_.read_rate =
        MeasureReadRate(session_.pair.spec.target.model->device(), options.n_threads).value_or(0);
    for (const Side side : {kTargetAlone, kPair}) {
      if (const int code = MakeSide(side); code != kExitOk) return code;
    }
    for (int r = 0; r <= n_repetitions_; ++r) {
      const std::string what = r == 0 ? "warm-up" : absl::StrCat("repetition ", r, " of ", n_repetitions_);
      // Neither side always comes first: what one leaves behind (caches, clocks, heat) falls on both.
      const Side first = r % 2 == 0 ? kPair : kTargetAlone;
      for (const Side side : {first, first == kPair ? kTargetAlone : kPair}) {
        listener_.Now(what);
        if (const int code = Pass(side, r > 0); code != kExitOk) return code;
      }
      if (r > 0 && session_.config.sampling.temperature == 0)
        result_.Compare(results_[kTargetAlone], results_[kPair]);
    }
    return kExitOk;
  }

  const BenchResult& result() const { return result_; }

 private:
  enum Side { kTargetAlone = 0, kPair = 1 };

  int MakeSide(Side side) {
    if (side == kPair && session_.config.cascade.is_query())
      return MakeGenerator(session_, false, &generators_[side]);
    std::unique_ptr<Engine> engine;
    if (const int code = MakeEngine(session_, side == kTargetAlone, &engine); code != kExitOk) return code;
    readers_[side] = std::make_unique<RoundReader>(engine->round());
    generators_[side] = std::move(engine);
    return kExitOk;
  }

  int Pass(Side side, bool measured) {
    Generator& generator = *generators_[side];
    if (const int code = SubmitAll(session_, &generator); code != kExitOk) return code;
    results_[side].clear();
    generator.ResetTimes();
    listener_.CountReads(readers_[side].get());
    const absl::Status status = generator.Run(&listener_, &results_[side]);
    if (!status.ok()) return FailedRun(session_, status);
    if (interrupt_.Raised()) return kExitInterrupt;
    if (measured)
      (side == kPair ? result_.pair : result_.target)
          .push_back(MeasurePass(results_[side], generator.times(), listener_.reads()));
    return kExitOk;
  }

  const Session& session_;
  const InterruptScope& interrupt_;
  const int n_repetitions_;
  BenchListener listener_;
  std::unique_ptr<Generator> generators_[2];
  std::unique_ptr<RoundReader> readers_[2];  // null: a query cascade's
  std::vector<RequestResult> results_[2];
  BenchResult result_;
};

}  // namespace

int RunBench(const Args& args) {
  if (args.Has("--planted")) return RunBenchPlanted(args);
  if (args.operand(0).empty()) {
    Log("expected CONFIG or --planted, got nothing (tandem bench --help)");
    return kExitUsage;
  }
  for (const Flag& flag : PlantedFlags()) {
    if (!args.Has(flag.name)) continue;
    Log(absl::StrCat(flag.name, ": belongs to --planted (tandem bench --help)"));
    return kExitUsage;
  }
  int n_repetitions = 3;
  const std::string wanted = args.Value("--repetitions", "3");
  if (!absl::SimpleAtoi(wanted, &n_repetitions) || n_repetitions < 3 || n_repetitions > 1000) {
    Log(absl::StrCat("--repetitions: expected a whole number from 3 to 1000, got ", wanted));
    return kExitUsage;
  }
  Session session;
  if (const int code = OpenSession(args, &session); code != kExitOk) return code;
  session.time_phases = true;
  const bool is_cascade = session.config.cascade.mode != "none";
  if (!session.pair.spec.has_drafter() || (session.config.speculation.gamma == 0 && !is_cascade)) {
    Log(absl::StrCat("bench compares the target alone with a pair, and ", args.operand(0),
                     session.pair.spec.has_drafter() ? " has speculation.gamma 0" : " names no draft"));
    return kExitConfig;
  }
  const InterruptScope interrupt;
  auto bench = std::make_unique<Bench>(session, interrupt, n_repetitions);
  int code = bench->Run();
  const BenchResult& result = bench->result();
  const size_t n_done = std::min(result.target.size(), result.pair.size());
  if (code == kExitInterrupt)
    Log(absl::StrCat("interrupted after ", n_done, " of ", n_repetitions, " repetitions"));
  if (code != kExitOk && (code != kExitInterrupt || n_done == 0)) return code;

  BenchResult whole = result;  // an interrupt may have left one side a repetition ahead
  whole.target.resize(n_done);
  whole.pair.resize(n_done);
  whole.is_cascade = is_cascade;
  const std::unique_ptr<Policy> policy = *MakePolicy(session.config);
  const ReportHeader header = DescribeRun(session.config, session.pair, *policy);
  const bool json_only = args.Value("--json") == "-";
  const std::string path = json_only ? "-" : session.config.report.json.text;
  if (!path.empty()) {
    const absl::Status written = WriteJson(BenchJson(session.config, header, whole), path);
    if (!written.ok()) return Fail(written, kExitFailure);
  }
  if (!json_only) {
    const absl::Status printed = Print(BenchText(header, whole, StdoutHasColour()));
    if (!printed.ok()) return Fail(printed, kExitFailure);
  }
  const bool greedy = session.config.sampling.temperature == 0;
  const bool exact = !is_cascade && policy->guarantee(greedy) == Guarantee::kExact;
  if (code == kExitOk && exact && whole.n_different > 0) {
    Log("the rule is exact, and greedy outputs differ from the target's");
    code = kExitCheck;
  }
  return code;
}

}  // namespace tandem
