// The engine before its first round: options are checked, memory is planned, programs are recorded.
#include <algorithm>

#include <absl/strings/str_cat.h>

#include "draft/model_drafter.h"
#include "draft/ngram.h"
#include "kernels/attention/attention.h"
#include "runtime/buckets.h"
#include "runtime/cascade/token_cascade.h"
#include "runtime/core/cuda.h"
#include "runtime/engine.h"
#include "runtime/memory_plan.h"

namespace tandem {
namespace {

absl::Status CheckRange(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected ", least, " to ", most, ", got ", value));
}

// On a device the caches take what the weights leave, and no more than all slots can use.
absl::Status FitCache(const PairSpec& pair, Device device, EngineOptions* options) {
  PlannedEngine engine = PlanOf(*options, pair);
  const int64_t free = cuda::Memory(device).free;
  if (options->cache_tokens == 0) options->cache_tokens = CacheTokensThatFit({&engine, 1}, free);
  engine.run.cache_tokens = options->cache_tokens;  // 0: what one sequence would need does not fit
  return CheckFits(PlanMemory(engine), device, free);
}

absl::Status Resolve(EngineOptions* options, PairSpec* pair) {
  constexpr int32_t kMost = 1 << 30;
  TANDEM_RETURN_IF_ERROR(CheckRange("batch", options->n_slots, 1, 4096));
  TANDEM_RETURN_IF_ERROR(CheckRange("speculation.gamma", options->gamma, 0, kMaxGamma - 1));
  TANDEM_RETURN_IF_ERROR(CheckRange("cache.page_size", options->page_size, 1, 1 << 16));
  TANDEM_RETURN_IF_ERROR(CheckRange("prefill_chunk", options->prefill_chunk, 1, 1 << 16));
  TANDEM_RETURN_IF_ERROR(CheckRange("rounds_ahead", options->rounds_ahead, 0, 8));
  TANDEM_RETURN_IF_ERROR(CheckRange("threads", options->n_threads, 1, 1024));
  TANDEM_RETURN_IF_ERROR(CheckRange("cache.tokens", options->cache_tokens, 0, int64_t{kMost}));
  if (!pair->has_drafter()) options->gamma = 0;
  const Device device = pair->target.model->device();
  if (device.is_cuda()) options->n_threads = 1;  // the CPU's
  if (pair->draft && pair->draft->model->device() != device) {
    return absl::InvalidArgumentError(absl::StrCat("draft.device: ", Name(pair->draft->model->device()),
                                                   ": expected the target's, ", Name(device),
                                                   "; both models run on one device"));
  }
  if (pair->host_drafter != nullptr && device.is_cuda()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a drafter that runs on the host needs target.device: cpu, got ", Name(device)));
  }
  if (options->token_cascade) {
    if (!pair->draft) return absl::InvalidArgumentError("a token cascade needs a draft model");
    options->gamma = 1;
  }
  int32_t context = pair->target.model->shape().max_context;
  int32_t n_vocab = pair->target.model->shape().n_vocab;
  if (pair->draft && options->gamma > 0) {
    context = std::min(context, pair->draft->model->shape().max_context);
    n_vocab = std::min(n_vocab, pair->draft->model->shape().n_vocab);
  }
  if (options->max_context == 0) options->max_context = context;
  TANDEM_RETURN_IF_ERROR(CheckRange("cache.max_context", options->max_context, 2, context));
  if (pair->n_vocab == 0) pair->n_vocab = n_vocab;
  TANDEM_RETURN_IF_ERROR(CheckRange("the pair's vocabulary", pair->n_vocab, 1, n_vocab));
  if (device.is_cuda()) return FitCache(*pair, device, options);
  if (options->cache_tokens == 0) {
    const int32_t pages = (options->max_context + options->page_size - 1) / options->page_size;
    options->cache_tokens = int64_t{options->n_slots} * pages * options->page_size;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, PairSpec pair,
                                                       std::unique_ptr<Policy> policy) {
  EngineOptions resolved = options;
  TANDEM_RETURN_IF_ERROR(Resolve(&resolved, &pair));
  if (resolved.token_cascade && !policy->info().draft_only) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rule ", policy->info().name, ": a token cascade decides before the target is asked, and ",
        "this rule looks at more than the draft's law"));
  }
  TANDEM_RETURN_IF_ERROR(cuda::Check(pair.target.model->device()));
  std::unique_ptr<Engine> engine(new Engine(resolved, std::move(pair), std::move(policy)));
  TANDEM_RETURN_IF_ERROR(engine->MakeExecutor());
  return engine;
}

Engine::Engine(const EngineOptions& options, PairSpec pair, std::unique_ptr<Policy> policy)
    : options_(options),
      pair_(std::move(pair)),
      policy_(std::move(policy)),
      arena_(pair_.target.model->device()),
      shared_(pair_.target.model->device(), Access::kShared),
      ring_size_(options.rounds_ahead + 2),
      queued_(ring_size_) {
  batch_ = {
      .n_slots = options_.n_slots,
      .gamma = options_.gamma,
      .states = arena_.New<SeqState>(options_.n_slots),
      .tokens = {.data = arena_.New<int32_t>(static_cast<size_t>(options_.n_slots) * options_.max_context),
                 .stride = options_.max_context},
      .uniforms = options_.uniforms,
      .n_workers = options_.n_threads,
      .device = arena_.device()};
  staged_ = shared_.New<SeqState>(options_.n_slots);
  staged_tokens_ = {
      .data = shared_.New<int32_t>(static_cast<size_t>(options_.n_slots) * options_.max_context),
      .stride = options_.max_context};
  cut_length_ = shared_.New<int32_t>(options_.n_slots);
  growths_ = shared_.New<PageGrowth>(ring_size_);
  // Between two growths the host reads at most the rounds it queues, and a sequence is that much longer.
  const int32_t most = (1 + options_.rounds_ahead) * (options_.gamma + 1);
  const auto n_entries = static_cast<size_t>(options_.n_slots) * kNumSides *
                         static_cast<size_t>((most + options_.page_size - 1) / options_.page_size);
  grown_.reserve(n_entries);
  for (int32_t i = 0; i < ring_size_; ++i) growths_[i].entries = shared_.New<PageTableEntry>(n_entries);
  records_ = arena_.New<SlotRecord>(options_.n_slots);
  n_published_ = arena_.New<int64_t>(1);
  ring_ = shared_.New<RoundRecord>(ring_size_);
  for (int32_t i = 0; i < ring_size_; ++i) ring_[i].slots = shared_.New<SlotRecord>(options_.n_slots);

  RunnerOptions runner{.side = kTarget,
                       .dtype = pair_.target.dtype,
                       .cache = {.n_slots = options_.n_slots,
                                 .page_size = options_.page_size,
                                 .n_tokens = options_.cache_tokens,
                                 .max_context = options_.max_context},
                       .max_rows = std::max(options_.prefill_chunk, options_.n_slots * (options_.gamma + 1)),
                       .n_workers = options_.n_threads,
                       .catches_up = options_.token_cascade};
  verifier_ = std::make_unique<Verifier>(pair_.target.model, runner);
  std::vector<PagedCache*> caches = {&verifier_->runner().cache()};
  if (options_.gamma == 0) {
    drafter_ = std::make_unique<NoDrafter>();
  } else if (pair_.draft) {
    runner.side = kDraft;
    runner.dtype = pair_.draft->dtype;
    runner.max_rows = std::max(options_.prefill_chunk, options_.n_slots * 2);
    if (options_.token_cascade) {
      drafter_ = std::make_unique<TokenCascadeDrafter>(pair_.draft->model, runner, pair_.n_vocab,
                                                       policy_->deferral_test());
    } else {
      drafter_ = std::make_unique<ModelDrafter>(pair_.draft->model, runner, pair_.n_vocab,
                                                policy_->needs_bonus_law());
    }
    caches.push_back(&drafter_->runner()->cache());
  } else if (pair_.ngram) {
    drafter_ = std::make_unique<NgramDrafter>(pair_.ngram->min, pair_.ngram->max);
  } else {
    drafter_ = std::make_unique<HostDrafter>(pair_.host_drafter, pair_.target.model->shape().n_vocab);
  }
  scheduler_ =
      std::make_unique<Scheduler>(options_.n_slots, options_.max_context, pair_.tokenizer, std::move(caches));
  RecordPrograms();
}

Engine::~Engine() = default;

absl::Status Engine::MakeExecutor() {
  TANDEM_ASSIGN_OR_RETURN(executor_, NewExecutor({.device = batch_.device,
                                                  .streams = options_.streams,
                                                  .n_threads = options_.n_threads,
                                                  .adversary_seed = options_.adversary_seed,
                                                  .check_steps = options_.check_steps,
                                                  .stream_kernels = options_.stream_kernels,
                                                  .time_phases = options_.time_phases,
                                                  .trace = options_.trace}));
  for (const Bucket& bucket : buckets_) TANDEM_RETURN_IF_ERROR(executor_->Prepare(bucket.round));
  for (const Program* program : {&prefill_, &recover_, &grow_})
    TANDEM_RETURN_IF_ERROR(executor_->Prepare(*program));
  for (const std::vector<Program>* programs : {&admit_, &cut_, &preempt_}) {
    for (const Program& program : *programs) TANDEM_RETURN_IF_ERROR(executor_->Prepare(program));
  }
  return absl::OkStatus();
}

void Engine::RecordPrograms() {
  // Rounds run one after the other: those of fewer slots use the first part of the largest one's buffers, which are made for
  // the one recorded first.
  for (const int32_t n_slots : BucketsOf(options_.n_slots, options_.buckets)) {
    Batch batch = batch_;
    batch.n_slots = n_slots;
    buckets_.push_back({n_slots, Program(absl::StrCat("round of ", n_slots))});
    Record(buckets_.back().round, batch);
  }

  prefill_.At(Lane::kDraft, Phase::kPrefill);
  prefill_.Wait(kSettled);  // the sequence was admitted
  drafter_->Prefill(prefill_, batch_, options_.prefill_chunk);
  prefill_.Record(kPrefilled);
  prefill_.At(Lane::kTarget, Phase::kPrefill);
  // The target of a token cascade feeds the prompt when it is asked first.
  if (!options_.token_cascade) verifier_->Prefill(prefill_, batch_, options_.prefill_chunk);

  // Few enough rows that they have the bits of a round's.
  recover_rows_ = std::min<int32_t>(kAttentionDecodeRows, options_.prefill_chunk);
  const ModelRunner::What recovery{.kind = PlanKind::kRecover, .chunk = recover_rows_};
  recover_.At(Lane::kDraft, Phase::kPrefill);
  recover_.Wait(kSettled);
  if (drafter_->runner() != nullptr) drafter_->runner()->Extend(recover_, batch_, recovery, {});
  recover_.Record(kPrefilled);
  recover_.At(Lane::kTarget, Phase::kPrefill);
  if (!options_.token_cascade) verifier_->runner().Extend(recover_, batch_, recovery, {});

  grow_.At(Lane::kTarget, Phase::kSettle);
  grow_.Add(GrowArgs{.ring = growths_, .ring_size = ring_size_, .n_grown = arena_.New<int64_t>(1)});
  grow_.Record(kSettled);

  admit_.assign(options_.n_slots, Program("admit"));
  cut_.assign(options_.n_slots, Program("cut"));
  preempt_.assign(options_.n_slots, Program("preempt"));
  for (int32_t slot = 0; slot < options_.n_slots; ++slot) {
    admit_[slot].At(Lane::kTarget, Phase::kSettle);
    admit_[slot].Wait(kPrefilled);  // planning a prefill looks at every slot
    AdmitArgs admit{.slot = slot,
                    .staged = staged_ + slot,
                    .prompt = staged_tokens_.of(slot),
                    .states = batch_.states,
                    .tokens = batch_.tokens};
    admit.pages[kTarget] = verifier_->runner().cache().page_row(slot);
    if (drafter_->runner() != nullptr) admit.pages[kDraft] = drafter_->runner()->cache().page_row(slot);
    admit_[slot].Add(admit);
    admit_[slot].Record(kSettled);
    cut_[slot].At(Lane::kTarget, Phase::kSettle);
    cut_[slot].Add(CutArgs{.slot = slot, .length = cut_length_ + slot, .states = batch_.states});
    cut_[slot].Record(kSettled);
    preempt_[slot].At(Lane::kTarget, Phase::kSettle);
    preempt_[slot].Add(PreemptArgs{.slot = slot, .staged = staged_ + slot, .states = batch_.states});
    preempt_[slot].Record(kSettled);
  }
}

void Engine::Settle(Program& round, const Batch& batch, const Proposal& proposal, const Scores& scores,
                    const Verdicts& verdicts) {
  round.Add(SettleArgs{.n_slots = batch.n_slots,
                       .n_vocab = pair_.target.model->shape().n_vocab,
                       .states = batch.states,
                       .tokens = batch.tokens,
                       .proposal = proposal,
                       .verdicts = verdicts,
                       .scores = options_.log_probs ? scores.law : LawBuffer(),
                       .records = records_});
}

void Engine::Publish(Program& round, const Batch& batch) {
  round.Add(PublishArgs{.n_slots = batch.n_slots,
                        .records = records_,
                        .ring = ring_,
                        .ring_size = ring_size_,
                        .n_published = n_published_});
}

absl::Status Engine::Submit(Request request) {
  TANDEM_RETURN_IF_ERROR(Check(request));
  scheduler_->Submit(std::move(request));
  return absl::OkStatus();
}

absl::Status Engine::Check(const Request& request) const {
  const std::string name = absl::StrCat("request ", request.id, ": ");
  const auto n_prompt = static_cast<int64_t>(request.prompt.size());
  if (n_prompt == 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, "the prompt is empty; expected at least one token"));
  }
  if (n_prompt >= options_.max_context) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, "the prompt has ", n_prompt, " tokens; the context of ", options_.max_context,
        " leaves room for ", options_.max_context - 1, ". Shorten it, or raise cache.max_context"));
  }
  for (int32_t token : request.prompt) {
    if (token >= 0 && token < pair_.target.model->shape().n_vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, "token id ", token, " in the prompt; expected 0 to ",
                                                   pair_.target.model->shape().n_vocab - 1));
  }
  if (request.max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, "max_new_tokens: expected at least 1, got ", request.max_new_tokens));
  }
  if (request.stop_ids.size() > static_cast<size_t>(kMaxStopIds)) {
    return absl::InvalidArgumentError(absl::StrCat(name, "expected at most ", kMaxStopIds,
                                                   " stop token ids (end of text included), got ",
                                                   request.stop_ids.size()));
  }
  if (!request.stop_strings.empty() && pair_.tokenizer == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, "stop strings need a tokenizer, and ", pair_.target.name,
                     " has none; use stop_token_ids or add its tokenizer.json"));
  }
  const int64_t needed = std::min<int64_t>(n_prompt + request.max_new_tokens, options_.max_context);
  const int64_t fits = verifier_->runner().cache().total_tokens();
  if (needed > fits) {
    return absl::ResourceExhaustedError(absl::StrCat(
        name, "needs ", needed, " tokens of cache (prompt ", n_prompt, ", max_new_tokens ",
        request.max_new_tokens, "); ", fits, " fit. Raise cache.tokens or lower max_new_tokens"));
  }
  return absl::OkStatus();
}

PhaseTimes Engine::times() const { return executor_->times(); }
void Engine::ResetTimes() { executor_->ResetTimes(); }

Engine::Memory Engine::memory() const {
  ModelRunner* draft = drafter_->runner();
  return {
      .target_cache = verifier_->runner().cache().bytes(),
      .draft_cache = draft != nullptr ? draft->cache().bytes() : 0,
      .workspace = verifier_->runner().workspace_bytes() + (draft != nullptr ? draft->workspace_bytes() : 0)};
}

}  // namespace tandem
