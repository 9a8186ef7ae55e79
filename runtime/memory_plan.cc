#include "runtime/memory_plan.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "runtime/model/cache.h"
#include "runtime/report.h"

namespace tandem {

int64_t MemoryPlan::bytes() const {
  int64_t sum = 0;
  for (const MemoryPart& part : parts) sum += part.bytes;
  return sum;
}

MemoryPlan PlanMemory(const std::vector<PlannedModel>& models, const PlannedRun& run) {
  MemoryPlan plan;
  int64_t context = run.max_context;
  for (const PlannedModel& model : models) {
    if (run.max_context == 0)
      context = context == 0 ? model.shape.max_context : std::min<int64_t>(context, model.shape.max_context);
  }
  const int64_t n_tokens = run.cache_tokens > 0 ? run.cache_tokens : context;
  const int64_t n_positions = int64_t{run.n_slots} * (run.gamma + 1);
  for (const PlannedModel& model : models) {
    const ModelShape& shape = model.shape;
    plan.parts.push_back({absl::StrCat("the weights of ", model.name), model.weight_bytes,
                          "choose a smaller model, or a GPU with more memory"});
    plan.parts.push_back(
        {absl::StrCat("the cache of ", model.name, " for ", FormatCount(n_tokens), " tokens"),
         n_tokens * PagedCache::BytesPerToken(shape, model.cache_dtype),
         run.cache_tokens > 0 ? "lower cache.tokens, or use dtype: bf16"
                              : "lower cache.max_context, or use dtype: bf16"});
    // The widest activations are a few times as wide as the residual stream; a law is a row of logits.
    constexpr int64_t kActivations = 16;
    const int64_t n_rows = std::max<int64_t>(run.prefill_chunk, n_positions);
    plan.parts.push_back({absl::StrCat("the workspace of ", model.name),
                          (n_rows * kActivations * shape.hidden + n_positions * shape.n_vocab) * 4,
                          "lower execution.batch, or execution.prefill_chunk"});
  }
  return plan;
}

absl::Status CheckFits(const MemoryPlan& plan, Device device, int64_t free_bytes) {
  if (plan.bytes() <= free_bytes) return absl::OkStatus();
  const MemoryPart& largest =
      *std::max_element(plan.parts.begin(), plan.parts.end(),
                        [](const MemoryPart& a, const MemoryPart& b) { return a.bytes < b.bytes; });
  return absl::ResourceExhaustedError(
      absl::StrCat(Name(device), ": the run needs ", FormatBytes(plan.bytes()), " of memory, and ",
                   FormatBytes(free_bytes), " are free; ", largest.what, " is the largest part, ",
                   FormatBytes(largest.bytes), ": ", largest.cures));
}

int64_t CacheTokensThatFit(int64_t free_bytes, int64_t bytes_per_token, int64_t wanted) {
  if (bytes_per_token <= 0) return wanted;
  return std::clamp<int64_t>(free_bytes / bytes_per_token, 0, wanted);
}

}  // namespace tandem
