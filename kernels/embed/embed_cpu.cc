#include "kernels/embed/embed.h"

namespace tandem {

// Plain loops: a forward reads a few rows of the table, and the memory's latency is all they cost.
void EmbedCpu(const EmbedArgs& args, Worker worker) {
  const int64_t hidden = args.table.n_cols;
  const Share share = ShareOf(*args.rows.n_rows * hidden, worker, 16);
  for (int64_t i = share.begin; i < share.end; ++i) {
    args.out[i] = LoadFloat(args.table.row(args.rows.token[i / hidden]), args.table.dtype, i % hidden);
  }
}

}  // namespace tandem
