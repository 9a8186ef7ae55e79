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

  // Begins before the kernels in front of this one have ended, with what the ring has room for: which rows there are is known
  // later.
  __device__ __forceinline__ void Run(const Params& params) {
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
      if (tiles.count != 0) AwaitRows();
      if (tiles.count == 0 || n_logits_ > 0) Copy(tiles, maps, round.Next(tiles));
    }
    AwaitRows();
  }

 private:
  // A forward without rows ends here.
  __device__ __forceinline__ void AwaitRows() {
    if (n_logits_ >= 0) return;
    WaitForPrevious();
    const Params& params = Common().params;
    n_logits_ = __ldcg(params.n_rows[1]);
    if (__ldcg(params.n_rows[0]) > 0) return;
    for (int left = min(n_, in_flight_); left > 0; --left) AwaitLanded();
    asm volatile("exit;");
  }
  __device__ __forceinline__ void AwaitLanded() {
    WaitFor(full_ + 8 * landed_, landed_parity_);
    if (++landed_ == n_stages_) landed_ = 0, landed_parity_ ^= 1;
  }
  __device__ __forceinline__ void Copy(const Tiles& tiles, const char* maps, int first) {
    const int n_blocks = static_cast<int>(gridDim.x), n_tiles = (tiles.in_dim + kTileCols - 1) / kTileCols;
    // First what is taken part by part of the input, then whole groups.
    int group_begin = first, part = 0,
        part_tiles = tiles.order == Order::kGroups ? n_tiles : tiles.slab_tiles;
    int group_end = tiles.order == Order::kHalves ? first + kEarlyGroups * n_blocks : tiles.n_groups;
#pragma unroll 1
    while (group_begin < tiles.n_groups) {
      const int last = min(group_end, tiles.n_groups);
#pragma unroll 1
      for (int group = group_begin; group < last; group += n_blocks) {
        int segment = 0;
        while (!tiles.gated && segment + 1 < kMaxSegments && group >= tiles.first_group[segment + 1])
          ++segment;
        const int row = tiles.gated ? group * 8 : (group - tiles.first_group[segment]) * kTileRows;
        const char* map = maps + segment * kMapBytes;
        const int end = PartEnd(tiles.order, part, part_tiles, n_tiles);
        for (int tile = part; tile < end; ++tile) {
          if (tiles.gated) {
            CopyTile(map, row, map + kMapBytes, row, tile * kTileCols);
          } else {
            CopyTile(map, row, map, row + 8, tile * kTileCols);
          }
        }
      }
      part = PartEnd(tiles.order, part, part_tiles, n_tiles);
      if (part < n_tiles) continue;
      part = 0;
      part_tiles = n_tiles;
      group_begin = group_end;
      group_end = tiles.n_groups;
    }
  }
  __device__ __forceinline__ void CopyTile(const char* map, int row, const char* second_map, int second_row,
                                           int col) {
    if (n_ >= n_stages_) {
      AwaitRows();
      WaitFor(empty_ + 8 * stage_, parity_ ^ 1);
    }
    if (n_ >= in_flight_) AwaitLanded();
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
  int n_ = 0;          // tiles so far, up to n_stages
  int n_logits_ = -1;  // not known yet
  int stage_ = 0, landed_ = 0;
  uint32_t parity_ = 0, landed_parity_ = 0;
};

#endif  // TANDEM_SM90

}  // namespace tandem::stream

#endif  // TANDEM_KERNELS_STREAM_COPIER_CUH_
