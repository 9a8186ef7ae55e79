// Generator: answers requests. An engine is one; a query cascade (runtime/cascade) is one made of engines. What `run` and
// `bench` drive.
//
// One thread, the host, calls every method.
#ifndef TANDEM_RUNTIME_GENERATOR_H_
#define TANDEM_RUNTIME_GENERATOR_H_

#include <span>
#include <string_view>
#include <vector>

#include "runtime/core/sequence.h"
#include "runtime/core/status.h"
#include "runtime/executor.h"
#include "runtime/request.h"

namespace tandem {

// What the caller sees while requests are answered. Called on the host's thread, in order per request.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  // Tokens of one round, final: never taken back. `text` is what they add to the output, whole characters only.
  virtual void OnTokens(const Request& /*request*/, std::span<const int32_t> /*tokens*/,
                        std::span<const Origin> /*origin*/, std::string_view /*text*/) {}
  // What a finished round did, of every slot that it was for: the first ones of the batch, all that were in use when it was
  // enqueued; before the OnTokens and OnFinish that come of it. A query cascade does not tell its engines' rounds.
  virtual void OnRound(std::span<const SlotRecord> /*slots*/) {}
  virtual void OnFinish(const RequestResult& /*result*/) {}
  // Asked once per round: true ends the run after it, every unfinished request as kCancelled.
  virtual bool Cancelled() { return false; }
};

class Generator {
 public:
  virtual ~Generator() = default;

  // Queues a request. kInvalidArgument: an empty prompt, ids outside the vocabulary, a prompt longer than the context
  // (saying how long it may be), stop strings without a tokenizer.
  virtual absl::Status Submit(Request request) = 0;

  // Runs until every submitted request has ended. Results in the order of submission. A fault of a drafter, model or
  // rule, or of the device (kInternal), ends the run with an error that names it; what there is of the results is in
  // `*results` even then. After a fault of the device it cannot run again.
  virtual absl::Status Run(EngineListener* listener, std::vector<RequestResult>* results) = 0;

  // Time since it was made or since ResetTimes, by phase.
  virtual PhaseTimes times() const = 0;
  virtual void ResetTimes() = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_GENERATOR_H_
