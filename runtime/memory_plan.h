// What engines take of a device's memory, part by part, known from the headers of checkpoints and from the configuration:
// so that what cannot fit is refused before anything is loaded, and caches take what is left. Sizes are those that the
// allocating code states; what nobody can state, the driver's own, has an allowance. Plain values; any thread.
#ifndef TANDEM_RUNTIME_MEMORY_PLAN_H_
#define TANDEM_RUNTIME_MEMORY_PLAN_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/device.h"
#include "runtime/core/status.h"
#include "runtime/model/model.h"

namespace tandem {

struct EngineOptions;
struct PairSpec;

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
  int64_t weight_bytes = 0;         // all that is still to be uploaded, as DeviceBytes
  DType cache_dtype = DType::kF32;  // kBf16: products round their inputs, too
};

// As EngineOptions (runtime/engine.h).
struct PlannedRun {
  int32_t n_slots = 1;
  int32_t gamma = 0;
  int32_t page_size = 16;
  int32_t prefill_chunk = 128;
  int64_t cache_tokens = 0;  // 0: one sequence's context, the least that a run needs
  int32_t max_context = 0;   // 0: the smallest of the models'
  bool stream_kernels = true;
  bool buckets = true;
  bool on_cpu = false;  // no kernels, libraries or graphs of a device's
};

struct PlannedEngine {
  std::vector<PlannedModel> models;  // the target, then the draft if it is a model
  PlannedRun run;
};

// An engine of models that are loaded. REQUIRES: options.max_context is set.
PlannedEngine PlanOf(const EngineOptions& options, const PairSpec& pair);

// What an allocation takes: cudaMalloc gives device memory in units of 2 MiB, of which small ones share some.
int64_t DeviceBytes(int64_t bytes);

// Of all engines, that are there at once.
MemoryPlan PlanMemory(std::span<const PlannedEngine> engines);
inline MemoryPlan PlanMemory(const PlannedEngine& engine) { return PlanMemory({&engine, 1}); }

// kResourceExhausted, in one line: what is needed and what is free, the largest part and two ways out.
absl::Status CheckFits(const MemoryPlan& plan, Device device, int64_t free_bytes);

// Positions that every cache of the engines can hold if they are to fit into `free_bytes`: whole pages, and no more than
// all slots can use; 0 if not one page fits. REQUIRES: max_context is set, and pages are of one size.
int64_t CacheTokensThatFit(std::span<const PlannedEngine> engines, int64_t free_bytes);

// What the stream kernel (kernels/stream) of a forward of up to `max_rows` rows takes, at most: a model that has no biases
// takes less. 0 if there is none for such a model.
int64_t StreamKernelBytes(const PlannedModel& model, int32_t max_rows, int32_t page_size);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MEMORY_PLAN_H_
