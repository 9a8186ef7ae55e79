// The warps of the stream kernel that copy weights.
#ifndef TANDEM_KERNELS_STREAM_COPIER_CUH_
#define TANDEM_KERNELS_STREAM_COPIER_CUH_

#include "kernels/stream/memory.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

// Weights are read once: first out of the cache.
__device__ __forceinline__ uint64_t ReadOnce() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void CopyRow(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier,
                                        uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// Bytes may arrive before a barrier is told to expect them: it waits for the telling.
class Copier {
 public:
  __device__ __forceinline__ explicit Copier(const Params& params)
      : n_stages_(params.n_stages),
        in_flight_(params.in_flight),
        copier_(threadIdx.x / 32 - kWorkers),
        lane_(threadIdx.x % 32),
        row_(copier_ * kRowsOfCopier + lane_),
        ring_(SharedAddress(Ring()) + row_ * kRowPitch),
        full_(SharedAddress(Common().full)),
        empty_(SharedAddress(Common().empty)),
        policy_(ReadOnce()) {}

  __device__ __forceinline__ void Run(const Params& params, int n_rows, int n_logits) {
    constexpr int kWords = sizeof(Tiles) / 4;
    Round round;
    uint32_t word = lane_ < kWords ? reinterpret_cast<const uint32_t*>(params.tiles)[lane_] : 0;
    for (int p = 0; p < params.n_products; ++p) {
      Tiles& tiles = Common().tiles[copier_][p & 1];
      if (lane_ < kWords) reinterpret_cast<uint32_t*>(&tiles)[lane_] = word;
      __syncwarp();
      if (p + 1 < params.n_products && lane_ < kWords) {
        word = reinterpret_cast<const uint32_t*>(params.tiles + p + 1)[lane_];
      }
      if ((tiles.count == 0 ? n_rows : n_logits) > 0) Copy(tiles, round.Next(tiles));
    }
  }

 private:
  __device__ __forceinline__ void Copy(const Tiles& tiles, int first) {
    const int in_dim = tiles.in_dim, n_groups = tiles.n_groups,
              n_tiles = (in_dim + kTileCols - 1) / kTileCols;
    for (int slab = 0; slab < n_tiles; slab += tiles.slab_tiles) {
      const int end = min(slab + tiles.slab_tiles, n_tiles);
      for (int group = first; group < n_groups; group += static_cast<int>(gridDim.x)) {
        const uint16_t* row = lane_ < kRowsOfCopier ? RowOf(tiles, group, row_) : nullptr;
        // One copier tells how much is to come.
        int n = 0;
        if (copier_ == 0)
          n = __popc(__ballot_sync(~0u, lane_ < kTileRows && RowOf(tiles, group, lane_) != nullptr));
        for (int tile = slab; tile < end; ++tile) CopyTile(row, n, tile * kTileCols, in_dim);
      }
    }
  }
  static __device__ __forceinline__ const uint16_t* RowOf(const Tiles& tiles, int group, int row) {
    int segment = 0, output = group * kTileRows + row;
    if (tiles.gated) {
      segment = row / 8;
      output = group * 8 + row % 8;
    } else {
      while (segment + 1 < kMaxSegments && group >= tiles.first_group[segment + 1]) ++segment;
      output -= tiles.first_group[segment] * kTileRows;
    }
    if (output >= tiles.n_outputs[segment]) return nullptr;
    return tiles.weight[segment] + static_cast<int64_t>(output) * tiles.in_dim;
  }
  __device__ __forceinline__ void CopyTile(const uint16_t* row, int n, int col, int in_dim) {
    if (n_ >= n_stages_) WaitFor(empty_ + 8 * stage_, parity_ ^ 1);
    if (n_ >= in_flight_) {
      WaitFor(full_ + 8 * landed_, landed_parity_);
      if (++landed_ == n_stages_) landed_ = 0, landed_parity_ ^= 1;
    }
    const uint32_t bytes = min(kTileCols, in_dim - col) * 2, barrier = full_ + 8 * stage_;
    if (copier_ == 0 && lane_ == 0) ExpectBytes(barrier, n * bytes);
    __syncwarp();
    if (row != nullptr) CopyRow(ring_ + stage_ * kTileBytes, row + col, bytes, barrier, policy_);
    if (n_ < n_stages_) ++n_;
    if (++stage_ == n_stages_) stage_ = 0, parity_ ^= 1;
  }

  static constexpr int kRowsOfCopier = kTileRows / kCopiers;
  const int n_stages_, in_flight_, copier_, lane_, row_;
  const uint32_t ring_, full_, empty_;
  const uint64_t policy_;
  int n_ = 0;  // tiles so far, up to n_stages
  int stage_ = 0, landed_ = 0;
  uint32_t parity_ = 0, landed_parity_ = 0;
};

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_COPIER_CUH_
