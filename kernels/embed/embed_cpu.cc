#include <algorithm>

#include "kernels/embed/embed.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/embed/embed_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {
namespace {

void Embed(const EmbedArgs& args, Worker worker) {
  const int64_t hidden = args.table.n_cols;
  const Share share = ShareOf(*args.rows.n_rows * hidden, worker, 16);
  for (int64_t begin = share.begin; begin < share.end;) {
    const int64_t r = begin / hidden;
    const int64_t end = std::min(share.end, (r + 1) * hidden);
    const View row = {args.table.row(args.rows.token[r]), args.table.dtype, 1, hidden};
    for (int64_t i = begin; i < end; i += kLanes) {
      StoreUpTo(LoadUpTo(row, i - r * hidden, end - i), args.out + i, end - i);
    }
    begin = end;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem {

HWY_EXPORT(Embed);
void EmbedCpu(const EmbedArgs& args, Worker worker) { HWY_DYNAMIC_DISPATCH(Embed)(args, worker); }

}  // namespace tandem
#endif  // HWY_ONCE
