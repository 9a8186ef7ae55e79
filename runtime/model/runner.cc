#include "runtime/model/runner.h"

#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/law/law.h"

namespace tandem {
namespace {

CacheOptions CacheFor(const Model& model, CacheOptions options, ActivationDType dtype) {
  options.dtype = dtype == ActivationDType::kBf16 ? DType::kBf16 : DType::kF32;
  options.device = model.device();
  return options;
}

}  // namespace

ModelRunner::ModelRunner(std::shared_ptr<const Model> model, const RunnerOptions& options)
    : model_(std::move(model)),
      options_(options),
      arena_(model_->device()),
      cache_(model_->shape(), CacheFor(*model_, options.cache, options.dtype)),
      workspace_(model_->NewWorkspace(arena_, options.max_rows, options.n_workers)) {
  rows_.capacity = options.max_rows;
  rows_.n_rows = arena_.New<int32_t>(1);
  rows_.slot = arena_.New<int32_t>(options.max_rows);
  rows_.position = arena_.New<int32_t>(options.max_rows);
  rows_.token = arena_.New<int32_t>(options.max_rows);
  rows_.n_logits = arena_.New<int32_t>(1);
  rows_.logits_row = arena_.New<int32_t>(options.max_rows);
  rows_.logits_out = arena_.New<int32_t>(options.max_rows);
}

// What a device launches a forward for.
int32_t ModelRunner::RowsAtMost(const What& what, const Batch& batch) const {
  switch (what.kind) {
    case PlanKind::kExtend:
    case PlanKind::kRecover:
      return what.chunk;
    case PlanKind::kDraft:
      return batch.n_slots * (what.index == 0 ? 2 : 1);
    case PlanKind::kVerify:
      if (!options_.catches_up) return batch.n_slots * what.proposal.block;
      // A device's kernels for more rows read all weights however few rows there are, and here most rounds have none.
      if (model_->device().is_cuda())
        return std::min(options_.max_rows, std::max(kAttentionDecodeRows, batch.n_slots));
      break;
  }
  return options_.max_rows;
}

RowPlan ModelRunner::Extend(Program& program, const Batch& batch, const What& what, const LawBuffer& out) {
  RowPlan rows = rows_;
  rows.capacity = RowsAtMost(what, batch);
  TANDEM_CHECK(rows.capacity <= options_.max_rows);
  program.Add(PlanArgs{.kind = what.kind,
                       .side = options_.side,
                       .index = what.index,
                       .bonus_law = what.bonus_law,
                       .chunk = what.chunk,
                       .n_vocab = model_->shape().n_vocab,
                       .n_slots = batch.n_slots,
                       .states = batch.states,
                       .tokens = batch.tokens,
                       .proposal = what.proposal,
                       .rows = rows});
  model_->Emit(
      program,
      {.rows = rows, .kv = cache_.layers(), .workspace = workspace_, .dtype = options_.dtype, .out = out});
  program.Add(AdvanceArgs{.side = options_.side, .states = batch.states, .rows = rows});
  if (out.logits == nullptr) return rows;
  if (law_scratch_ == nullptr) {
    law_stride_ = out.stride;
    law_scratch_ = arena_.New<float>(static_cast<size_t>(options_.n_workers) * law_stride_);
  }
  TANDEM_CHECK(out.stride <= law_stride_);
  const Phase phase = program.phase();
  program.At(program.lane(), Phase::kRule);
  program.Add(LawBlocksArgs{.states = batch.states, .rows = rows, .laws = out});
  program.Add(LawArgs{.states = batch.states, .rows = rows, .laws = out, .scratch = law_scratch_});
  program.At(program.lane(), phase);
  return rows;
}

LawBuffer NewLaws(Arena& arena, int64_t n_rows, int32_t n_head_rows, int32_t n_vocab) {
  constexpr int32_t kGranule = 16;  // rows start at cache lines
  const int32_t stride = (n_head_rows + kGranule - 1) / kGranule * kGranule;
  return {.logits = arena.New<float>(static_cast<size_t>(n_rows) * stride),
          .records = arena.New<LawRecord>(static_cast<size_t>(n_rows)),
          .blocks = arena.New<LawBlock>(static_cast<size_t>(n_rows) * NumLawBlocks(n_vocab)),
          .stride = stride,
          .n_vocab = n_vocab};
}

}  // namespace tandem
