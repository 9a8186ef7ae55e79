// Drafter: proposes a block of tokens for every slot. It records its steps once per round program, on the draft lane;
// what a proposal is, and that it stands beside the sequence, core/sequence.h says.
//
// Owned by the engine; recorded from by one thread.
#ifndef TANDEM_DRAFT_DRAFTER_H_
#define TANDEM_DRAFT_DRAFTER_H_

#include "runtime/core/buffer.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/model/runner.h"

namespace tandem {

class Drafter {
 public:
  virtual ~Drafter() = default;

  // Appends the steps that fill the proposal. All round programs share its buffers, for a proposal is of one round.
  virtual Proposal propose(Program& round, const Batch& batch) = 0;
  // Appends a forward that feeds committed tokens the drafter has not seen; nothing for a drafter without a cache.
  virtual void Prefill(Program&, const Batch&, int32_t /*chunk*/) {}
  // The model at work, or null.
  virtual ModelRunner* runner() { return nullptr; }
};

// The arrays of a proposal without a law, for `batch` and on its device, all zeros.
Proposal NewProposal(Arena& arena, const Batch& batch);

// Proposes nothing: plain decoding.
class NoDrafter : public Drafter {
 public:
  Proposal propose(Program&, const Batch& batch) override {
    arena_.Rewind();
    return NewProposal(arena_, batch);
  }

 private:
  Arena arena_;
};

}  // namespace tandem

#endif  // TANDEM_DRAFT_DRAFTER_H_
