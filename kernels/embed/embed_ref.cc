#include "kernels/embed/embed.h"

namespace tandem {

void EmbedReference(const EmbedArgs& args) {
  const int64_t hidden = args.table.n_cols;
  for (int64_t r = 0; r < *args.rows.n_rows; ++r) {
    for (int64_t i = 0; i < hidden; ++i) {
      args.out[r * hidden + i] =
          LoadFloat(args.table.data, args.table.dtype, args.rows.token[r] * hidden + i);
    }
  }
}

}  // namespace tandem
