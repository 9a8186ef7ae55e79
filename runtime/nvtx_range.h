// NvtxRange: a named stretch of the host's time for a profiler (Nsight Systems), on the thread that makes it. Ranges nest.
// Without a profiler it costs nothing to speak of. TANDEM_CUDA.
//
// The host's time, not the device's: around steps that are waited for (execution.check_steps) it holds what the device
// did; around the launch of a graph it holds the launch alone, and the profiler puts the graph's kernels under it.
#ifndef TANDEM_RUNTIME_NVTX_RANGE_H_
#define TANDEM_RUNTIME_NVTX_RANGE_H_

#include <nvtx3/nvToolsExt.h>

#include <string>

namespace tandem {

class NvtxRange {
 public:
  explicit NvtxRange(const std::string& name) { nvtxRangePushA(name.c_str()); }
  ~NvtxRange() { nvtxRangePop(); }
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_NVTX_RANGE_H_
