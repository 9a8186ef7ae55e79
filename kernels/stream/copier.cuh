// The warp of the stream kernel that copies weights.
#ifndef TANDEM_KERNELS_STREAM_COPIER_CUH_
#define TANDEM_KERNELS_STREAM_COPIER_CUH_

#include "kernels/linear/weight_map.cuh"
#include "kernels/stream/memory.cuh"

namespace tandem::stream {

#ifdef TANDEM_SM90

// One thread asks for copies; its warp waits with it.
class Copier {
 public:
  __device__ __forceinline__ explicit Copier(const Params& params)
      : n_stages_(params.n_stages),
        in_flight_(params.in_flight),
        lane_(threadIdx.x % 32),
        ring_(SharedAddress(Ring())),
        full_(SharedAddress(Common().full)),
        empty_(SharedAddress(Common().empty)),
        policy_(ReadOnce()) {}

  __device__ __forceinline__ void Run(const Params& params, int n_rows, int n_logits) {
    constexpr int kWords = sizeof(Tiles) / 4;
    Round round;
    const char* maps = params.maps;
    if (lane_ < kMaxSegments) FetchMap(maps + lane_ * kMapBytes);
    uint32_t word = lane_ < kWords ? reinterpret_cast<const uint32_t*>(params.tiles)[lane_] : 0;
    for (int p = 0; p < params.n_products; ++p, maps += kMaxSegments * kMapBytes) {
      Tiles& tiles = Common().tiles[p & 1];
      if (lane_ < kWords) reinterpret_cast<uint32_t*>(&tiles)[lane_] = word;
      __syncwarp();
      if (p + 1 < params.n_products) {
        if (lane_ < kWords) word = reinterpret_cast<const uint32_t*>(params.tiles + p + 1)[lane_];
        if (lane_ < kMaxSegments) FetchMap(maps + (kMaxSegments + lane_) * kMapBytes);
      }
      if ((tiles.count == 0 ? n_rows : n_logits) > 0) Copy(tiles, maps, round.Next(tiles));
    }
  }

 private:
  __device__ __forceinline__ void Copy(const Tiles& tiles, const char* maps, int first) {
    const int in_dim = tiles.in_dim, n_groups = tiles.n_groups,
              n_tiles = (in_dim + kTileCols - 1) / kTileCols;
    for (int slab = 0; slab < n_tiles; slab += tiles.slab_tiles) {
      const int end = min(slab + tiles.slab_tiles, n_tiles);
      for (int group = first; group < n_groups; group += static_cast<int>(gridDim.x)) {
        int segment = 0;
        while (!tiles.gated && segment + 1 < kMaxSegments && group >= tiles.first_group[segment + 1])
          ++segment;
        const int row = tiles.gated ? group * 8 : (group - tiles.first_group[segment]) * kTileRows;
        const char* map = maps + segment * kMapBytes;
        for (int tile = slab; tile < end; ++tile) {
          if (tiles.gated) {
            CopyTile(map, row, map + kMapBytes, row, tile * kTileCols);
          } else {
            CopyTile(map, row, map, row + 8, tile * kTileCols);
          }
        }
      }
    }
  }
  __device__ __forceinline__ void CopyTile(const char* map, int row, const char* second_map, int second_row,
                                           int col) {
    if (n_ >= n_stages_) WaitFor(empty_ + 8 * stage_, parity_ ^ 1);
    if (n_ >= in_flight_) {
      WaitFor(full_ + 8 * landed_, landed_parity_);
      if (++landed_ == n_stages_) landed_ = 0, landed_parity_ ^= 1;
    }
    const uint32_t barrier = full_ + 8 * stage_, to = ring_ + stage_ * kTileBytes;
    if (lane_ == 0) {
      ExpectBytes(barrier, kTileBytes);
      CopyBox(to, map, row, col / kMapCols, barrier, policy_);
      CopyBox(to + kHalfBytes, second_map, second_row, col / kMapCols, barrier, policy_);
    }
    __syncwarp();
    if (n_ < n_stages_) ++n_;
    if (++stage_ == n_stages_) stage_ = 0, parity_ ^= 1;
  }

  const int n_stages_, in_flight_, lane_;
  const uint32_t ring_, full_, empty_;
  const uint64_t policy_;
  int n_ = 0;  // tiles so far, up to n_stages
  int stage_ = 0, landed_ = 0;
  uint32_t parity_ = 0, landed_parity_ = 0;
};

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_COPIER_CUH_
