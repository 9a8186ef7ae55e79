// Query-level cascade: the draft answers the whole request; an answer whose score (runtime/cascade/score.h) is under the
// threshold is thrown away and the request redone by the target.
//
// Two stages, each an engine: the draft alone, and the pair as it would run without a cascade, whose rule must be exact:
// with speculation if gamma > 0, where the draft proposes; else the target alone. Both have `n_slots` slots, and requests
// flow from one to the other, but no more than n_slots are at work at once: with a batch of 1 a request is answered, and
// redone if need be, before the next begins. Weights are shared; the stages have caches of their own.
//
// What is kept is known only when an answer is complete, so a draft's answer is handed over whole; a redone one as it
// comes. Times in a result are those at which the caller had the tokens; `stages` tells when each stage worked.
//
// One thread, the host, calls every method.
#ifndef TANDEM_RUNTIME_CASCADE_QUERY_CASCADE_H_
#define TANDEM_RUNTIME_CASCADE_QUERY_CASCADE_H_

#include <memory>
#include <vector>

#include "policies/policy.h"
#include "runtime/cascade/score.h"
#include "runtime/engine.h"
#include "runtime/generator.h"

namespace tandem {

struct QueryCascadeOptions {
  AnswerScore score = AnswerScore::kMean;
  double quantile = 0.1;  // AnswerScore::kQuantile
  double threshold = 0;   // an answer whose score is under it is redone
};

class QueryCascade : public Generator {
 public:
  // `options` and `policy`: of the pair, the second stage. Errors as of Engine::Create, and kInvalidArgument without a
  // draft model or with a rule that is not exact.
  static absl::StatusOr<std::unique_ptr<QueryCascade>> Create(const QueryCascadeOptions& cascade,
                                                              const EngineOptions& options, PairSpec pair,
                                                              std::unique_ptr<Policy> policy);

  // As in Generator. A request must fit both stages.
  absl::Status Submit(Request request) override;
  absl::Status Run(EngineListener* listener, std::vector<RequestResult>* results) override;
  PhaseTimes times() const override;
  void ResetTimes() override;

 private:
  // A stage's listener: knows whose the engine's requests are.
  class Stage : public EngineListener {
   public:
    Stage(QueryCascade* cascade, std::unique_ptr<Engine> engine)
        : cascade_(cascade), engine_(std::move(engine)) {}
    Engine& engine() const { return *engine_; }
    absl::Status Submit(size_t item, const Request& request);
    absl::Status Step() { return engine_->idle() ? absl::OkStatus() : engine_->Step(this); }
    void Abandon(FinishReason reason);

    void OnTokens(const Request& request, std::span<const int32_t> tokens, std::span<const Origin> origin,
                  std::string_view text) override;
    void OnFinish(const RequestResult& result) override;

   private:
    QueryCascade* cascade_;
    std::unique_ptr<Engine> engine_;
    std::vector<size_t> items_;  // by the engine's order of submission
  };

  // A submitted request, and what has become of it.
  struct Item {
    RequestResult result;
    bool finished = false;
  };

  QueryCascade(const QueryCascadeOptions& cascade, int32_t n_slots, std::unique_ptr<Engine> draft,
               std::unique_ptr<Engine> pair);

  absl::Status AdmitWaiting();
  void Answered(size_t item, const RequestResult& draft);
  void Redone(size_t item, const RequestResult& pair);
  void Accept(Item& item, const RequestResult& draft);
  void Finish(Item& item);

  QueryCascadeOptions options_;
  int32_t n_slots_;
  Stage draft_;
  Stage pair_;
  std::vector<Item> items_;
  size_t next_ = 0;                     // item to admit
  int32_t n_running_ = 0;               // items in a stage
  absl::Status status_;                 // of handing a request to the second stage
  EngineListener* listener_ = nullptr;  // of the Run in progress
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CASCADE_QUERY_CASCADE_H_
