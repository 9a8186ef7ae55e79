// ModelDrafter: a small language model proposes token by token, each drawn from its own law q under the request's
// sampling parameters (arXiv 2211.17192). A sequence stops early where q of the token drawn is under its threshold.
#ifndef TANDEM_DRAFT_MODEL_DRAFTER_H_
#define TANDEM_DRAFT_MODEL_DRAFTER_H_

#include <memory>

#include "draft/drafter.h"

namespace tandem {

class ModelDrafter : public Drafter {
 public:
  // `n_vocab`: token ids the pair shares; q is 0 from there on. `bonus_law`: also find q after the last proposed token,
  // one more forward a round.
  ModelDrafter(std::shared_ptr<const Model> model, const RunnerOptions& options, int32_t n_vocab,
               bool bonus_law);

  Proposal propose(Program& round, const Batch& batch) override;
  void Prefill(Program& program, const Batch& batch, int32_t chunk) override;
  ModelRunner* runner() override { return &runner_; }

 private:
  ModelRunner runner_;
  int32_t n_vocab_;
  bool bonus_law_;
  Arena arena_;
};

}  // namespace tandem

#endif  // TANDEM_DRAFT_MODEL_DRAFTER_H_
