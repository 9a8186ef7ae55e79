#include <chrono>
#include <vector>

#include "kernels/cuda.cuh"
#include "runtime/core/launch.cuh"
#include "runtime/phase_stamps.h"

namespace tandem {
namespace {

constexpr int kReadings = 10;

struct StampArgs {
  int64_t* ns;
};
__global__ void PhaseStampKernel(const __grid_constant__ StampArgs args) {
  WaitForPrevious();
  LetNextStart();
  *args.ns = DeviceNs();
}

struct HandOverArgs {
  const int64_t* stamps;
  int32_t n_stamps;
  uint64_t* n_executed;
  int64_t* ring;
  uint64_t n_slots;
};
// One block of kMost threads.
__global__ void __launch_bounds__(PhaseStamps::kMost)
    HandOverKernel(const __grid_constant__ HandOverArgs args) {
  WaitForPrevious();
  LetNextStart();
  const uint64_t execution = __ldcg(args.n_executed);
  const auto i = static_cast<int32_t>(threadIdx.x);
  if (i < args.n_stamps)
    args.ring[execution % args.n_slots * PhaseStamps::kMost + i] = __ldcg(args.stamps + i);
  __syncthreads();
  if (i == 0) *args.n_executed = execution + 1;
}

int64_t HostNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

PhaseStamps::PhaseStamps(Device device, int32_t n_slots, CudaStream stream)
    : arena_(device),
      shared_(device, Access::kShared),
      n_slots_(static_cast<uint64_t>(n_slots)),
      stamps_(arena_.New<int64_t>(kMost)),
      n_executed_(arena_.New<uint64_t>(1)),
      ring_(shared_.New<int64_t>(static_cast<size_t>(n_slots) * kMost)) {
  std::vector<ClockReading> readings;
  for (int i = 0; i < kReadings; ++i) readings.push_back(ReadClocks(stream));
  offset_ns_ = ClockOffset(readings);
}

// The stamp goes to the host's memory here: that it waits for the bus is between the host's two readings.
ClockReading PhaseStamps::ReadClocks(CudaStream stream) const {
  ClockReading reading = {.before_ns = HostNs()};
  Launch(PhaseStampKernel, {.overlap = true}, stream, StampArgs{ring_});
  cudaStreamSynchronize(stream);
  reading.after_ns = HostNs();
  reading.device_ns = *static_cast<const volatile int64_t*>(ring_);
  return reading;
}

void PhaseStamps::Stamp(int32_t which, CudaStream stream) const {
  Launch(PhaseStampKernel, {.overlap = true}, stream, StampArgs{stamps_ + which});
}

void PhaseStamps::HandOver(int32_t n_stamps, CudaStream stream) const {
  Launch(HandOverKernel, {.block = kMost, .overlap = true}, stream,
         HandOverArgs{stamps_, n_stamps, n_executed_, ring_, n_slots_});
}

}  // namespace tandem
