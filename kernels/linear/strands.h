// What decides the bits of a product of bf16 weights and rounded inputs on a CUDA device, for the kernels that compute one
// (linear_cuda.cu, wide_linear.cu, kernels/stream):
//
//   - in_dim is cut into chunks of 32 values; chunks 2 s and 2 s + 1 of every 16 belong to strand s. A strand's sum starts
//     at 0 and takes its chunks in rising order, each as two steps of the tensor cores' m16n8k16.
//   - An output is the sum of the 8 strands in order, times the row's scale, then the bias, then what it is added to.
//   - A norm's sum of squares: groups of 16 values, each by a butterfly; lane j of 32 adds up groups j, j + 32, ...; a
//     butterfly over the lanes.
//
// So an output's bits follow from its row of the input and its weights alone: not from the number of rows, nor from where
// in a tile they stand.
#ifndef TANDEM_KERNELS_LINEAR_STRANDS_H_
#define TANDEM_KERNELS_LINEAR_STRANDS_H_

#include <cstdint>

#include "kernels/linear/linear.h"

namespace tandem::strands {

constexpr int kStrands = 8;  // and warps of a block
constexpr int kThreads = kStrands * 32;
constexpr int kChunk = 32;
constexpr int kTileCols = 2 * kStrands * kChunk;
constexpr int kTileRows = 16;
constexpr int kMapCols = 2 * kChunk;  // a strand's of a tile
constexpr int kMaxInDim = 32768;      // what a block can keep of a row's squares

// Weights lie so that 16 bytes can be loaded at a time, inputs too.
inline bool CanFollow(const LinearArgs& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const auto whole = [](const View& view) {
    return view.dtype != DType::kF32 || reinterpret_cast<uintptr_t>(view.data) % 4 == 0;
  };
  if (!args.round_bf16 || args.in_dim % kChunk != 0 || args.in_dim > kMaxInDim || args.in_stride % 4 != 0 ||
      !aligned(args.in))
    return false;
  for (int s = 0; s < args.n_segments; ++s) {
    const View& weight = args.segment[s].weight;
    if (weight.dtype != DType::kBf16 || !aligned(weight.data)) return false;
    if (!whole(args.segment[s].bias)) return false;
  }
  return whole(args.norm);
}

constexpr int kSquares = 16;  // values of a group

}  // namespace tandem::strands

#endif  // TANDEM_KERNELS_LINEAR_STRANDS_H_
