// What `run`, `bench` and `sweep` share: a configuration made into a loaded pair and its requests, and engines over
// them.
#ifndef TANDEM_RUNTIME_CLI_SESSION_H_
#define TANDEM_RUNTIME_CLI_SESSION_H_

#include <memory>
#include <vector>

#include "runtime/cli/args.h"
#include "runtime/config.h"
#include "runtime/engine.h"
#include "runtime/pair.h"
#include "runtime/request.h"
#include "runtime/trace.h"

namespace tandem {

struct Session {
  Config config;
  Pair pair;
  std::vector<Request> requests;
  bool time_phases = false;    // as EngineOptions
  StepTrace* trace = nullptr;  // what engines tell of their steps, if anybody wants to know; outlives them
};

// Each returns kExitOk, or the exit code, having said what is wrong.
int OpenSession(const Args& args, Session* session);
// The pair of a configuration that has been read; no prompts.
int OpenPair(Session* session);
// An engine over the pair, or over its target alone.
int MakeEngine(const Session& session, bool target_alone, std::unique_ptr<Engine>* engine);
// The same, or the query cascade that the configuration asks for.
int MakeGenerator(const Session& session, bool target_alone, std::unique_ptr<Generator>* generator);
int SubmitAll(const Session& session, Generator* generator);

// The exit code of a run that ended with an error, having said it: where a weight is NaN or infinite, that is
// the error.
int FailedRun(const Session& session, const absl::Status& status);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CLI_SESSION_H_
