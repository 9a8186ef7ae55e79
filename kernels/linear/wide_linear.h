// WideLinear: products of 9 to 64 rows on sm_90 and later, for LinearCuda alone. The bits are those of strands.h. Weights stream
// from the checkpoint's layout near the rate of memory; the rows of the input come from `scratch`, where a kernel of their own puts
// them.
#ifndef TANDEM_KERNELS_LINEAR_WIDE_LINEAR_H_
#define TANDEM_KERNELS_LINEAR_WIDE_LINEAR_H_

#include <algorithm>
#include <cstdint>

#include "kernels/linear/linear.h"
#include "kernels/linear/strands.h"

namespace tandem::wide {

constexpr int kMinRows = 9, kMaxRows = 64;

// Groups of 8 rows that a launch for max_rows multiplies, and columns: what is prepared.
constexpr int RowGroups(int max_rows) { return max_rows <= 16 ? 2 : max_rows <= 32 ? 4 : 8; }
constexpr int64_t PreparedCols(int in_dim) {
  return (int64_t{in_dim} + strands::kTileCols - 1) / strands::kTileCols * strands::kTileCols;
}
// fp32 values: the rows in bf16, behind them their scales.
constexpr int64_t Scratch(int max_rows, int in_dim) {
  if (max_rows < kMinRows) return 0;
  const int64_t rows = 8 * RowGroups(std::min(max_rows, kMaxRows));
  return rows * PreparedCols(in_dim) / 2 + rows;
}

// REQUIRES: strands::CanFollow(args). False: not on this device, or not these sizes; then nothing was launched.
bool Launch(const LinearArgs& args, CudaStream stream);

}  // namespace tandem::wide

#endif  // TANDEM_KERNELS_LINEAR_WIDE_LINEAR_H_
