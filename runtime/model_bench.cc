#include "runtime/model_bench.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/sample/sample.h"
#include "runtime/core/cuda.h"
#include "runtime/settle.h"

namespace tandem {
namespace {

// The cache's positions: the longer of the two prompts, and what is computed behind it.
constexpr int32_t kBehind = 64;

RunnerOptions RunnerFor(const ModelBenchOptions& options, int32_t n_positions) {
  return {.side = kDraft,
          .dtype = options.dtype,
          .cache = {.n_slots = 1, .n_tokens = n_positions, .max_context = n_positions},
          .max_rows = options.n_prefill,
          .n_workers = options.executor.n_threads};
}

}  // namespace

ModelBench::ModelBench(std::shared_ptr<const Model> model, const ModelBenchOptions& options)
    : model_(std::move(model)),
      options_(options),
      n_positions_(std::max(options.context, options.n_prefill) + kBehind),
      arena_(model_->device()),
      shared_(model_->device(), Access::kShared),
      runner_(model_, RunnerFor(options, n_positions_)),
      staged_(shared_.New<SeqState>(1)),
      staged_prompt_(shared_.New<int32_t>(n_positions_)) {
  const bool reserved = runner_.cache().Reserve(0, n_positions_);
  TANDEM_CHECK(reserved) << n_positions_ << " positions";
  for (int32_t i = 0; i < n_positions_; ++i)
    staged_prompt_[i] = static_cast<int32_t>(int64_t{i} * 7919 % model_->shape().n_vocab);
  batch_ = {.n_slots = 1,
            .gamma = kSteps,
            .states = arena_.New<SeqState>(1),
            .tokens = {.data = arena_.New<int32_t>(n_positions_), .stride = n_positions_},
            .n_workers = options.executor.n_threads,
            .device = model_->device()};
}

absl::StatusOr<ModelBench::Timed> ModelBench::Time(const Program& program, int64_t n_keys, int32_t n_parts) {
  Timed timed{.work = WorkOf(program, n_keys)};
  TANDEM_ASSIGN_OR_RETURN(timed.ms, TimeProgram(program, options_.executor, options_.n_repetitions));
  timed.ms /= n_parts;
  timed.work.weight_bytes /= n_parts;
  timed.work.cache_bytes /= n_parts;
  timed.work.product_flops /= n_parts;
  return timed;
}

template <typename T>
T ModelBench::ReadBack(const T* there) const {
  const Device device = model_->device();
  if (!device.is_cuda()) return *there;
  T value;
  cuda::Download(device, &value, there, sizeof(T));
  return value;
}

absl::StatusOr<ModelBench::Timed> ModelBench::Prefill() {
  // A prompt is prefilled up to its last token, so this one has another.
  *staged_ = {.live = true,
              .length = options_.n_prefill + 1,
              .prompt_length = options_.n_prefill + 1,
              .length_limit = n_positions_,
              .sampling = {.temperature = 1}};
  Program program;
  AdmitArgs admit{.slot = 0,
                  .staged = staged_,
                  .prompt = staged_prompt_,
                  .states = batch_.states,
                  .tokens = batch_.tokens};
  admit.pages[kDraft] = runner_.cache().page_row(0);
  program.Add(admit);
  runner_.Extend(program, batch_, {.kind = PlanKind::kExtend, .chunk = options_.n_prefill}, {});
  TANDEM_ASSIGN_OR_RETURN(const Timed timed, Time(program, options_.n_prefill, 1));
  if (const int32_t n_rows = ReadBack(batch_.states).rows[kDraft]; n_rows != options_.n_prefill) {
    return absl::FailedPreconditionError(
        absl::StrCat("a prompt of ", options_.n_prefill, " tokens left ", n_rows, " rows in the cache"));
  }
  return timed;
}

absl::StatusOr<ModelBench::Timed> ModelBench::Forward(int32_t n_rows) {
  TANDEM_CHECK(n_rows <= kBehind);
  std::vector<int32_t> position(n_rows), row(n_rows);
  std::iota(position.begin(), position.end(), options_.context);
  std::iota(row.begin(), row.end(), 0);
  const int32_t* rows = row.data();
  tandem::Forward forward;
  forward.rows = {.capacity = n_rows,
                  .n_rows = arena_.Copy(&n_rows, 1),
                  .slot = arena_.New<int32_t>(n_rows),
                  .position = arena_.Copy(position.data(), position.size()),
                  .token = arena_.Copy(staged_prompt_, n_rows),
                  .n_logits = arena_.Copy(&n_rows, 1),
                  .logits_row = arena_.Copy(rows, n_rows),
                  .logits_out = arena_.Copy(rows, n_rows)};
  forward.kv = runner_.cache().layers();
  forward.workspace = model_->NewWorkspace(arena_, n_rows, options_.executor.n_threads);
  forward.dtype = options_.dtype;
  forward.out = NewLaws(arena_, n_rows, model_->shape().n_vocab, model_->shape().n_vocab);
  Program program;
  for (int32_t i = 0; i < kSteps; ++i) model_->Emit(program, forward);
  return Time(program, options_.context + n_rows, kSteps);
}

absl::StatusOr<ModelBench::Timed> ModelBench::DraftStep() {
  // Proposed tokens stand behind the committed ones, so that these steps can run again and again: they advance the
  // cache's count of rows to the same numbers every time, and draw by the same keys.
  const SeqState state{.live = true,
                       .length = options_.context,
                       .prompt_length = options_.context,
                       .length_limit = n_positions_,
                       .rows = {options_.context, options_.context},
                       .gamma = kSteps + 1,
                       .gamma_max = kSteps + 1,
                       .sampling = {.temperature = 1}};
  Batch batch = batch_;
  batch.states = arena_.Copy(&state, 1);
  const int32_t block = kSteps + 2, wanted = kSteps + 1, n_vocab = model_->shape().n_vocab;
  Proposal proposal{.block = block,
                    .wanted = arena_.Copy(&wanted, 1),
                    .n_proposed = arena_.New<int32_t>(1),
                    .tokens = arena_.New<int32_t>(block),
                    .parent = arena_.New<int32_t>(block),
                    .fault = arena_.New<Fault>(1),
                    .has_law = true,
                    .law = NewLaws(arena_, block, n_vocab, n_vocab)};
  Program program;
  program.At(Lane::kDraft, Phase::kDraft);
  for (int32_t index = 1; index <= kSteps; ++index) {
    const RowPlan rows = runner_.Extend(
        program, batch, {.kind = PlanKind::kDraft, .index = index, .proposal = proposal}, proposal.law);
    program.Add(SampleArgs{
        .index = index, .states = batch.states, .rows = rows, .proposal = proposal, .uniforms = {}});
  }
  TANDEM_ASSIGN_OR_RETURN(const Timed timed, Time(program, options_.context, kSteps));
  if (const int32_t n_proposed = ReadBack(proposal.n_proposed); n_proposed != kSteps + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(kSteps, " draft steps ended at token ", n_proposed, ", expected ", kSteps + 1));
  }
  return timed;
}

}  // namespace tandem
