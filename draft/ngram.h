// N-gram prompt lookup: proposes what followed the most recent earlier occurrence of the sequence's last n tokens, for
// the largest n in [min, max] that has one. No model and no law: every proposed token is a point mass.
//
// Source of the idea: prompt lookup decoding (apoorvumang); here longest match first and most recent first.
#ifndef TANDEM_DRAFT_NGRAM_H_
#define TANDEM_DRAFT_NGRAM_H_

#include "draft/drafter.h"
#include "kernels/plan/plan.h"

namespace tandem {

struct LookupArgs {
  static constexpr Op kOp = Op::kLookup;
  int32_t min;
  int32_t max;
  int32_t n_slots;
  const SeqState* states;
  TokenTable tokens;
  Proposal proposal;  // tokens and n_proposed out
};

void Lookup(const LookupArgs& args);
void LookupCuda(const LookupArgs& args, CudaStream stream);

class NgramDrafter : public Drafter {
 public:
  // REQUIRES: 1 <= min <= max.
  NgramDrafter(int32_t min, int32_t max) : min_(min), max_(max) {}

  Proposal propose(Program& round, const Batch& batch) override;

 private:
  int32_t min_;
  int32_t max_;
  Arena arena_;
};

}  // namespace tandem

#endif  // TANDEM_DRAFT_NGRAM_H_
