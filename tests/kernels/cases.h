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

struct LinearCase {
  int in_dim;
  int out_dim[3];  // 0: no such segment
  DType dtype[3];
  bool norm;
  bool bias;
  bool accumulate;
  bool round_bf16;
};

inline constexpr LinearCase kLinearCases[] = {
    {1, {1, 0, 0}, {DType::kF32}, false, false, false, false},
    {2, {5, 0, 0}, {DType::kBf16}, true, true, false, false},
    {24, {24, 8, 8}, {DType::kBf16, DType::kBf16, DType::kBf16}, true, true, false, true},
    {31, {3, 2, 1}, {DType::kF16, DType::kF16, DType::kF16}, true, false, false, true},
    {32, {17, 0, 0}, {DType::kBf16}, false, false, true, false},
    {33, {7, 6, 5}, {DType::kF32, DType::kBf16, DType::kF16}, true, true, true, true},
    {64, {16, 0, 0}, {DType::kF16}, false, false, true, true},
    {96, {33, 15, 0}, {DType::kBf16, DType::kF32}, true, false, false, false},
    {192, {192, 64, 64}, {DType::kBf16, DType::kBf16, DType::kBf16}, true, false, false, false},
    {307, {13, 0, 0}, {DType::kBf16}, false, true, true, true},
    {512, {96, 64, 0}, {DType::kF32, DType::kF32}, true, false, false, false},
    {1408, {64, 0, 0}, {DType::kBf16}, false, false, true, false},
    {2050, {9, 0, 0}, {DType::kF16}, true, false, false, false},
    // bf16 weights and inputs rounded to bf16: what CUDA gives to tensor cores, with every way to cut in_dim.
    {64, {17, 0, 0}, {DType::kBf16}, true, true, false, true},
    {192, {192, 64, 64}, {DType::kBf16, DType::kBf16, DType::kBf16}, true, false, false, true},
    {512, {100, 40, 0}, {DType::kBf16, DType::kBf16}, true, true, false, true},
    {1408, {64, 0, 0}, {DType::kBf16}, false, false, true, true},
    {2048, {50, 30, 30}, {DType::kBf16, DType::kBf16, DType::kBf16}, true, true, false, true},
    {3072, {34, 0, 0}, {DType::kBf16}, true, false, true, true},
    {4096, {20, 17, 0}, {DType::kBf16, DType::kBf16}, true, false, false, true},
    {96, {33, 15, 0}, {DType::kBf16, DType::kBf16}, true, false, true, true},
    {576, {130, 1, 65}, {DType::kBf16, DType::kBf16, DType::kBf16}, false, true, true, true},
};

// Too large for the CPU's tests: several rounds of every warp, and an input of which 64 rows do not fit.
inline constexpr LinearCase kLargeLinearCases[] = {
    {2048, {2100, 1100, 0}, {DType::kBf16, DType::kBf16}, true, false, false, true},
    {14336, {300, 0, 0}, {DType::kBf16}, false, true, true, true},
    {256, {9000, 0, 0}, {DType::kBf16}, true, false, true, true},
    {320, {8200, 70, 9001}, {DType::kBf16, DType::kBf16, DType::kBf16}, true, true, true, true},
};

// Rows of several sequences, each a run of rows that ends at its last position.
struct AttentionRun {
  int slot;
  int n_rows;
  int last_position;
};
struct AttentionCase {
  int n_heads;
  int n_kv_heads;
  int head_dim;
  DType dtype;
  int page_size;
  AttentionRun runs[4];  // n_rows 0: no such run
};

inline constexpr AttentionCase kAttentionCases[] = {
    {1, 1, 2, DType::kF32, 1, {{0, 1, 0}}},
    {2, 1, 24, DType::kF32, 5, {{0, 3, 2}, {1, 1, 9}}},
    {4, 2, 24, DType::kBf16, 16, {{1, 6, 69}, {0, 2, 3}}},
    {8, 4, 64, DType::kF32, 16, {{0, 6, 261}}},
    {6, 2, 32, DType::kBf16, 16, {{2, 1, 63}, {0, 1, 64}, {1, 1, 65}}},
    {32, 8, 64, DType::kBf16, 32, {{0, 6, 130}, {1, 1, 127}}},
    {5, 1, 80, DType::kF32, 7, {{0, 17, 80}}},
    {40, 1, 18, DType::kBf16, 64, {{0, 2, 70}, {1, 33, 32}}},
    {4, 4, 128, DType::kF32, 128, {{1, 8, 200}, {0, 4, 3}}},
    {2, 2, 90, DType::kBf16, 3, {{0, 5, 67}}},
    {8, 2, 128, DType::kBf16, 16, {{0, 5, 700}, {1, 4, 1100}, {2, 3, 66}}},
    {3, 3, 64, DType::kBf16, 16, {{1, 40, 90}, {2, 1, 0}}},
    {32, 1, 128, DType::kBf16, 64, {{0, 3, 600}}},
};

}  // namespace tandem

#endif  // TANDEM_TESTS_KERNELS_CASES_H_
