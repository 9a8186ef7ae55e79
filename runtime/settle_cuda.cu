#include "runtime/core/launch.cuh"
#include "runtime/settle-inl.h"
#include "runtime/settle.h"

namespace tandem {
namespace {

constexpr int kThreads = 128;

// Where the host's memory is read: the page tables and the prompt by all, the state at the end.
__global__ void __launch_bounds__(kThreads) AdmitKernel(const AdmitArgs args) {
  int32_t* tokens = args.tokens.of(args.slot);
  const int32_t length = args.staged->length;
  for (int32_t t = threadIdx.x; t < length; t += kThreads) tokens[t] = args.prompt[t];
  for (const PageTableRow& pages : args.pages) {
    if (pages.staged == nullptr) continue;
    for (int32_t i = threadIdx.x; i < pages.n_pages; i += kThreads) pages.row[i] = pages.staged[i];
  }
  if (threadIdx.x == 0) args.states[args.slot] = *args.staged;
}

__global__ void __launch_bounds__(kThreads) SettleKernel(const SettleArgs args) {
  const int32_t slot = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  if (slot < args.n_slots) internal::SettleSlot(args, slot);
}

// One block, for the count of rounds is read by all before one raises it.
__global__ void __launch_bounds__(kThreads) PublishKernel(const PublishArgs args) {
  static_assert(sizeof(SlotRecord) % sizeof(uint64_t) == 0);
  const int64_t n_published = *args.n_published;
  RoundRecord& record = args.ring[n_published % args.ring_size];
  const int64_t n = static_cast<int64_t>(args.n_slots) * sizeof(SlotRecord) / sizeof(uint64_t);
  const auto* from = reinterpret_cast<const uint64_t*>(args.records);
  auto* to = reinterpret_cast<uint64_t*>(record.slots);
  for (int64_t i = threadIdx.x; i < n; i += kThreads) to[i] = from[i];
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) {
    record.time_ns = 0;  // the host's clock is read by the host
    *args.n_published = n_published + 1;
  }
}

__global__ void CutKernel(const CutArgs args) { internal::CutSlot(args.states[args.slot], *args.length); }

}  // namespace

void AdmitCuda(const AdmitArgs& args, CudaStream stream) {
  Launch(AdmitKernel, {.block = kThreads}, stream, args);
}

void SettleCuda(const SettleArgs& args, CudaStream stream) {
  Launch(SettleKernel, {.grid = BlocksFor(args.n_slots, kThreads), .block = kThreads}, stream, args);
}

void PublishCuda(const PublishArgs& args, CudaStream stream) {
  Launch(PublishKernel, {.block = kThreads}, stream, args);
}

void CutCuda(const CutArgs& args, CudaStream stream) { Launch(CutKernel, {}, stream, args); }

}  // namespace tandem
