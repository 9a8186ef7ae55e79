// HostDrafter: a plug-in that proposes on the host, given the committed tokens. The round waits for it: a second,
// slower mode. It is not trusted: a proposal with a token outside the vocabulary, or with more than were wanted, ends
// the sequence with Fault::kProposal.
#ifndef TANDEM_DRAFT_HOST_DRAFTER_H_
#define TANDEM_DRAFT_HOST_DRAFTER_H_

#include <functional>
#include <span>
#include <vector>

#include "draft/drafter.h"

namespace tandem {

// `proposed` comes in empty. At most `wanted` tokens; none is fine.
using HostDraftFunction =
    std::function<void(std::span<const int32_t> committed, int32_t wanted, std::vector<int32_t>* proposed)>;

struct HostDraftArgs {
  static constexpr Op kOp = Op::kHostDraft;
  const HostDraftFunction* function;
  std::vector<int32_t>* proposed;  // reused
  int32_t n_slots;
  int32_t n_vocab;
  const SeqState* states;
  TokenTable tokens;
  Proposal proposal;
};

void HostDraft(const HostDraftArgs& args);

class HostDrafter : public Drafter {
 public:
  HostDrafter(HostDraftFunction function, int32_t n_vocab)
      : function_(std::move(function)), n_vocab_(n_vocab) {}

  Proposal propose(Program& round, const Batch& batch) override;

 private:
  HostDraftFunction function_;
  int32_t n_vocab_;
  std::vector<int32_t> proposed_;
  Arena arena_;
};

}  // namespace tandem

#endif  // TANDEM_DRAFT_HOST_DRAFTER_H_
