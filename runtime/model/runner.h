// ModelRunner: one model at work for one batch: its cache, its workspace, and one verb, Extend.
//
// Prefill, a draft step, verification, recovery and a draft that sat rounds out are the same verb: compute K and V of
// the tokens that the cache does not have yet, and the logits that are wanted. Which tokens those are, the plan step
// reads from SeqState when the program runs.
//
// Owned by a drafter or the verifier; recorded from by one thread.
#ifndef TANDEM_RUNTIME_MODEL_RUNNER_H_
#define TANDEM_RUNTIME_MODEL_RUNNER_H_

#include <memory>

#include "kernels/plan/plan.h"
#include "runtime/model/cache.h"
#include "runtime/model/model.h"

namespace tandem {

struct RunnerOptions {
  Side side = kTarget;
  ActivationDType dtype = ActivationDType::kF32;
  CacheOptions cache;    // its dtype and device are set by the runner
  int32_t max_rows = 1;  // of one forward
  int32_t n_workers = 1;
  bool catches_up = false;  // verification may lack any number of rows: a token cascade's target
};

class ModelRunner {
 public:
  ModelRunner(std::shared_ptr<const Model> model, const RunnerOptions& options);

  // What one Extend computes; fields as in PlanArgs.
  struct What {
    PlanKind kind;
    int32_t index = 0;
    bool bonus_law = false;
    int32_t chunk = 0;
    Proposal proposal = {};
  };
  // Appends one forward at the program's lane and phase: plan, the model's steps, advance, and the laws of the rows
  // whose logits are wanted. `out.logits` null: none are. Returns the rows, for steps that follow.
  RowPlan Extend(Program& program, const Batch& batch, const What& what, const LawBuffer& out);

  const Model& model() const { return *model_; }
  PagedCache& cache() { return cache_; }
  int64_t workspace_bytes() const { return static_cast<int64_t>(arena_.bytes()); }

 private:
  int32_t RowsAtMost(const What& what, const Batch& batch) const;

  std::shared_ptr<const Model> model_;
  RunnerOptions options_;
  Arena arena_;
  PagedCache cache_;
  Workspace workspace_;
  RowPlan rows_;
  float* law_scratch_ = nullptr;  // [n_workers, stride of the laws]
  int32_t law_stride_ = 0;
};

// A row of logits per (slot, position in the block), zeroed.
LawBuffer NewLaws(Arena& arena, int64_t n_rows, int32_t n_head_rows, int32_t n_vocab);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_RUNNER_H_
