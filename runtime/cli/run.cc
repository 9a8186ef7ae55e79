#include <absl/strings/str_cat.h>

#include <memory>
#include <utility>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/session.h"
#include "runtime/cli/stream.h"
#include "runtime/report.h"
#include "runtime/report_json.h"
#include "runtime/rule_config.h"

namespace tandem {
namespace {

// What a trace cannot show.
int CheckTrace(const Session& session) {
  if (!session.config.cascade.is_query()) return kExitOk;
  Log("--trace: a query cascade runs two engines, and a trace shows one; leave out cascade");
  return kExitUsage;
}

}  // namespace

int RunGenerate(const Args& args) {
  Session session;
  if (const int code = OpenSession(args, &session); code != kExitOk) return code;
  StepTrace trace;
  const std::string trace_path = args.Value("--trace");
  if (!trace_path.empty()) {
    if (const int code = CheckTrace(session); code != kExitOk) return code;
    session.trace = &trace;
  }
  std::unique_ptr<Generator> generator;
  if (const int code = MakeGenerator(session, false, &generator); code != kExitOk) return code;
  if (const int code = SubmitAll(session, generator.get()); code != kExitOk) return code;

  const bool json_only = args.Value("--json") == "-";
  const bool colour = StdoutHasColour() && !json_only;
  const InterruptScope interrupt;
  TextStream stream(session.requests, session.pair.tokenizer.get(), interrupt,
                    json_only ? Show::kNothing
                    : colour  ? Show::kColours
                              : Show::kPlain);
  std::vector<RequestResult> results;
  generator->ResetTimes();
  const absl::Status run = generator->Run(&stream, &results);
  stream.Finish();

  std::vector<const RequestResult*> pointers;
  for (const RequestResult& result : results) pointers.push_back(&result);
  const Measured total = Measure(pointers, generator->times());
  const ReportHeader header = DescribeRun(session.config, session.pair, **MakePolicy(session.config));
  if (!json_only && session.config.report.text && !results.empty()) {
    const absl::Status printed =
        Print(absl::StrCat("\n", colour ? ColourLegend() + "\n" : "", TextReport(header, total, colour)));
    if (!printed.ok()) return Fail(printed, kExitFailure);
  }
  const std::string path = json_only ? "-" : session.config.report.json.text;
  if (!path.empty()) {
    const absl::Status written =
        WriteJson(RunJson(session.config, header, pointers, total, session.pair.tokenizer != nullptr), path);
    if (!written.ok()) return Fail(written, kExitFailure);
  }
  if (!trace_path.empty()) {
    const absl::Status written = WriteJson(trace.Json(session.config.target.device), trace_path);
    if (!written.ok()) return Fail(written, kExitFailure);
    if (trace.full()) Warn("the trace is cut: it holds the first million steps of a lane");
  }
  if (!run.ok()) return FailedRun(session, run);
  if (interrupt.Raised()) {
    Log("interrupted: the report is of what had run");
    return kExitInterrupt;
  }
  return stream.status().ok() ? kExitOk : Fail(stream.status(), kExitFailure);
}

}  // namespace tandem
