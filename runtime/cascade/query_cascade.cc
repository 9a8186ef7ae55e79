#include "runtime/cascade/query_cascade.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "runtime/core/cuda.h"
#include "runtime/memory_plan.h"

namespace tandem {
namespace {

// The engine of the first stage calls its only model the target.
absl::Status InDraftStage(const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(std::string(status.message()),
                                                  " (in the first stage of the query cascade, whose only "
                                                  "model, called the target here, is the draft)"));
}

// On a device: the caches of both stages are as long as what is free allows for both.
absl::Status ShareMemory(const PairSpec& pair, EngineOptions* shared) {
  const Device device = pair.target.model->device();
  if (!device.is_cuda() || shared->cache_tokens != 0) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(cuda::Check(device));
  EngineOptions alone = *shared;
  alone.gamma = 0;
  const PlannedEngine stages[] = {PlanOf(alone, {.target = *pair.draft}), PlanOf(*shared, pair)};
  const int64_t free = cuda::Memory(device).free;
  shared->cache_tokens = CacheTokensThatFit(stages, free);
  return shared->cache_tokens > 0 ? absl::OkStatus() : CheckFits(PlanMemory(stages), device, free);
}

}  // namespace

absl::StatusOr<std::unique_ptr<QueryCascade>> QueryCascade::Create(const QueryCascadeOptions& cascade,
                                                                   const EngineOptions& options,
                                                                   PairSpec pair,
                                                                   std::unique_ptr<Policy> policy) {
  if (!pair.draft) return absl::InvalidArgumentError("a query cascade needs a draft model");
  if (policy->info().guarantee != Guarantee::kExact) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rule ", policy->info().name, " is ", Name(policy->info().guarantee),
        ", and what a query cascade redoes is the target's own answer; use an exact rule (lossless)"));
  }
  // One limit for both stages: a request that the draft can answer can be redone.
  EngineOptions shared = options;
  if (shared.max_context == 0) {
    shared.max_context =
        std::min(pair.target.model->shape().max_context, pair.draft->model->shape().max_context);
  }
  TANDEM_RETURN_IF_ERROR(ShareMemory(pair, &shared));
  EngineOptions alone = shared;
  alone.gamma = 0;
  alone.confidence_min = 0;
  alone.log_probs = true;
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Policy> lossless, Policy::Create(PolicyOptions(), false));
  TANDEM_ASSIGN_OR_RETURN(
      std::unique_ptr<Engine> draft,
      Engine::Create(alone, {.target = *pair.draft, .tokenizer = pair.tokenizer}, std::move(lossless)));
  if (shared.gamma == 0) pair.draft.reset();
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                          Engine::Create(shared, std::move(pair), std::move(policy)));
  return std::unique_ptr<QueryCascade>(
      new QueryCascade(cascade, options.n_slots, std::move(draft), std::move(engine)));
}

QueryCascade::QueryCascade(const QueryCascadeOptions& cascade, int32_t n_slots, std::unique_ptr<Engine> draft,
                           std::unique_ptr<Engine> pair)
    : options_(cascade), n_slots_(n_slots), draft_(this, std::move(draft)), pair_(this, std::move(pair)) {}

absl::Status QueryCascade::Submit(Request request) {
  TANDEM_RETURN_IF_ERROR(draft_.engine().Check(request));
  TANDEM_RETURN_IF_ERROR(pair_.engine().Check(request));
  Item item;
  item.result.request = std::move(request);
  item.result.index = items_.size();
  item.result.submitted_ns = NowNs();
  items_.push_back(std::move(item));
  return absl::OkStatus();
}

absl::Status QueryCascade::Run(EngineListener* listener, std::vector<RequestResult>* results) {
  EngineListener silent;
  listener_ = listener != nullptr ? listener : &silent;
  status_ = absl::OkStatus();
  absl::Status status;
  while (status.ok() && (next_ < items_.size() || n_running_ > 0)) {
    status = AdmitWaiting();
    if (status.ok()) status = InDraftStage(draft_.Step());
    if (status.ok()) status = status_;
    if (status.ok()) status = pair_.Step();
    if (status.ok() && listener_->Cancelled()) break;
  }
  const FinishReason reason = status.ok() ? FinishReason::kCancelled : FinishReason::kFault;
  draft_.Abandon(reason);
  pair_.Abandon(reason);
  results->clear();
  for (Item& item : items_) {
    if (!item.finished)
      item.result.finish = FinishReason::kCancelled;  // it never ran, or waited between the stages
    results->push_back(std::move(item.result));
  }
  items_.clear();
  next_ = 0;
  n_running_ = 0;
  listener_ = nullptr;
  return status;
}

absl::Status QueryCascade::AdmitWaiting() {
  for (; n_running_ < n_slots_ && next_ < items_.size(); ++next_, ++n_running_) {
    TANDEM_RETURN_IF_ERROR(draft_.Submit(next_, items_[next_].result.request));
  }
  return absl::OkStatus();
}

// The draft's answer is complete: it is kept, or the pair begins anew.
void QueryCascade::Answered(size_t index, const RequestResult& draft) {
  Item& item = items_[index];
  RequestResult& result = item.result;
  result.admitted_ns = draft.admitted_ns;
  result.counts.draft_calls = draft.counts.target_calls;
  result.counts.num_preemptions = draft.counts.num_preemptions;
  result.stages.push_back(
      {"draft", draft.admitted_ns, draft.finished_ns, static_cast<int64_t>(draft.token_ids.size())});
  if (draft.finish == FinishReason::kStop || draft.finish == FinishReason::kLength) {
    result.score = ScoreOf(options_.score, options_.quantile, draft.log_probs);
    result.counts.num_scored_answers = 1;
    if (*result.score < options_.threshold) {
      result.counts.num_deferred_answers = 1;
      status_ = pair_.Submit(index, result.request);
      return;
    }
    Accept(item, draft);
  }
  result.finish = draft.finish;  // a cancelled or faulty answer has no score, and was never shown
  Finish(item);
}

void QueryCascade::Accept(Item& item, const RequestResult& draft) {
  RequestResult& result = item.result;
  const size_t n = draft.token_ids.size();
  result.token_ids = draft.token_ids;
  result.text = draft.text;
  result.origin.assign(n, Origin::kDraft);
  result.counts.num_emitted_tokens = result.counts.num_tokens_by_draft = static_cast<int64_t>(n);
  result.first_token_ns = NowNs();
  result.token_ns.assign(n, result.first_token_ns);
  listener_->OnTokens(result.request, result.token_ids, result.origin, result.text);
}

void QueryCascade::Redone(size_t index, const RequestResult& pair) {
  Item& item = items_[index];
  RequestResult& result = item.result;
  result.token_ids = pair.token_ids;
  result.origin = pair.origin;
  result.text = pair.text;
  result.finish = pair.finish;
  result.first_token_ns = pair.first_token_ns;
  result.token_ns = pair.token_ns;
  result.log_probs = pair.log_probs;
  result.counts.Add(pair.counts);
  result.counts.num_tokens_by_draft = 0;  // what speculation keeps is the target's word
  result.stages.push_back(
      {"target", pair.admitted_ns, pair.finished_ns, static_cast<int64_t>(pair.token_ids.size())});
  Finish(item);
}

void QueryCascade::Finish(Item& item) {
  item.result.finished_ns = NowNs();
  item.finished = true;
  --n_running_;
  listener_->OnFinish(item.result);
}

PhaseTimes QueryCascade::times() const {
  PhaseTimes times = pair_.engine().times();
  PhaseTimes draft = draft_.engine().times();
  // In the first stage the draft is what the engine takes for its target.
  draft.Add(Phase::kDraft, draft.of(Phase::kVerify));
  draft.Add(Phase::kVerify, -draft.of(Phase::kVerify));
  times.Add(draft);
  return times;
}

void QueryCascade::ResetTimes() {
  draft_.engine().ResetTimes();
  pair_.engine().ResetTimes();
}

absl::Status QueryCascade::Stage::Submit(size_t item, const Request& request) {
  TANDEM_RETURN_IF_ERROR(engine_->Submit(request));
  items_.push_back(item);
  return absl::OkStatus();
}

void QueryCascade::Stage::Abandon(FinishReason reason) {
  engine_->Abandon(reason, this);
  items_.clear();
}

void QueryCascade::Stage::OnTokens(const Request& request, std::span<const int32_t> tokens,
                                   std::span<const Origin> origin, std::string_view text) {
  if (this == &cascade_->pair_) cascade_->listener_->OnTokens(request, tokens, origin, text);
}

void QueryCascade::Stage::OnFinish(const RequestResult& result) {
  const size_t item = items_[result.index];
  this == &cascade_->pair_ ? cascade_->Redone(item, result) : cascade_->Answered(item, result);
}

}  // namespace tandem
