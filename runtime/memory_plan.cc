#include "runtime/memory_plan.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "kernels/attention/packed_attention.h"
#include "kernels/law/law.h"
#include "kernels/linear/linear_library.h"
#include "kernels/linear/strands.h"
#include "kernels/stream/stream_step.h"
#include "policies/judge.h"
#include "runtime/buckets.h"
#include "runtime/engine.h"
#include "runtime/model/cache.h"
#include "runtime/model/runner.h"
#include "runtime/report.h"

namespace tandem {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kUnit = 2 * kMiB;  // of physical memory, on every GPU from sm_70 on
constexpr int64_t kSmall = kMiB;     // what is smaller lies in a unit with others
constexpr int64_t kSmallUnit = 512;

// The driver's and cuBLAS's own, which nobody states: the graphs of one round (some thousand nodes without stream kernels)
// and of the shorter programs, cuBLAS's handle, code that is loaded when it first runs, and room for the stacks of the
// kernels that have any.
constexpr int64_t kAllowance = 256 * kMiB;
// A kernel's node in a graph, at most, and how many a layer has.
constexpr int64_t kNode = 10 << 10, kLayerNodes = 12;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Allocations that are made one by one.
class Allocations {
 public:
  void Add(int64_t bytes, int64_t n = 1) {
    if (bytes < kSmall) {
      small_ += n * RoundUp(bytes, kSmallUnit);
    } else {
      large_ += n * RoundUp(bytes, kUnit);
    }
  }
  int64_t bytes() const { return large_ + RoundUp(small_, kUnit); }

 private:
  int64_t large_ = 0, small_ = 0;
};

int64_t QDim(const ModelShape& shape) { return int64_t{shape.n_heads} * shape.head_dim; }
int64_t KvDim(const ModelShape& shape) { return int64_t{shape.n_kv_heads} * shape.head_dim; }

// PagedCache.
int64_t CacheBytes(const PlannedModel& model, const PlannedRun& run) {
  const int64_t n_positions = RoundUp(run.cache_tokens, run.page_size);
  Allocations all;
  all.Add(n_positions * KvDim(model.shape) * static_cast<int64_t>(SizeOf(model.cache_dtype)),
          int64_t{2} * model.shape.n_layers);
  all.Add(int64_t{run.n_slots} * RoundUp(run.max_context, run.page_size) / run.page_size * 4);
  return all.bytes();
}

// A ModelRunner's workspace, and the laws of a block of every slot.
int64_t WorkspaceBytes(const PlannedModel& model, const PlannedRun& run, int64_t max_rows) {
  const int64_t n_laws = int64_t{run.n_slots} * (run.gamma + 1);
  const int64_t stride = RoundUp(model.shape.n_vocab, 16) * 4;
  Allocations all;
  for (const int64_t bytes : WorkspaceSizes(model.shape, static_cast<int32_t>(max_rows), 1)) all.Add(bytes);
  all.Add(max_rows * 4, 5);  // the rows' plan
  all.Add(n_laws * stride);
  all.Add(n_laws * static_cast<int64_t>(sizeof(LawRecord)));
  all.Add(n_laws * NumLawBlocks(model.shape.n_vocab) * static_cast<int64_t>(sizeof(LawBlock)));
  all.Add(stride);  // of one law, for the step that cuts it off
  return all.bytes();
}

// Engine, Policy and NewProposal: what rounds keep beside laws.
int64_t RoundBytes(const PlannedRun& run, int64_t n_vocab) {
  const int64_t n_slots = run.n_slots, n = n_slots * (run.gamma + 1);
  Allocations all;
  all.Add(n_slots * static_cast<int64_t>(sizeof(SeqState)));
  all.Add(n_slots * run.max_context * 4);
  all.Add(n_slots * static_cast<int64_t>(sizeof(SlotRecord)));
  all.Add(n_slots * 4, 7);  // of a proposal and of verdicts
  all.Add(n * 4, 3);
  all.Add(n * static_cast<int64_t>(sizeof(JudgedPosition)));
  all.Add(n * NumLawBlocks(static_cast<int32_t>(n_vocab)) * static_cast<int64_t>(sizeof(double)), 2);
  return all.bytes();
}

// The stream kernels of an engine's rounds: verification has one, and each step of the draft; prefill has none.
int64_t StreamsBytes(const PlannedModel& model, const PlannedRun& run, bool is_target) {
  if (!run.stream_kernels || run.on_cpu) return 0;
  const auto bytes = [&](int64_t n_rows) {
    return StreamKernelBytes(model, static_cast<int32_t>(n_rows), run.page_size);
  };
  int64_t sum = 0;
  for (const int64_t n_slots : BucketsOf(run.n_slots, run.buckets))
    sum += is_target ? bytes(n_slots * (run.gamma + 1)) : bytes(n_slots * 2) + run.gamma * bytes(n_slots);
  return sum;
}

// The graphs of rounds beyond the one that the allowance has room for.
int64_t GraphBytes(const PlannedEngine& engine) {
  int64_t n_layers = 0;  // of all forwards of a round
  for (size_t i = 0; i < engine.models.size(); ++i)
    n_layers += int64_t{engine.models[i].shape.n_layers} * (i == 0 ? 1 : engine.run.gamma + 1);
  const auto n_graphs = std::ssize(BucketsOf(engine.run.n_slots, engine.run.buckets)) - 1;
  return n_graphs * n_layers * kLayerNodes * kNode;
}

void AddModel(const PlannedModel& model, const PlannedRun& run, bool is_target, bool context_alone,
              MemoryPlan* plan) {
  plan->parts.push_back({absl::StrCat("the weights of ", model.name), model.weight_bytes,
                         "choose a smaller model, or a GPU with more memory"});
  plan->parts.push_back(
      {absl::StrCat("the cache of ", model.name, " for ", FormatCount(run.cache_tokens), " tokens"),
       CacheBytes(model, run),
       context_alone ? "lower cache.max_context, or use dtype: bf16"
                     : "lower cache.tokens, or use dtype: bf16"});
  const int64_t max_rows =
      std::max<int64_t>(run.prefill_chunk, int64_t{run.n_slots} * (is_target ? run.gamma + 1 : 2));
  plan->parts.push_back({absl::StrCat("the workspace of ", model.name), WorkspaceBytes(model, run, max_rows),
                         "lower execution.batch, or execution.prefill_chunk"});
  plan->parts.push_back({absl::StrCat("the stream kernels of ", model.name),
                         StreamsBytes(model, run, is_target),
                         "lower speculation.gamma, or set execution.stream_kernels: false"});
}

void AddEngine(const PlannedEngine& engine, MemoryPlan* plan) {
  PlannedRun run = engine.run;
  int64_t n_vocab = 0;
  for (const PlannedModel& model : engine.models) {
    n_vocab = std::max<int64_t>(n_vocab, model.shape.n_vocab);
    if (engine.run.max_context == 0) {
      run.max_context =
          run.max_context == 0 ? model.shape.max_context : std::min(run.max_context, model.shape.max_context);
    }
  }
  const bool context_alone = run.cache_tokens == 0;
  if (context_alone) run.cache_tokens = run.max_context;
  for (size_t i = 0; i < engine.models.size(); ++i)
    AddModel(engine.models[i], run, i == 0, context_alone, plan);
  plan->parts.push_back({"what rounds keep of every sequence", RoundBytes(run, n_vocab),
                         "lower execution.batch, or cache.max_context"});
  if (run.on_cpu) return;
  plan->parts.push_back({"cuBLAS's workspace, graphs and code",
                         kLibraryWorkspaceBytes + kAllowance + GraphBytes(engine),
                         "choose a smaller model, or a GPU with more memory"});
}

}  // namespace

int64_t MemoryPlan::bytes() const {
  int64_t sum = 0;
  for (const MemoryPart& part : parts) sum += part.bytes;
  return sum;
}

int64_t DeviceBytes(int64_t bytes) { return RoundUp(bytes, bytes < kSmall ? kSmallUnit : kUnit); }

int64_t StreamKernelBytes(const PlannedModel& model, int32_t max_rows, int32_t page_size) {
  const ModelShape& shape = model.shape;
  const auto whole = [](int64_t in_dim) { return in_dim % stream::kMapCols == 0; };
  const bool fits = whole(shape.hidden) && whole(QDim(shape)) && whole(shape.intermediate) &&
                    max_rows <= stream::kMaxRows && model.cache_dtype == DType::kBf16 &&
                    (shape.head_dim == 64 || shape.head_dim == 128) &&
                    page_size % packed_attention::kWarpKeys == 0 && shape.hidden <= stream::kMaxHidden;
  if (!fits) return 0;
  const int64_t rows = max_rows, n_queries = rows * shape.n_heads, q = QDim(shape), kv = KvDim(shape);
  // The buffers of a layer, each from a multiple of 128 bytes on.
  int64_t half = 0;
  const auto add = [&](int64_t bytes, int n = 1) { half += n * RoundUp(bytes, 128); };
  add(rows * q * 4);
  add(rows * kv * 4, 2);
  add(n_queries * shape.head_dim * 2);
  add(n_queries * packed_attention::kCluster * shape.head_dim * 4);
  add(n_queries * packed_attention::kCluster * 2 * 4);
  add(rows * shape.intermediate * 2);
  add(rows * shape.hidden * 2, 2);  // the residual, after attention and after the MLP
  add(rows * shape.hidden / strands::kSquares * 4, 2);
  // Norms and biases, widened.
  const int64_t norms = 2 * int64_t{shape.hidden} + 2 * int64_t{shape.head_dim};
  const int64_t biases = q + 2 * kv + 2 * int64_t{shape.hidden} + 2 * int64_t{shape.intermediate};
  const int64_t n_products = 4 * int64_t{shape.n_layers} + 1, n_steps = n_products + shape.n_layers;
  Allocations all;
  all.Add(2 * half * shape.n_layers);
  all.Add((shape.n_layers * (norms + biases) + shape.hidden) * 4);
  all.Add(n_steps * static_cast<int64_t>(sizeof(stream::StreamStep)));
  all.Add(n_products * static_cast<int64_t>(sizeof(stream::Tiles)));
  all.Add(n_products * kMaxSegments * stream::kMapBytes);
  all.Add(8);
  return all.bytes();
}

MemoryPlan PlanMemory(std::span<const PlannedEngine> engines) {
  MemoryPlan plan;
  for (const PlannedEngine& engine : engines) AddEngine(engine, &plan);
  return plan;
}

PlannedEngine PlanOf(const EngineOptions& options, const PairSpec& pair) {
  PlannedEngine engine{.run = {.n_slots = options.n_slots,
                               .gamma = options.gamma,
                               .page_size = options.page_size,
                               .prefill_chunk = options.prefill_chunk,
                               .cache_tokens = options.cache_tokens,
                               .max_context = options.max_context,
                               .stream_kernels = options.stream_kernels,
                               .buckets = options.buckets}};
  for (const ModelSpec* spec : {&pair.target, pair.draft && options.gamma > 0 ? &*pair.draft : nullptr}) {
    if (spec == nullptr) continue;
    const DType dtype = spec->dtype == ActivationDType::kBf16 ? DType::kBf16 : DType::kF32;
    engine.models.push_back({.name = spec->name, .shape = spec->model->shape(), .cache_dtype = dtype});
  }
  return engine;
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

int64_t CacheTokensThatFit(std::span<const PlannedEngine> engines, int64_t free_bytes) {
  std::vector<PlannedEngine> tried(engines.begin(), engines.end());
  int64_t most = 0;
  for (const PlannedEngine& engine : engines)
    most = std::max(most, engine.run.n_slots * RoundUp(engine.run.max_context, engine.run.page_size));
  const int64_t page = engines[0].run.page_size;
  const auto fits = [&](int64_t n_pages) {
    for (PlannedEngine& engine : tried) engine.run.cache_tokens = n_pages * page;
    return PlanMemory(tried).bytes() <= free_bytes;
  };
  // More pages never take less.
  int64_t low = 0, high = most / page;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low * page;
}

}  // namespace tandem
