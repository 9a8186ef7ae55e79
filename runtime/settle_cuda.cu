#include "kernels/cuda.cuh"
#include "runtime/core/launch.cuh"
#include "runtime/settle-inl.h"
#include "runtime/settle.h"

namespace tandem {
namespace {

constexpr int kThreads = 128;

// Where the host's memory is read: the page tables and the prompt by all, the state at the end.
__global__ void __launch_bounds__(kThreads) AdmitKernel(const __grid_constant__ AdmitArgs args) {
  int32_t* tokens = args.tokens.of(args.slot);
  const int32_t length = args.staged->length;
  for (int32_t t = threadIdx.x; t < length; t += kThreads) tokens[t] = args.prompt[t];
  for (const PageTableRow& pages : args.pages) {
    if (pages.staged == nullptr) continue;
    for (int32_t i = threadIdx.x; i < pages.n_pages; i += kThreads) pages.row[i] = pages.staged[i];
  }
  if (threadIdx.x == 0) args.states[args.slot] = *args.staged;
}

// What settle looks at of one slot, in shared memory: fetched in one go, and not one number after the other.
struct SlotCopy {
  static_assert(sizeof(SeqState) % sizeof(uint64_t) == 0 && sizeof(SlotRecord) % sizeof(uint64_t) == 0);
  uint64_t state[sizeof(SeqState) / sizeof(uint64_t)];
  uint64_t record[sizeof(SlotRecord) / sizeof(uint64_t)];
  int32_t n_proposed, n_keep, next, n_judged;
  Fault proposal_fault, verdict_fault;
  int32_t tokens[kMaxGamma + 1];
  uint8_t deferred[kMaxGamma + 1];
};

constexpr int kSettleThreads = 64;

// A block takes a slot.
__global__ void __launch_bounds__(kSettleThreads) SettleKernel(const __grid_constant__ SettleArgs args) {
  __shared__ SlotCopy copy;
  constexpr int32_t kStateWords = sizeof(copy.state) / sizeof(uint64_t);
  constexpr int32_t kRecordWords = sizeof(copy.record) / sizeof(uint64_t);
  static_assert(kStateWords <= kSettleThreads && kMaxGamma < kSettleThreads);
  const Proposal& proposal = args.proposal;
  const Verdicts& verdicts = args.verdicts;
  const auto slot = static_cast<int32_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(slot) * verdicts.block;
  auto* state = reinterpret_cast<uint64_t*>(args.states + slot);
  auto* record = reinterpret_cast<uint64_t*>(args.records + slot);
  const bool in_state = thread < kStateWords;
  const bool in_block = thread < verdicts.block && thread <= kMaxGamma;
  WaitForPrevious();
  LetNextStart();
  // All loads before what waits for one of them.
  const uint64_t word = in_state ? state[thread] : 0;
  const int32_t token = in_block && proposal.tokens != nullptr ? proposal.tokens[first + thread] : 0;
  const uint8_t deferred = in_block && verdicts.deferred != nullptr ? verdicts.deferred[first + thread] : 0;
  const int32_t n_proposed = proposal.n_proposed != nullptr ? proposal.n_proposed[slot] : 0;
  const Fault proposal_fault = proposal.fault != nullptr ? proposal.fault[slot] : Fault::kNone;
  const int32_t n_keep = verdicts.n_keep[slot], next = verdicts.next[slot];
  const int32_t n_judged = verdicts.n_judged[slot];
  const Fault verdict_fault = verdicts.fault[slot];
  if (in_state) copy.state[thread] = word;
  if (in_block) {
    copy.tokens[thread] = token;
    copy.deferred[thread] = deferred;
  }
  if (thread == 0) {
    copy.n_proposed = n_proposed;
    copy.proposal_fault = proposal_fault;
    copy.n_keep = n_keep;
    copy.next = next;
    copy.n_judged = n_judged;
    copy.verdict_fault = verdict_fault;
  }
  __syncthreads();
  if (thread == 0) {
    // The same arguments, of this slot alone.
    SettleArgs one = args;
    one.states = reinterpret_cast<SeqState*>(copy.state);
    one.records = reinterpret_cast<SlotRecord*>(copy.record);
    one.tokens.data = args.tokens.of(slot);
    if (proposal.n_proposed != nullptr) one.proposal.n_proposed = &copy.n_proposed;
    if (proposal.fault != nullptr) one.proposal.fault = &copy.proposal_fault;
    one.proposal.tokens = copy.tokens;
    one.verdicts.n_keep = &copy.n_keep;
    one.verdicts.next = &copy.next;
    one.verdicts.n_judged = &copy.n_judged;
    one.verdicts.fault = &copy.verdict_fault;
    one.verdicts.deferred = copy.deferred;
    if (args.scores.logits != nullptr) {
      one.scores.logits = args.scores.logits + first * args.scores.stride;
      one.scores.records = args.scores.records + first;
      one.scores.blocks = args.scores.blocks_of(first);
    }
    internal::SettleSlot(one, 0);
  }
  __syncthreads();
  if (in_state) state[thread] = copy.state[thread];
  for (int32_t i = thread; i < kRecordWords; i += kSettleThreads) record[i] = copy.record[i];
}

// One block, for the count of rounds is read by all before one raises it. The host looks at the ring when it knows that
// the program has ended. Where the ring's slots are never changes: that is fetched from the host's memory while others
// still run.
__global__ void __launch_bounds__(kThreads) PublishKernel(const __grid_constant__ PublishArgs args) {
  __shared__ SlotRecord* slots[kThreads];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < args.ring_size) slots[thread] = args.ring[thread].slots;
  WaitForPrevious();
  LetNextStart();
  const int64_t n_published = *args.n_published;
  const auto at = static_cast<int32_t>(n_published % args.ring_size);
  __syncthreads();
  RoundRecord& record = args.ring[at];
  const auto n = static_cast<int32_t>(args.n_slots * sizeof(SlotRecord) / sizeof(uint64_t));
  const auto* from = reinterpret_cast<const uint64_t*>(args.records);
  auto* to = reinterpret_cast<uint64_t*>(at < kThreads ? slots[at] : record.slots);
  for (int32_t i = thread; i < n; i += kThreads) to[i] = from[i];
  if (thread == 0) {
    record.time_ns = 0;  // the host's clock is read by the host
    *args.n_published = n_published + 1;
  }
}

__global__ void CutKernel(const __grid_constant__ CutArgs args) {
  internal::CutSlot(args.states[args.slot], *args.length);
}

// One block, for the count of growths is read by all before one raises it.
__global__ void __launch_bounds__(kThreads) GrowKernel(const __grid_constant__ GrowArgs args) {
  const int64_t n_grown = *args.n_grown;
  __syncthreads();
  const PageGrowth growth = args.ring[n_grown % args.ring_size];
  for (int32_t i = threadIdx.x; i < growth.n_entries; i += kThreads) {
    const PageTableEntry entry = growth.entries[i];
    *entry.at = entry.page;
  }
  if (threadIdx.x == 0) *args.n_grown = n_grown + 1;
}

__global__ void PreemptKernel(const __grid_constant__ PreemptArgs args) {
  SeqState& state = args.states[args.slot];
  *args.staged = state;
  state.live = false;
}

}  // namespace

void AdmitCuda(const AdmitArgs& args, CudaStream stream) {
  Launch(AdmitKernel, {.block = kThreads}, stream, args);
}

void SettleCuda(const SettleArgs& args, CudaStream stream) {
  const LaunchShape shape = {
      .grid = static_cast<unsigned>(args.n_slots), .block = kSettleThreads, .overlap = true};
  Launch(SettleKernel, shape, stream, args);
}

void PublishCuda(const PublishArgs& args, CudaStream stream) {
  Launch(PublishKernel, {.block = kThreads, .overlap = true}, stream, args);
}

void CutCuda(const CutArgs& args, CudaStream stream) { Launch(CutKernel, {}, stream, args); }

void GrowCuda(const GrowArgs& args, CudaStream stream) {
  Launch(GrowKernel, {.block = kThreads}, stream, args);
}

void PreemptCuda(const PreemptArgs& args, CudaStream stream) { Launch(PreemptKernel, {}, stream, args); }

}  // namespace tandem
