// The shapes that the kernels' tests and their benchmark share, one list per operation.
#ifndef TANDEM_TESTS_KERNELS_CASES_H_
#define TANDEM_TESTS_KERNELS_CASES_H_

#include <cstdint>

#include "runtime/core/view.h"

namespace tandem {

// A model's layers and, if n_vocab is not 0, its head.
struct StackCase {
  const char* name;
  int n_layers;
  int hidden;
  int n_heads;
  int n_kv_heads;
  int head_dim;
  int intermediate;
  int n_vocab;
};

inline constexpr StackCase kStacks[] = {
    {"1b", 3, 2048, 32, 8, 64, 8192, 0},    // 3 of the 16 layers of Llama-3.2-1B: 365 MB in bf16
    {"25m", 7, 512, 8, 4, 64, 1408, 8192},  // 50 MB: around the size of a last-level cache
    {"2.5m", 2, 192, 6, 2, 32, 512, 8192},  // 5 MB: a draft
};

}  // namespace tandem

#endif  // TANDEM_TESTS_KERNELS_CASES_H_
