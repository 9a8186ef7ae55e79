#include "runtime/team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tandem {
namespace {

// Spinning is for the gap between two steps; where the machine has fewer free cores than the team has members, the one
// that is waited for needs this core, so yield before parking.
constexpr int kSpins = 1000;
constexpr int kYields = 20;

inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  for (int i = 0; i < kYields; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    std::this_thread::yield();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void SpinBarrier::Arrive() {
  if (count_ == 1) return;
  const uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
    return;
  }
  AwaitChange(generation_, generation);
}

Team::Team(int n_threads) : n_threads_(n_threads), inner_(n_threads), outer_(n_threads) {
  for (int index = 1; index < n_threads; ++index) helpers_.emplace_back([this, index] { Helper(index); });
}

Team::~Team() {
  body_ = nullptr;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void Team::Run(Body body, void* context) {
  std::unique_lock<std::mutex> lease(lease_, std::try_to_lock);
  if (n_threads_ == 1 || !lease.owns_lock()) {
    SpinBarrier alone(1);
    body(context, {0, 1}, alone);
    return;
  }
  body_ = body;
  context_ = context;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  body(context, {0, n_threads_}, inner_);
  outer_.Arrive();
}

void Team::Helper(int index) {
  uint32_t seen = 0;
  while (true) {
    AwaitChange(epoch_, seen);
    ++seen;
    if (body_ == nullptr) return;
    body_(context_, {index, n_threads_}, inner_);
    outer_.Arrive();
  }
}

}  // namespace tandem
