// Which part of attention is a warp's (memory.cuh, Share): the same in every layer, so it is worked out before the first.
#ifndef TANDEM_KERNELS_STREAM_SHARE_CUH_
#define TANDEM_KERNELS_STREAM_SHARE_CUH_

#include "kernels/stream/memory.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

// Blocks that share a task take their turns at the same time.
__device__ __forceinline__ int ShareBlocks() {
  return static_cast<int>(gridDim.x) / packed_attention::kCluster * packed_attention::kCluster;
}
// This warp's share of the item-th of all tasks' ranks.
__device__ __forceinline__ void MakeShare(int item) {
  constexpr int kCluster = packed_attention::kCluster;
  const Fixed& common = Common();
  const AttentionArgs& args = common.params.attention;
  const KvLayer& kv = args.kv;
  const int lane = Thread() % 32, warp = Thread() / 32, n_rows = common.n_rows, group = common.params.group;
  const packed_attention::FirstRows rows = {n_rows, lane < kMaxRows ? common.slot[lane] : -1,
                                            lane < kMaxRows ? common.position[lane] : 0};
  const packed_attention::Task task = packed_attention::FindTask(
      common.params.rows, rows, packed_attention::kQueries / group, item / kCluster / kv.n_kv_heads);
  Share& share = Common().share[warp];
  __syncwarp();
  if (lane == 0) {
    const int d = kv.head_dim;
    share.item = item;
    share.n_queries = task.n_rows * group;
    share.row = task.row;
    share.kv_head = item / kCluster % kv.n_kv_heads;
    share.rank = item % kCluster;
    share.slot = common.slot[task.row];
    share.first_position = common.position[task.row];
    share.n_keys = task.n_rows == 0 ? 0 : common.position[task.row + task.n_rows - 1] + 1;
    share.first_new = share.first_position;
    for (int row = 0; row < n_rows; ++row) {
      if (common.slot[row] == share.slot) share.first_new = min(share.first_new, common.position[row]);
    }
    const int first = share.rank * packed_attention::kBlockKeys + warp * packed_attention::kWarpKeys;
    share.keys_at = first < share.n_keys ? kv.offset(share.slot, share.kv_head, first) * 2 : 0;
    for (int i = 0; i < 2; ++i) {
      const int query = warp + i * kWorkers, row = task.row + query / group;
      share.query_at[i] = (row * args.n_heads + share.kv_head * group + query % group) * d;
      share.query_cos_sin[i] = row * d;
    }
    const int row = kWorkers - 1 - warp;  // the last warps have the fewest queries
    const int position = common.position[row];
    share.new_from = (row * kv.n_kv_heads + share.kv_head) * d;
    share.new_cos_sin = row * d;
    const bool appends = row < n_rows && common.slot[row] == share.slot && position < share.n_keys &&
                         position / packed_attention::kBlockKeys % kCluster == share.rank;
    share.fresh_row = appends ? position - share.first_new : -1;
    share.new_at = appends ? kv.offset(share.slot, share.kv_head, position) : 0;
  }
  __syncwarp();
}
__device__ __forceinline__ void MakeFirstShare() {
  const int query = Thread(), group = Common().params.group;
  if (query < packed_attention::kQueries) Common().query_row[query] = static_cast<uint8_t>(query / group);
  if (Thread() == 0) {
    int n_tasks = 0;
    for (int row = 0, first = 0; row < Common().n_rows; ++row) {
      if (row > 0 && Common().slot[row] != Common().slot[row - 1]) first = row;
      n_tasks += (row - first) % (packed_attention::kQueries / group) == 0;
    }
    Common().n_tasks = n_tasks;
  }
  Share& share = Common().share[Thread() / 32];
  const int block = static_cast<int>(blockIdx.x);
  if (Common().n_rows > 0 && block < ShareBlocks()) {
    MakeShare(block);
  } else if (Thread() % 32 == 0) {
    share.item = block;
    share.n_queries = 0;
  }
}

// What this warp will attend to into the second-level cache, a line a lane, while the product before attention runs.
__device__ __forceinline__ void FetchKeys(const Attend& attend) {
  constexpr int kLine = 128, kTurn = packed_attention::kCluster * packed_attention::kBlockKeys;
  const KvLayer& kv = attend.attention.kv;
  const Share& share = Common().share[Thread() / 32];
  const int line = Thread() % 32 * kLine;
  if (share.n_queries == 0 || line >= packed_attention::kWarpKeys * kv.head_dim * 2) return;
  int key = share.rank * packed_attention::kBlockKeys + Thread() / 32 * packed_attention::kWarpKeys;
  int64_t at = share.keys_at;
#pragma unroll 1
  while (key < share.n_keys) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(kv.k) + at + line));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(kv.v) + at + line));
    key += kTurn;
    if (key < share.n_keys) at = kv.offset(share.slot, share.kv_head, key) * 2;
  }
}

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_SHARE_CUH_
