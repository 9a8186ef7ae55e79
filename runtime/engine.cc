#include "runtime/engine.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "draft/model_drafter.h"
#include "draft/ngram.h"
#include "kernels/hash_chain/hash_chain.h"
#include "runtime/trace.h"

namespace tandem {

// Records one round: every call appends steps; nothing runs yet. The executor runs the recorded round many times. There is one
// for the first slot of the batch, for the first 2, 4, .. and for all (buckets.h).
void Engine::Record(Program& round, const Batch& batch) {
  round.At(Lane::kDraft, Phase::kDraft);
  round.Wait(kSettled);
  const Proposal proposal = drafter_->propose(round, batch);
  round.Record(kDrafted);

  round.At(Lane::kTarget, Phase::kVerify);
  round.Wait(kDrafted);
  const Scores scores = verifier_->score(round, batch, proposal);

  round.At(Lane::kTarget, Phase::kRule);
  const Verdicts verdicts = policy_->judge(round, batch, proposal, scores);

  round.At(Lane::kTarget, Phase::kSettle);
  Settle(round, batch, proposal, scores, verdicts);  // the only step that writes committed tokens and lengths
  Publish(round, batch);                             // ring buffer to the host
  round.Record(kSettled);
}

// The life of the requests: reserve pages, fill free slots, keep rounds queued, read what the oldest one did.
absl::Status Engine::Run(EngineListener* listener, std::vector<RequestResult>* results) {
  EngineListener silent;
  if (listener == nullptr) listener = &silent;
  results->clear();
  results->resize(scheduler_->n_submitted());
  results_ = results;
  absl::Status status;
  while (status.ok() && !idle()) {
    status = Step(listener);
    if (status.ok() && listener->Cancelled()) break;
  }
  Abandon(status.ok() ? FinishReason::kCancelled : FinishReason::kFault, listener);
  results_ = nullptr;
  return status;
}

absl::Status Engine::Step(EngineListener* listener) {
  TANDEM_RETURN_IF_ERROR(ReservePages(listener));
  AdmitWaiting();
  QueueRounds();
  return ReadRound(listener);
}

// What a sequence needs beyond its known length: what the queued rounds may write, or, in a cache that holds the longest of
// every slot, all at once.
int32_t Engine::PositionsAhead() const {
  if (verifier_->runner().cache().HoldsAllSlots()) return options_.max_context;
  return RoundsQueued() * (options_.gamma + 1);
}

// Pages for what the rounds queued next may write. In the usual case they are there, and nothing waits.
absl::Status Engine::ReservePages(EngineListener* listener) {
  while (!scheduler_->Grow(PositionsAhead(), &grown_)) {
    // Pages change hands when no queued round may use them; and what these rounds did may end a sequence, too.
    TANDEM_RETURN_IF_ERROR(n_read_ < n_rounds_ ? ReadRound(listener) : Preempt(scheduler_->LastAdmitted()));
  }
  if (grown_.empty()) return absl::OkStatus();
  PageGrowth& growth = growths_[n_grown_++ % ring_size_];
  growth.n_entries = static_cast<int32_t>(grown_.size());
  std::copy(grown_.begin(), grown_.end(), growth.entries);
  grown_.clear();
  Enqueue(grow_);
  return absl::OkStatus();
}

// The sequence leaves its slot, unfinished, and will be the next to be admitted. REQUIRES: no round is queued.
absl::Status Engine::Preempt(int32_t slot) {
  Enqueue(preempt_[slot]);
  TANDEM_RETURN_IF_ERROR(executor_->WaitFor(0));
  Sequence& sequence = *scheduler_->at(slot);
  TANDEM_CHECK(staged_[slot].live && staged_[slot].length == sequence.length());
  sequence.preempted = staged_[slot];
  scheduler_->Preempt(slot);
  return absl::OkStatus();
}

void Engine::AdmitWaiting() {
  while (const std::optional<int32_t> slot = scheduler_->Admit(PositionsAhead())) {
    Sequence& sequence = *scheduler_->at(*slot);
    sequence.admission = ++n_admitted_;
    // The slot's last admission has run, for the host has seen its sequence end or leave: what was staged for it is free.
    const std::vector<int32_t>& prompt = sequence.result.request.prompt;
    const std::vector<int32_t>& written = sequence.output.tokens();
    std::copy(written.begin(), written.end(),
              std::copy(prompt.begin(), prompt.end(), staged_tokens_.of(*slot)));
    SeqState& staged = staged_[*slot];
    staged = sequence.preempted ? *sequence.preempted : FirstState(sequence);
    staged.admission = sequence.admission;
    for (int32_t& rows : staged.rows) rows = 0;
    Enqueue(admit_[*slot]);
    EnqueuePrefill(sequence);
  }
}

SeqState Engine::FirstState(const Sequence& sequence) const {
  const Request& request = sequence.result.request;
  const auto n_prompt = static_cast<int32_t>(request.prompt.size());
  SeqState state{.live = true,
                 .seed = request.seed,
                 .length = n_prompt,
                 .prompt_length = n_prompt,
                 .length_limit = sequence.length_limit,
                 .gamma = options_.gamma,
                 .gamma_max = options_.gamma,
                 .schedule = options_.schedule,
                 .writer = options_.token_cascade ? Writer::kDraft : Writer::kPair,
                 .confidence_min = std::max(options_.confidence_min, policy_->draft_stop().value_or(0.f)),
                 .sampling = request.sampling,
                 .n_stop_ids = static_cast<int32_t>(request.stop_ids.size())};
  // Named by what it is asked, not by when it came: the same request gives the same tokens in any company.
  for (int32_t token : request.prompt) state.sequence = HashMix(state.sequence, static_cast<uint64_t>(token));
  std::copy(request.stop_ids.begin(), request.stop_ids.end(), state.stop_ids);
  return state;
}

// All but the last token of the prompt, in chunks, of which each prefill takes one. Then what a preempted sequence had
// written; a draft that lacks a token more than usual takes a row of the first recovery.
void Engine::EnqueuePrefill(const Sequence& sequence) {
  const auto n_prompt = static_cast<int32_t>(sequence.result.request.prompt.size());
  for (int32_t done = 0; done < n_prompt - 1; done += options_.prefill_chunk) Enqueue(prefill_);
  const int32_t n_written = sequence.length() - n_prompt;
  if (n_written == 0) return;
  for (int32_t done = 0; done < n_written + batch_.n_slots - 1; done += recover_rows_) Enqueue(recover_);
}

void Engine::Enqueue(const Program& program) {
  executor_->Enqueue(program);
  ++n_enqueued_;
}

// A slot is in use until the host has read that its sequence ended.
void Engine::QueueRounds() {
  const Bucket& bucket = SmallestBucket(scheduler_->SlotsInUse());
  while (n_rounds_ - n_read_ < RoundsQueued()) {
    Enqueue(bucket.round);
    queued_[n_rounds_++ % ring_size_] = {n_enqueued_, bucket.n_slots};
  }
}

const Engine::Bucket& Engine::SmallestBucket(int32_t n_slots) const {
  return *std::find_if(buckets_.rbegin(), buckets_.rend(),
                       [&](const Bucket& bucket) { return bucket.n_slots >= n_slots; });
}

absl::Status Engine::ReadRound(EngineListener* listener) {
  const QueuedRound& queued = queued_[n_read_ % ring_size_];
  TANDEM_RETURN_IF_ERROR(executor_->WaitFor(static_cast<int>(n_enqueued_ - queued.program)));
  RoundRecord& round = ring_[n_read_++ % ring_size_];
  if (round.time_ns == 0) round.time_ns = NowNs();
  listener->OnRound({round.slots, static_cast<size_t>(queued.n_slots)});
  for (int32_t slot = 0; slot < queued.n_slots; ++slot)
    TANDEM_RETURN_IF_ERROR(ReadSlot(slot, round, listener));
  return absl::OkStatus();
}

absl::Status Engine::ReadSlot(int32_t slot, const RoundRecord& round, EngineListener* listener) {
  const SlotRecord& record = round.slots[slot];
  Sequence* sequence = scheduler_->at(slot);
  // A round queued before the slot's sequence was admitted, or after the host ended it, has nothing to say about it.
  if (sequence == nullptr || !record.ran || record.admission != sequence->admission) return absl::OkStatus();
  if (record.fault != Fault::kNone) return FaultError(slot, record);

  if (options_.trace != nullptr) {
    options_.trace->AddRound(queued_[(n_read_ - 1) % ring_size_].program - 1, slot, record.n_proposed,
                             record.n_keep, record.n_emit);
  }
  RequestResult& result = sequence->result;
  std::string text;
  const int n_taken = sequence->output.Add(record, &text);
  result.counts.AddRound(record, n_taken);
  if (n_taken == 0) return absl::OkStatus();  // a target that catches up
  if (options_.log_probs)
    result.log_probs.insert(result.log_probs.end(), record.log_prob, record.log_prob + n_taken);
  if (result.first_token_ns == 0) result.first_token_ns = round.time_ns;
  result.token_ns.insert(result.token_ns.end(), n_taken, round.time_ns);
  FinishReason finish = record.finish;
  if (sequence->output.stopped()) {
    finish = FinishReason::kStop;
    if (record.finish == FinishReason::kNone) {  // the device does not know yet
      cut_length_[slot] = sequence->length();
      Enqueue(cut_[slot]);
      // Rounds queued meanwhile may still use the slot's pages.
      TANDEM_RETURN_IF_ERROR(executor_->WaitFor(0));
    }
  }
  if (finish != FinishReason::kNone) text += sequence->output.Finish();
  const std::span<const int32_t> tokens = sequence->output.tokens();
  const std::span<const Origin> origin = sequence->output.origin();
  listener->OnTokens(result.request, tokens.last(n_taken), origin.last(n_taken), text);
  if (finish != FinishReason::kNone) Finish(scheduler_->Release(slot), finish, listener);
  return absl::OkStatus();
}

void Engine::Finish(std::unique_ptr<Sequence> sequence, FinishReason reason, EngineListener* listener) {
  sequence->Complete(reason);
  listener->OnFinish(sequence->result);
  Keep(std::move(sequence->result));
}

void Engine::Keep(RequestResult result) {
  if (results_ != nullptr) (*results_)[result.index] = std::move(result);
}

void Engine::Abandon(FinishReason reason, EngineListener* listener) {
  // Before anything is staged: an admission may be among what is queued. A device that failed runs nothing any more.
  if (executor_->WaitFor(0).ok()) {
    for (int32_t slot = 0; slot < batch_.n_slots; ++slot) {
      if (scheduler_->at(slot) == nullptr) continue;
      staged_[slot] = {};
      Enqueue(admit_[slot]);
    }
    executor_->WaitFor(0).IgnoreError();  // the run's own status says what was wrong
  }
  n_read_ = n_rounds_;
  for (int32_t slot = 0; slot < batch_.n_slots; ++slot) {
    if (scheduler_->at(slot) != nullptr) Finish(scheduler_->Release(slot), reason, listener);
  }
  for (std::unique_ptr<Sequence>& sequence : scheduler_->TakeWaiting()) {
    if (sequence->preempted) {
      Finish(std::move(sequence), reason, listener);
      continue;
    }
    sequence->Complete(FinishReason::kCancelled);
    Keep(std::move(sequence->result));
  }
  grown_.clear();
  scheduler_->ResetCount();
}

absl::Status Engine::FaultError(int32_t slot, const SlotRecord& record) const {
  const std::string where =
      absl::StrCat("request ", scheduler_->at(slot)->result.request.id, ", after ", record.base, " tokens: ");
  switch (record.fault) {
    case Fault::kTargetLaw:
      return absl::FailedPreconditionError(absl::StrCat(
          pair_.target.name, ": ", where, "the target's logits are not finite; expected numbers. ",
          "`tandem info ", pair_.target.name,
          " --check-weights` names the first tensor with a NaN or an infinity"));
    case Fault::kDraftLaw: {
      const std::string name = pair_.draft ? pair_.draft->name : "the draft";
      return absl::FailedPreconditionError(absl::StrCat(
          name, ": ", where, "the draft's logits are not finite; expected numbers. `tandem info ", name,
          " --check-weights` names the first tensor with a NaN or an infinity"));
    }
    case Fault::kProposal:
      return absl::FailedPreconditionError(
          absl::StrCat(where, "the drafter proposed more tokens than wanted or one outside the vocabulary; ",
                       "mend the drafter. Nothing of the round was kept"));
    case Fault::kVerdict:
      return absl::FailedPreconditionError(absl::StrCat(
          where, "rule ", policy_->info().name,
          " kept more tokens than were proposed, added one outside the ",
          "vocabulary or gave a law that is not finite; mend the rule. Nothing of the round was kept"));
    case Fault::kNone:
      break;
  }
  return absl::InternalError(where);
}

}  // namespace tandem
