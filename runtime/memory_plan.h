// What a run takes of a device's memory, part by part, known from the headers of checkpoints and from the configuration:
// so that what cannot fit is refused before anything is loaded. Plain values; any thread.
#ifndef TANDEM_RUNTIME_MEMORY_PLAN_H_
#define TANDEM_RUNTIME_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/device.h"
#include "runtime/core/status.h"
#include "runtime/model/model.h"

namespace tandem {

struct MemoryPart {
  std::string what;  // "the weights of models/llama-8b"
  int64_t bytes = 0;
  std::string cures;  // two ways to make it smaller
};

struct MemoryPlan {
  std::vector<MemoryPart> parts;

  int64_t bytes() const;
};

// One model of a pair, as far as memory goes.
struct PlannedModel {
  std::string name;
  ModelShape shape;
  int64_t weight_bytes = 0;  // all that is uploaded
  DType cache_dtype = DType::kF32;
};

struct PlannedRun {
  int32_t n_slots = 1;
  int32_t gamma = 0;
  int32_t prefill_chunk = 128;
  int64_t cache_tokens = 0;  // 0: one sequence's context, the least that a run needs
  int32_t max_context = 0;   // 0: the smallest of the models'
};

MemoryPlan PlanMemory(const std::vector<PlannedModel>& models, const PlannedRun& run);

// kResourceExhausted, in one line: what is needed and what is free, the largest part and two ways out.
absl::Status CheckFits(const MemoryPlan& plan, Device device, int64_t free_bytes);

// Positions that both caches can hold in `free_bytes`, at most `wanted`.
int64_t CacheTokensThatFit(int64_t free_bytes, int64_t bytes_per_token, int64_t wanted);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MEMORY_PLAN_H_
