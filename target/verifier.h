// Verifier: scores a block. One forward of the target over the last committed token and the proposed ones gives the
// law at every position of the block and at the one after it.
//
// Owned by the engine; recorded from by one thread.
#ifndef TANDEM_TARGET_VERIFIER_H_
#define TANDEM_TARGET_VERIFIER_H_

#include <memory>

#include "runtime/model/runner.h"

namespace tandem {

class Verifier {
 public:
  Verifier(std::shared_ptr<const Model> model, const RunnerOptions& options);

  // Appends the scoring of `proposal`; of a round without a drafter, whose n_proposed is all zeros, too. All round programs
  // share the scores' buffers.
  Scores score(Program& round, const Batch& batch, const Proposal& proposal);
  // Appends a forward that feeds committed tokens the target has not seen.
  void Prefill(Program& program, const Batch& batch, int32_t chunk);
  ModelRunner& runner() { return runner_; }

 private:
  ModelRunner runner_;
  Arena arena_;
};

}  // namespace tandem

#endif  // TANDEM_TARGET_VERIFIER_H_
