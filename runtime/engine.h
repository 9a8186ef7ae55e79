// Engine: runs requests on one pair of models under one rule. engine.cc shows the flow of a round.
//
// One thread, the host, calls every method. The engine's lanes (runtime/executor.h) may run on threads of their own;
// what is true about a sequence lives with them, and the host learns of it through the records of finished rounds.
#ifndef TANDEM_RUNTIME_ENGINE_H_
#define TANDEM_RUNTIME_ENGINE_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "policies/policy.h"
#include "runtime/core/program.h"
#include "runtime/core/status.h"
#include "runtime/executor.h"
#include "runtime/model/model.h"
#include "runtime/model/tokenizer.h"
#include "runtime/request.h"

namespace tandem {

struct EngineOptions {
  int32_t n_slots = 1;           // sequences in a batch
  int32_t gamma = 0;             // proposed tokens per block; 0: no speculation
  GammaSchedule schedule = GammaSchedule::kFixed;
  float confidence_min = 0;      // stop drafting after a token whose q is under it; 0: never
  int32_t max_context = 0;       // longest sequence; 0: the smaller of the models' max_context
  int32_t page_size = 16;        // cache positions per page
  int64_t cache_tokens = 0;      // positions that each cache holds; 0: n_slots * max_context
  int32_t prefill_chunk = 128;   // rows of one prefill forward
  int32_t rounds_ahead = 1;      // rounds that may be queued beyond the one whose record the host waits for
  StreamMode streams = StreamMode::kInline;
  int32_t n_threads = 1;         // CPU threads that run one lane's steps
  uint64_t adversary_seed = 0;   // StreamMode::kAdversarial
  Uniforms uniforms;
};

struct ModelSpec {
  std::shared_ptr<const Model> model;
  ActivationDType dtype = ActivationDType::kF32;
  std::string name;              // for errors: the folder
};

// n-gram prompt lookup: propose what followed the longest earlier match of the sequence's last min..max tokens.
struct NgramSpec {
  int32_t min = 2;
  int32_t max = 5;
};

// A drafter that runs on the host, given the committed tokens; the slower mode of plug-ins. It proposes at most
// `wanted` tokens. What it returns is checked before use.
using HostDrafter =
    std::function<void(std::span<const int32_t> committed, int32_t wanted, std::vector<int32_t>* proposed)>;

struct PairSpec {
  ModelSpec target;
  std::optional<ModelSpec> draft;     // at most one of these three
  std::optional<NgramSpec> ngram;
  HostDrafter host_drafter;
  int32_t n_vocab = 0;                // token ids that both models share; 0: the target's
  const Tokenizer* tokenizer = nullptr;  // for text and stop strings; outlives the engine

  bool has_drafter() const { return draft.has_value() || ngram.has_value() || host_drafter != nullptr; }
};

// What the caller sees while the engine runs. Called on the host's thread, in order per request.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  // Tokens of one round, final: never taken back. `text` is what they add to the output, whole characters only.
  virtual void OnTokens(const Request& request, std::span<const int32_t> tokens, std::span<const Origin> origin,
                        std::string_view text) {}
  virtual void OnFinish(const RequestResult& result) {}
  // Asked once per round: true ends the run after it, every unfinished request as kCancelled.
  virtual bool Cancelled() { return false; }
};

class Engine {
 public:
  // Plans memory, records every program, allocates everything. Errors: kInvalidArgument for options out of range,
  // kResourceExhausted where the cache is too small for one sequence (saying how many tokens fit).
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, PairSpec pair,
                                                        std::unique_ptr<Policy> policy);
  ~Engine();

  // Queues a request. kInvalidArgument: an empty prompt, ids outside the vocabulary, a prompt longer than the context
  // (saying how long it may be), stop strings without a tokenizer.
  absl::Status Submit(Request request);

  // Runs until every submitted request has ended. Results in the order of submission. A fault of a drafter, model or
  // rule ends the run with an error that names it; results of requests that had finished are in `*results` even then.
  absl::Status Run(EngineListener* listener, std::vector<RequestResult>* results);

  // Time since Create or ResetTimes, by phase; and the rounds run.
  PhaseTimes times() const;
  void ResetTimes();

  int32_t max_context() const;
  // Bytes: both caches, both workspaces, laws. (Weights are the models'.)
  struct Memory {
    int64_t target_cache = 0, draft_cache = 0, workspace = 0, laws = 0;
  };
  Memory memory() const;
  const Policy& policy() const;
  // The recorded round, for tests and tools that print or extend it. Before the first Run only.
  Program& round();

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_ENGINE_H_
