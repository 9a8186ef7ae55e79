// Team: the CPU threads that run a lane's steps together, in lockstep, with a barrier where one step's result is
// another's input. The leader is the lane's own thread; the helpers belong to the team, spin briefly when they have
// nothing to do and then park.
#ifndef TANDEM_RUNTIME_TEAM_H_
#define TANDEM_RUNTIME_TEAM_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/core/worker.h"

namespace tandem {

// A barrier for a fixed number of threads; reusable.
class SpinBarrier {
 public:
  explicit SpinBarrier(int count) : count_(count) {}
  void Arrive();

 private:
  const int count_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> generation_{0};
};

// Waits until `value` differs from `old`; spins, then parks.
void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old);

class Team {
 public:
  explicit Team(int n_threads);
  ~Team();

  // What every member runs: `context` is the caller's, `barrier` belongs to the members.
  using Body = void (*)(void* context, Worker worker, SpinBarrier& barrier);

  // Runs body(context, {i, n}, barrier) on all members, the caller as member 0, and returns when all have. If another
  // lane has the team, the caller runs alone, as {0, 1}.
  void Run(Body body, void* context);

 private:
  void Helper(int index);

  const int n_threads_;
  std::mutex lease_;
  SpinBarrier inner_;               // between steps
  SpinBarrier outer_;               // the end of a run
  std::atomic<uint32_t> epoch_{0};  // rises when there is something to run
  Body body_ = nullptr;             // valid for the current epoch; null: leave
  void* context_ = nullptr;
  std::vector<std::thread> helpers_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_TEAM_H_
