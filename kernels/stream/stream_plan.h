// The stream kernel's steps for a run of a program's: made on the host, from the program alone.
#ifndef TANDEM_KERNELS_STREAM_STREAM_PLAN_H_
#define TANDEM_KERNELS_STREAM_STREAM_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/stream/stream_step.h"
#include "runtime/core/program.h"

namespace tandem::stream {

struct StreamPlan {
  // Places with two halves hold offsets in a half yet, and norms and biases 1 + their offset among the widened values.
  std::vector<StreamStep> steps;
  RowPlan rows;
  AttentionArgs attention = {};   // of any layer
  const int32_t* n_rows[2] = {};  // as Tiles::count; null: no product has such rows
  int64_t half_bytes = 0;
  int max_rows = 0;
  int n_layers = 0, head_dim = 0;
  std::vector<View> vectors;  // norms and biases, to be widened, each from a multiple of 4 values on
  int64_t n_widened = 0;      // values of all
};

// Takes as many steps from `first` on as the kernel can do, and returns how many; 0 if they are no forward with attention,
// or if steps that follow would want what the kernel keeps to itself.
size_t PlanStream(const Program& program, size_t first, StreamPlan* plan);

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_STREAM_PLAN_H_
