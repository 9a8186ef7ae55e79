#include "runtime/cli/session.h"

#include <absl/strings/str_cat.h>

#include <chrono>
#include <utility>

#include "runtime/cascade/cascade_config.h"
#include "runtime/cascade/query_cascade.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/model/checkpoint.h"
#include "runtime/report.h"
#include "runtime/rule_config.h"

namespace tandem {
namespace {

// What a configuration says is wrong exits with 3, what a checkpoint says with 4.
int FailedModel(const absl::Status& status) {
  return Fail(status, absl::IsInvalidArgument(status) ? kExitConfig : kExitModel);
}

}  // namespace

int OpenSession(const Args& args, Session* session) {
  if (const int code = ReadConfig(args, &session->config); code != kExitOk) return code;
  if (session->config.prompts.prompts.empty()) {
    Log(absl::StrCat("no prompts: give --prompt TEXT or --prompts FILE, or write prompts into ",
                     args.operand(0)));
    return kExitUsage;
  }
  if (const int code = OpenPair(session); code != kExitOk) return code;
  absl::StatusOr<std::vector<Request>> requests = MakeRequests(session->config, session->pair);
  if (!requests.ok()) return Fail(requests.status(), kExitConfig);
  session->requests = *std::move(requests);
  return kExitOk;
}

int OpenPair(Session* session) {
  const absl::StatusOr<GenerationDefaults> defaults = ApplyGenerationDefaults(&session->config);
  if (!defaults.ok()) return FailedModel(defaults.status());
  const auto begin = std::chrono::steady_clock::now();
  absl::StatusOr<Pair> pair = LoadPair(session->config, *defaults);
  if (!pair.ok()) return FailedModel(pair.status());
  session->pair = *std::move(pair);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  for (const std::string& warning : session->pair.warnings) Warn(warning);
  Log(absl::StrCat("models loaded in ", FormatMs(took.count())));
  return kExitOk;
}

int MakeEngine(const Session& session, bool target_alone, std::unique_ptr<Engine>* engine) {
  EngineOptions options = MakeEngineOptions(session.config);
  options.time_phases = session.time_phases;
  options.trace = session.trace;
  PairSpec spec = session.pair.spec;
  absl::StatusOr<std::unique_ptr<Policy>> policy = MakePolicy(session.config);
  if (target_alone) {
    options.gamma = 0;
    options.token_cascade = false;
    spec.draft.reset();
    spec.ngram.reset();
    policy = Policy::Create(PolicyOptions(), false);
  }
  if (!policy.ok()) return Fail(policy.status(), kExitConfig);
  absl::StatusOr<std::unique_ptr<Engine>> made = Engine::Create(options, std::move(spec), *std::move(policy));
  if (!made.ok()) return Fail(made.status(), kExitConfig);
  *engine = *std::move(made);
  return kExitOk;
}

int MakeGenerator(const Session& session, bool target_alone, std::unique_ptr<Generator>* generator) {
  const CascadeConfig& cascade = session.config.cascade;
  if (target_alone || !cascade.is_query()) {
    std::unique_ptr<Engine> engine;
    const int code = MakeEngine(session, target_alone, &engine);
    *generator = std::move(engine);
    return code;
  }
  absl::StatusOr<std::unique_ptr<Policy>> policy = MakePolicy(session.config);
  if (!policy.ok()) return Fail(policy.status(), kExitConfig);
  absl::StatusOr<std::unique_ptr<QueryCascade>> made =
      QueryCascade::Create(MakeQueryCascadeOptions(cascade), MakeEngineOptions(session.config),
                           session.pair.spec, *std::move(policy));
  if (!made.ok()) return Fail(made.status(), kExitConfig);
  *generator = *std::move(made);
  return kExitOk;
}

int SubmitAll(const Session& session, Generator* generator) {
  for (size_t i = 0; i < session.requests.size(); ++i) {
    const absl::Status status = generator->Submit(session.requests[i]);
    if (status.ok()) continue;
    const std::string message =
        absl::StrCat(session.config.prompts.prompts[i].where.Text(), ": ", std::string(status.message()));
    return Fail(absl::Status(status.code(), message), kExitConfig);
  }
  return kExitOk;
}

int FailedRun(const Session& session, const absl::Status& status) {
  std::vector<std::string> folders = {session.pair.spec.target.name};
  if (session.pair.spec.draft) folders.push_back(session.pair.spec.draft->name);
  for (const std::string& folder : folders) {
    if (const absl::Status finite = CheckWeightsFinite(folder); !finite.ok()) return Fail(finite, kExitModel);
  }
  return Fail(status, kExitFailure);
}

}  // namespace tandem
