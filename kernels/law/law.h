// law: the record (core/law.h) of every planned row of logits, from the row and its sequence's sampling parameters.
//
// Deterministic: sums run over fixed blocks of kLawBlock tokens in fixed order, whoever computes them.
// A NaN logit makes lse and lse1 NaN, which the judge reports; no row can hang or read outside its buffer.
#ifndef TANDEM_KERNELS_LAW_LAW_H_
#define TANDEM_KERNELS_LAW_LAW_H_

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/worker.h"

namespace tandem {

inline constexpr int kLawBlock = 1024;

struct LawArgs {
  static constexpr Op kOp = Op::kLaw;
  const SeqState* states;
  RowPlan rows;        // logits_out names the rows of `laws`; slot[logits_row] their sequence
  LawBuffer laws;      // logits in, records out
  float* scratch;      // [n_workers, laws.stride]
};

void LawReference(const LawArgs& args);  // sorts, sums in double
void LawCpu(const LawArgs& args, Worker worker);

// The pieces that judges and samplers share, over one block [begin, end) of a law with T > 0: fill out[v - begin] with
// p(v), or p1(v). SIMD with run-time dispatch; same bits as any other call over the same block.
void LawProbs(const Law& law, int32_t begin, int32_t end, float* out);
void LawProbs1(const Law& law, int32_t begin, int32_t end, float* out);

}  // namespace tandem

#endif  // TANDEM_KERNELS_LAW_LAW_H_
