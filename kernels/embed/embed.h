// embed: x[r] = table[token[r]] as fp32, for the planned rows.
#ifndef TANDEM_KERNELS_EMBED_EMBED_H_
#define TANDEM_KERNELS_EMBED_EMBED_H_

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/view.h"
#include "runtime/core/worker.h"

namespace tandem {

struct EmbedArgs {
  static constexpr Op kOp = Op::kEmbed;
  View table;  // [n_vocab, hidden]
  RowPlan rows;
  float* out;  // [capacity, hidden]
};

void EmbedReference(const EmbedArgs& args);
void EmbedCpu(const EmbedArgs& args, Worker worker);
void EmbedCuda(const EmbedArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_KERNELS_EMBED_EMBED_H_
