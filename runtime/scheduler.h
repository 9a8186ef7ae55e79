// Scheduler: which request has which slot and which pages. First come, first served.
//
// A sequence holds pages for `ahead` positions more than the host knows it to have, and never for more than the longest it
// can become: what the rounds queued by then may write. A request waits until a slot is free and both caches have room for
// that. Running sequences grow; where the pages do not reach, the one admitted last gives its own back and waits in front
// of the queue. It needs what it held, and others have grown: so between two admissions of a sequence some other ends, and
// the one admitted first is never stopped.
//
// The host's own bookkeeping; it knows nothing of the device but what records say.
#ifndef TANDEM_RUNTIME_SCHEDULER_H_
#define TANDEM_RUNTIME_SCHEDULER_H_

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "runtime/model/cache.h"
#include "runtime/output.h"
#include "runtime/request.h"

namespace tandem {

// A request in a slot.
struct Sequence {
  Sequence(RequestResult result, const Tokenizer* tokenizer)
      : result(std::move(result)), output(this->result.request, tokenizer) {}
  Sequence(const Sequence&) = delete;

  // Committed tokens that the host knows of.
  int32_t length() const {
    return static_cast<int32_t>(result.request.prompt.size() + output.tokens().size());
  }
  // Moves the output into the result.
  void Complete(FinishReason reason);

  uint64_t admission = 0;             // as in SeqState; the latest
  std::optional<SeqState> preempted;  // its state as it left a slot; kept after it was admitted again
  RequestResult result;
  Output output;
  int32_t length_limit = 0;
};

class Scheduler {
 public:
  // `caches`: one per model, owned by their runners.
  Scheduler(int32_t n_slots, int32_t max_context, const Tokenizer* tokenizer,
            std::vector<PagedCache*> caches);

  void Submit(Request request);
  // The next waiting request's slot, the lowest free one, with pages reserved; nothing if it must wait. The caller fills the slot and sets its
  // sequence's admission.
  std::optional<int32_t> Admit(int32_t ahead);
  // Gives every running sequence the pages it needs and adds the page tables' new entries to `entries`. False if there
  // are too few, until some are released; those that got theirs keep them.
  [[nodiscard]] bool Grow(int32_t ahead, std::vector<PageTableEntry>* entries);
  // The slot of the sequence admitted last. REQUIRES: one is running.
  int32_t LastAdmitted() const;
  // The sequence in `slot` gives its pages and slot back and is the next to be admitted. REQUIRES: it is not alone, for
  // one that is has room (Engine::Check).
  void Preempt(int32_t slot);
  // The sequence in `slot` has ended: its pages and slot are free again.
  std::unique_ptr<Sequence> Release(int32_t slot);
  // Takes what still waits: requests that never ran, and preempted ones.
  std::vector<std::unique_ptr<Sequence>> TakeWaiting();

  Sequence* at(int32_t slot) { return slots_[slot].get(); }
  int32_t n_slots() const { return static_cast<int32_t>(slots_.size()); }
  // Slots up to the last one that holds a sequence, that one included.
  int32_t SlotsInUse() const;
  bool idle() const { return waiting_.empty() && n_running_ == 0; }
  size_t n_submitted() const { return n_submitted_; }
  void ResetCount() { n_submitted_ = 0; }

 private:
  int64_t PositionsFor(const Sequence& sequence, int32_t ahead) const;

  int32_t max_context_;
  const Tokenizer* tokenizer_;
  std::vector<PagedCache*> caches_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> slots_;
  int32_t n_running_ = 0;
  size_t n_submitted_ = 0;
};

int64_t NowNs();  // of the steady clock

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SCHEDULER_H_
