// Executor: runs recorded programs on the CPU, step by step over all its threads.
//
// One host thread enqueues and synchronizes. Programs start in the order they were enqueued; within a program the
// lanes are ordered by its events only (core/program.h).
#ifndef TANDEM_RUNTIME_EXECUTOR_H_
#define TANDEM_RUNTIME_EXECUTOR_H_

#include <array>
#include <cstdint>
#include <memory>

#include "runtime/core/program.h"
#include "runtime/core/worker.h"

namespace tandem {

enum class StreamMode : int32_t {
  kInline,       // Enqueue runs the program before it returns: one lane after the other, in recorded order
  kThreaded,     // every lane is a thread
  kAdversarial,  // kThreaded with a seeded delay before every step: finds orders that timing usually hides
};

// Nanoseconds that steps ran, by phase; lanes that overlap both count.
struct PhaseTimes {
  std::array<int64_t, static_cast<int>(Phase::kCount)> ns = {};

  int64_t of(Phase phase) const { return ns[static_cast<int>(phase)]; }
};

class Executor {
 public:
  // `n_threads` threads run a lane's steps; with several lanes at work, the threads go to the lane that asks first and
  // the other runs alone, which changes no bit of any result (core/worker.h).
  Executor(StreamMode mode, int n_threads, uint64_t adversary_seed);
  ~Executor();

  // `program` outlives its execution. No allocation.
  void Enqueue(const Program& program);
  // Waits until at most `n_pending` of the enqueued programs are unfinished. What finished programs wrote is visible.
  void WaitFor(int n_pending);

  PhaseTimes times() const;
  void ResetTimes();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_EXECUTOR_H_
