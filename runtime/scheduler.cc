#include "runtime/scheduler.h"

#include <algorithm>
#include <chrono>

#include "runtime/core/check.h"

namespace tandem {

Scheduler::Scheduler(int32_t n_slots, int32_t max_context, const Tokenizer* tokenizer,
                     std::vector<PagedCache*> caches)
    : max_context_(max_context), tokenizer_(tokenizer), caches_(std::move(caches)), slots_(n_slots) {}

void Sequence::Complete(FinishReason reason) {
  result.token_ids = output.tokens();
  result.origin = output.origin();
  result.text = output.text();
  result.finish = reason;
  result.finished_ns = NowNs();
}

void Scheduler::Submit(Request request) {
  RequestResult result;
  const auto length = static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens;
  result.request = std::move(request);
  result.submitted_ns = NowNs();
  result.index = n_submitted_++;
  auto sequence = std::make_unique<Sequence>(std::move(result), tokenizer_);
  sequence->length_limit = static_cast<int32_t>(std::min<int64_t>(length, max_context_));
  waiting_.push_back(std::move(sequence));
}

int64_t Scheduler::PositionsFor(const Sequence& sequence, int32_t ahead) const {
  return std::min<int64_t>(int64_t{sequence.length()} + ahead, sequence.length_limit);
}

std::optional<int32_t> Scheduler::Admit(int32_t ahead) {
  if (waiting_.empty()) return std::nullopt;
  const auto slot = std::find(slots_.begin(), slots_.end(), nullptr) - slots_.begin();
  if (slot == n_slots()) return std::nullopt;
  for (PagedCache* cache : caches_) {
    if (cache->Reserve(static_cast<int32_t>(slot), PositionsFor(*waiting_.front(), ahead))) continue;
    for (PagedCache* reserved : caches_) reserved->Release(static_cast<int32_t>(slot));
    return std::nullopt;
  }
  slots_[slot] = std::move(waiting_.front());
  waiting_.pop_front();
  if (!slots_[slot]->preempted) slots_[slot]->result.admitted_ns = NowNs();
  ++n_running_;
  return static_cast<int32_t>(slot);
}

bool Scheduler::Grow(int32_t ahead, std::vector<PageTableEntry>* entries) {
  for (int32_t slot = 0; slot < n_slots(); ++slot) {
    if (slots_[slot] == nullptr) continue;
    for (PagedCache* cache : caches_) {
      if (!cache->Grow(slot, PositionsFor(*slots_[slot], ahead), entries)) return false;
    }
  }
  return true;
}

int32_t Scheduler::SlotsInUse() const {
  int32_t n = n_slots();
  while (n > 0 && slots_[n - 1] == nullptr) --n;
  return n;
}

int32_t Scheduler::LastAdmitted() const {
  int32_t last = -1;
  for (int32_t slot = 0; slot < n_slots(); ++slot) {
    if (slots_[slot] != nullptr && (last < 0 || slots_[slot]->admission > slots_[last]->admission))
      last = slot;
  }
  TANDEM_CHECK(last >= 0) << "nothing is running";
  return last;
}

void Scheduler::Preempt(int32_t slot) {
  TANDEM_CHECK(n_running_ > 1) << "a sequence that is alone has room";
  ++slots_[slot]->result.counts.num_preemptions;
  waiting_.push_front(Release(slot));
}

std::unique_ptr<Sequence> Scheduler::Release(int32_t slot) {
  for (PagedCache* cache : caches_) cache->Release(slot);
  --n_running_;
  return std::move(slots_[slot]);
}

std::vector<std::unique_ptr<Sequence>> Scheduler::TakeWaiting() {
  std::vector<std::unique_ptr<Sequence>> taken;
  for (auto& sequence : waiting_) taken.push_back(std::move(sequence));
  waiting_.clear();
  return taken;
}

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace tandem
