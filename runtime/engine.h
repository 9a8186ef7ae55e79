// Engine: runs requests on one pair of models under one rule. engine.cc shows the flow of a round.
//
// One thread, the host, calls every method. The engine's lanes (runtime/executor.h) may run on threads of their own;
// what is true about a sequence lives with them, and the host learns of it through the records of finished rounds.
#ifndef TANDEM_RUNTIME_ENGINE_H_
#define TANDEM_RUNTIME_ENGINE_H_

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "draft/drafter.h"
#include "draft/host_drafter.h"
#include "policies/policy.h"
#include "runtime/core/program.h"
#include "runtime/core/status.h"
#include "runtime/executor.h"
#include "runtime/generator.h"
#include "runtime/model/model.h"
#include "runtime/model/tokenizer.h"
#include "runtime/request.h"
#include "runtime/scheduler.h"
#include "runtime/settle.h"
#include "target/verifier.h"

namespace tandem {

struct EngineOptions {
  int32_t n_slots = 1;  // sequences in a batch
  int32_t gamma = 0;    // proposed tokens per block; 0: no speculation
  GammaSchedule schedule = GammaSchedule::kFixed;
  float confidence_min = 0;     // stop drafting after a token whose q is under it; 0: never
  int32_t max_context = 0;      // longest sequence; 0: the smaller of the models' max_context
  int32_t page_size = 16;       // cache positions per page
  int64_t cache_tokens = 0;     // positions that each cache holds; 0: the longest of every slot
  int32_t prefill_chunk = 128;  // rows of one prefill forward
  int32_t rounds_ahead = 1;     // rounds that may be queued beyond the one whose record the host waits for
  bool buckets = true;  // rounds of fewer slots where fewer are in use (buckets.h); the same bits either way
  StreamMode streams = StreamMode::kInline;
  int32_t n_threads = 1;        // CPU threads that run one lane's steps
  uint64_t adversary_seed = 0;  // StreamMode::kAdversarial
  bool check_steps = false;     // as ExecutorOptions
  bool stream_kernels = true;   // likewise
  bool time_phases = false;     // likewise
  StepTrace* trace = nullptr;   // likewise; told of rounds too
  Uniforms uniforms;
  // The draft writes and the policy's rule, a draft_only one, says where it defers: no speculation, gamma is not used
  // (runtime/cascade/token_cascade.h). Needs a draft model.
  bool token_cascade = false;
  bool log_probs = false;  // results tell log p1 of every token, where the target scored it
};

struct ModelSpec {
  std::shared_ptr<const Model> model;
  ActivationDType dtype = ActivationDType::kF32;
  std::string name;  // for errors: the folder
};

// n-gram prompt lookup: propose what followed the longest earlier match of the sequence's last min..max tokens.
struct NgramSpec {
  int32_t min = 2;
  int32_t max = 5;
};

struct PairSpec {
  ModelSpec target;
  std::optional<ModelSpec> draft;  // at most one of these three
  std::optional<NgramSpec> ngram;
  HostDraftFunction host_drafter;        // draft/host_drafter.h
  int32_t n_vocab = 0;                   // token ids that both models share; 0: the target's
  const Tokenizer* tokenizer = nullptr;  // for text and stop strings; outlives the engine

  bool has_drafter() const { return draft.has_value() || ngram.has_value() || host_drafter != nullptr; }
};

class Engine : public Generator {
 public:
  // Plans memory, records every program, allocates everything, on the device of the target's model. Errors:
  // kInvalidArgument for options out of range, kResourceExhausted where the cache is too small for one sequence (saying
  // how many tokens fit), kUnavailable for a device that is not there.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, PairSpec pair,
                                                        std::unique_ptr<Policy> policy);
  ~Engine() override;

  // As in Generator.
  absl::Status Submit(Request request) override;
  absl::Status Run(EngineListener* listener, std::vector<RequestResult>* results) override;
  PhaseTimes times() const override;
  void ResetTimes() override;

  // Run, one turn at a time, for a caller that turns several engines: Step while not idle(), then Abandon. What Submit
  // would refuse, Check does. Results come through OnFinish alone; a request that never ran has none.
  absl::Status Check(const Request& request) const;
  bool idle() const { return scheduler_->idle(); }
  absl::Status Step(EngineListener* listener);
  // Ends whatever has not: nothing of it is left on the device or in the caches.
  void Abandon(FinishReason reason, EngineListener* listener);

  int32_t max_context() const { return options_.max_context; }
  // Bytes beside the weights, which are the models'.
  struct Memory {
    int64_t target_cache = 0;
    int64_t draft_cache = 0;
    int64_t workspace = 0;
  };
  Memory memory() const;
  const Policy& policy() const { return *policy_; }
  // The recorded round of all slots, for tools that print it.
  const Program& round() const { return buckets_.front().round; }

 private:
  enum Event : EventId { kSettled, kDrafted, kPrefilled };
  // A round of the first n_slots slots.
  struct Bucket {
    int32_t n_slots;
    Program round;
  };
  struct QueuedRound {
    uint64_t program;  // which one it is of those enqueued
    int32_t n_slots;
  };

  Engine(const EngineOptions& options, PairSpec pair, std::unique_ptr<Policy> policy);

  void Record(Program& round, const Batch& batch);
  void Settle(Program& round, const Batch& batch, const Proposal& proposal, const Scores& scores,
              const Verdicts& verdicts);
  void Publish(Program& round, const Batch& batch);
  void RecordPrograms();
  absl::Status MakeExecutor();

  absl::Status ReservePages(EngineListener* listener);
  absl::Status Preempt(int32_t slot);
  void AdmitWaiting();
  SeqState FirstState(const Sequence& sequence) const;
  void EnqueuePrefill(const Sequence& sequence);
  void Enqueue(const Program& program);
  // Rounds that are queued and unread when the host waits.
  int32_t RoundsQueued() const { return executor_->runs_ahead() ? 1 + options_.rounds_ahead : 1; }
  int32_t PositionsAhead() const;
  void QueueRounds();
  const Bucket& SmallestBucket(int32_t n_slots) const;
  absl::Status ReadRound(EngineListener* listener);
  absl::Status ReadSlot(int32_t slot, const RoundRecord& round, EngineListener* listener);
  void Keep(RequestResult result);
  void Finish(std::unique_ptr<Sequence> sequence, FinishReason reason, EngineListener* listener);
  absl::Status FaultError(int32_t slot, const SlotRecord& record) const;

  EngineOptions options_;
  PairSpec pair_;
  std::unique_ptr<Policy> policy_;
  Arena arena_;
  Arena shared_;  // what the host writes for steps to read, and the reverse
  Batch batch_;
  std::unique_ptr<Verifier> verifier_;
  std::unique_ptr<Drafter> drafter_;
  std::unique_ptr<Scheduler> scheduler_;

  // Programs, recorded once.
  std::vector<Bucket> buckets_;  // from the largest down
  Program prefill_{"prefill"};
  Program recover_{"recover"};
  int32_t recover_rows_;  // of one recovery
  Program grow_{"grow"};
  std::vector<Program> admit_;    // [n_slots]
  std::vector<Program> cut_;      // [n_slots]
  std::vector<Program> preempt_;  // [n_slots]

  // Written by the host before the program that reads it is enqueued.
  SeqState* staged_;          // [n_slots]; preempt writes it, too
  TokenTable staged_tokens_;  // prompts, and what was written before a preemption
  int32_t* cut_length_;       // [n_slots]
  PageGrowth* growths_;       // [ring_size_], read by grow; a round follows each before the next
  int64_t n_grown_ = 0;
  std::vector<PageTableEntry> grown_;  // reused

  SlotRecord* records_;  // [n_slots], settle to publish
  int64_t* n_published_;
  RoundRecord* ring_;  // [ring_size_], written by publish
  int32_t ring_size_;
  int64_t n_read_ = 0;               // rounds
  uint64_t n_enqueued_ = 0;          // programs
  std::vector<QueuedRound> queued_;  // [ring_size_]
  int64_t n_rounds_ = 0;             // rounds enqueued
  uint64_t n_admitted_ = 0;
  std::vector<RequestResult>* results_ = nullptr;  // of the Run in progress; null: the caller steps

  std::unique_ptr<Executor> executor_;  // last: its lanes stop before what they use is gone
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_ENGINE_H_
