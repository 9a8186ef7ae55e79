#include "kernels/cuda.cuh"
#include "kernels/plan/plan.h"
#include "runtime/core/launch.cuh"

namespace tandem {
namespace {

constexpr int kThreads = 128;

// One block. Slots are laid out by one thread, for where a slot's rows begin depends on those before it, some at a time;
// their rows are then written by all.
__global__ void __launch_bounds__(kThreads) PlanKernel(const __grid_constant__ PlanArgs args) {
  WaitForPrevious();
  LetNextStart();
  __shared__ SlotRows slots[kThreads];
  __shared__ int32_t first_row[kThreads + 1], first_logits[kThreads + 1];
  const RowPlan& plan = args.rows;
  if (threadIdx.x == 0) first_row[0] = first_logits[0] = 0;
  for (int32_t first = 0; first < args.n_slots; first += kThreads) {
    const int32_t n = min(kThreads, args.n_slots - first);
    const int32_t slot = first + static_cast<int32_t>(threadIdx.x);
    if (slot < args.n_slots) {
      if (args.kind == PlanKind::kDraft && args.index == 0) BeginProposal(args, slot);
      slots[threadIdx.x] = RowsOf(args, slot, plan.capacity);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int32_t i = 0; i < n; ++i) {
        SlotRows& rows = slots[i];
        const int32_t room = plan.capacity - first_row[i];
        // Prefill, recovery and a target that catches up are cut at the plan's capacity, without logits then; of the others the
        // capacity has room for all, unless a state is broken.
        if (rows.n_rows < 0 || rows.n_rows > room) {
          rows.n_rows = rows.n_rows < 0 ? 0 : room;
          rows.n_logits = 0;
        }
        first_row[i + 1] = first_row[i] + rows.n_rows;
        first_logits[i + 1] = first_logits[i] + rows.n_logits;
      }
    }
    __syncthreads();
    for (int32_t i = 0; i < n; ++i) {
      const SlotRows rows = slots[i];
      for (int32_t j = threadIdx.x; j < rows.n_rows; j += kThreads) {
        const int32_t r = first_row[i] + j;
        plan.slot[r] = first + i;
        plan.position[r] = rows.first + j;
        plan.token[r] = PlannedToken(args, first + i, rows.first + j);
      }
      for (int32_t j = threadIdx.x; j < rows.n_logits; j += kThreads) {
        plan.logits_row[first_logits[i] + j] = first_row[i + 1] - rows.n_logits + j;
        plan.logits_out[first_logits[i] + j] = rows.out + j;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      first_row[0] = first_row[n];
      first_logits[0] = first_logits[n];
    }
  }
  if (threadIdx.x == 0) {
    *plan.n_rows = first_row[0];
    *plan.n_logits = first_logits[0];
  }
}

// A slot's rows stand together in rising order: the last of them counts.
__global__ void AdvanceKernel(const __grid_constant__ AdvanceArgs args) {
  WaitForPrevious();
  LetNextStart();
  const int32_t n = *args.rows.n_rows;
  const int32_t r = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (r >= n) return;
  const int32_t slot = args.rows.slot[r];
  if (r + 1 < n && args.rows.slot[r + 1] == slot) return;
  args.states[slot].rows[args.side] = args.rows.position[r] + 1;
}

}  // namespace

void PlanCuda(const PlanArgs& args, CudaStream stream) {
  Launch(PlanKernel, {.block = kThreads, .overlap = true}, stream, args);
}

void AdvanceCuda(const AdvanceArgs& args, CudaStream stream) {
  Launch(AdvanceKernel, {.grid = BlocksFor(args.rows.capacity, kThreads), .block = kThreads, .overlap = true},
         stream, args);
}

}  // namespace tandem
