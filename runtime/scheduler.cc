#include "runtime/scheduler.h"

#include <algorithm>
#include <chrono>

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

std::optional<int32_t> Scheduler::Admit() {
  if (waiting_.empty()) return std::nullopt;
  const auto slot = std::find(slots_.begin(), slots_.end(), nullptr) - slots_.begin();
  if (slot == n_slots()) return std::nullopt;
  for (PagedCache* cache : caches_) {
    if (cache->Reserve(static_cast<int32_t>(slot), waiting_.front()->length_limit)) continue;
    for (PagedCache* reserved : caches_) reserved->Release(static_cast<int32_t>(slot));
    return std::nullopt;
  }
  slots_[slot] = std::move(waiting_.front());
  waiting_.pop_front();
  slots_[slot]->result.admitted_ns = NowNs();
  ++n_running_;
  return static_cast<int32_t>(slot);
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
