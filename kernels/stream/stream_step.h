// What the stream kernel is told of its steps: made on the host (stream_plan.h, stream.cu), read by the kernel
// (stream_kernel.cuh).
// Norms and biases are widened to fp32 beforehand: a kernel that runs its code once must be short.
#ifndef TANDEM_KERNELS_STREAM_STREAM_STEP_H_
#define TANDEM_KERNELS_STREAM_STREAM_STEP_H_

#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/strands.h"
#include "kernels/rope/rope.h"

namespace tandem::stream {

constexpr int kMaxRows = 8;       // of a forward: the 8 columns of a tensor core's tile
constexpr int kMaxHidden = 4096;  // of the forward's input: what shared memory holds of its squares
constexpr int kMaxHeld = 2;      // groups of a block in a product whose input does not fit into shared memory
constexpr int kEarlyGroups = 4;  // of a block, that begin with half of an input
constexpr int kMaxResidual = 4;  // groups of a block in a product that adds to the residual
constexpr int kMaxStages = 12;
constexpr int kMapBytes = 128;  // of a CUtensorMap
using strands::kMapCols;
constexpr int kMarks = 4;

// A buffer. One that steps of this kernel write has two halves, used in turns.
struct Place {
  char* data = nullptr;
  int64_t half_bytes = 0;  // 0: there is one, complete before the launch or read after it

  template <typename T>
  TANDEM_DEVICE T* at(int turn) const {
    return reinterpret_cast<T*>(data + turn * half_bytes);
  }
};

enum class Kind : int32_t { kProduct, kAttention };
// What a product reads: the forward's input in fp32, complete before the launch; or what a product or attention of this
// kernel has written, in bf16.
enum class Input : int32_t { kFirst, kBf16 };
// What it writes: fp32; what a residual stream has become, times the norm of the product that reads it, in bf16, and its
// squares; a gated pair in bf16; logits.
enum class Output : int32_t { kF32, kResidual, kGated, kLogits };

// How a block goes through its groups: one by one; with half of the input, for the first kEarlyGroups of them, while the other
// half is computed, then one by one; or with one part of the input after the other for all of them.
enum class Order : int32_t { kGroups, kHalves, kSlabs };

// The weights of a product, in groups of 16 outputs; gated: 8 of segment 0 and the same 8 of segment 1.
struct alignas(16) Tiles {
  int32_t first_group[kMaxSegments];  // of a segment; beyond the last: a large number
  int32_t n_outputs[kMaxSegments];
  int32_t n_groups;
  int32_t in_dim;
  Order order;
  int32_t slab_tiles;  // a half or a slab is so many tiles' columns
  int32_t count;       // whose rows: 0 those of the forward, 1 those with logits
  int32_t gated, residual;
};
static_assert(sizeof(Tiles) == 64 && sizeof(Tiles) / 4 <= 32);

struct Segment {
  const uint16_t* weight;  // [n_outputs, in_dim]; the kernel reads it through Params::maps
  Place out;
  Place old;          // kResidual: what the first of them adds to; of later ones a block holds it
  Place squares;      // kResidual: [rows, n_outputs / 16]
  const float* gain;  // kResidual: the norm of the product that reads it
  int64_t out_stride;
  const float* bias;  // optional
};

struct Product {
  Tiles tiles;
  Input input;
  Output output;
  Place in;
  int64_t in_stride;
  const int32_t *src, *dst;
  bool scaled;        // there is a norm: rows are scaled
  Place squares;      // of the input: [rows, in_dim / 16]; kBf16 only
  const float* gain;  // kFirst only
  float norm_eps;
  Segment segment[kMaxSegments];
};

// Rotation, append and attention of a layer.
struct Attend {
  AttentionArgs attention;  // q and out are not used
  const float* cos_sin;
  const float *q_norm, *k_norm;  // optional
  float norm_eps;
  Place q, k, v, out;
  Place sums,
      stats;  // [rows, n_heads, 8] of the blocks that share a task: head_dim values; largest score and sum
};

struct alignas(16) StreamStep {
  Kind kind;
  bool before_attention;  // a product: `attend` is the step that follows
  Product product;
  Attend attend;
};

struct Params {
  const StreamStep* steps;
  const Tiles* tiles;        // [n_products]
  const char* maps;          // [n_products][kMaxSegments][kMapBytes] how copies find a segment's weights
  const int32_t* n_rows[2];  // as Tiles::count says
  RowPlan rows;
  AttentionArgs attention;  // any layer's: what is the same in all
  int32_t group;            // heads that share a kv head
  uint32_t* turn;           // launches so far; blocks of this one that have counted themselves
  char* halves;             // [2][half_bytes] all buffers with two halves
  int64_t half_bytes;       // a multiple of 16
  int32_t n_steps, n_products;
  int32_t n_stages, in_flight;
  int64_t* times;      // [blocks][n_steps][kMarks] cycles at points of a step; null: not wanted
  int32_t n_sums;      // of attention: as packed_attention.cuh
  int32_t work_bytes;  // shared memory for an input, or for what attention needs
};

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_STREAM_STEP_H_
