// stream: the products, attention and gates of one decode forward of up to 8 rows as one kernel that stays on the device
// from the first to the last. It computes bit for bit what the steps' own kernels compute (linear.h, rope.h, attention.h,
// silu_gate.h), for bf16 weights, inputs rounded to bf16 and a bf16 cache, on sm_90 and later. Inputs of products are
// multiples of 64 wide.
//
// Why: the weights of all products stream without a pause. One warp of every multiprocessor copies them, in the order of
// the program, into a ring in shared memory, and waits for room alone, never for activations; what a step waits for its
// input is hidden as long as the ring lasts.
//
// No step waits for another as a whole: the data is its own flag. Every step writes to a buffer of its own, in which a
// value that is not there yet is a bit pattern that no result has (all ones: a NaN; results that would have it become
// another NaN). A reader looks again until it finds none. A launch uses one half of these buffers and clears the other,
// for the next one.
//
// A launch overlaps with the kernels in front of it: while they plan its rows, or sample the token that it begins with, its
// first weights are on their way. Only what they write is waited for.
//
// A block has a multiprocessor to itself, and blocks wait for each other: launches on one device, of any stream kernel, follow
// each other (one stream, or events). Owned by the executor; made once, launched often, one launch at a time; a launch
// allocates nothing and may be captured into a graph.
#ifndef TANDEM_KERNELS_STREAM_STREAM_H_
#define TANDEM_KERNELS_STREAM_STREAM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/core/platform.h"
#include "runtime/core/program.h"

namespace tandem {

class StreamKernel {
 public:
  // Whether the current device, and this build's code for it, can run any.
  static bool RunsHere();

  // The kernel for as many of the program's steps from `first` on as it can do, on the current device, which holds all
  // that the steps point to; null if these are none. `n_steps`: how many. Allocates device memory; null, too, if there is
  // not enough.
  static std::unique_ptr<StreamKernel> Make(const Program& program, size_t first, size_t* n_steps);
  ~StreamKernel();
  StreamKernel(const StreamKernel&) = delete;
  StreamKernel& operator=(const StreamKernel&) = delete;

  void Launch(CudaStream stream) const;
  int64_t device_bytes() const;

  // From now on launches keep, for every block and every step of the kernel, the block's clock when the step began, when its
  // input was there, when its sums were there and when it ended (0: it had no part in it): [blocks][steps][4] in cycles. Of
  // the last launch, which has finished; and a word for each step.
  bool WatchSteps();
  std::vector<int64_t> StepCycles() const;
  std::vector<std::string> StepNames() const;

 private:
  struct Impl;
  explicit StreamKernel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem

#endif  // TANDEM_KERNELS_STREAM_STREAM_H_
