// Executor: runs recorded programs on one device.
//
// One host thread calls every method. Programs start in the order they were enqueued; within a program the lanes are
// ordered by its events only (core/program.h).
#ifndef TANDEM_RUNTIME_EXECUTOR_H_
#define TANDEM_RUNTIME_EXECUTOR_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>

#include "runtime/core/device.h"
#include "runtime/core/program.h"
#include "runtime/core/status.h"

namespace tandem {

// How the CPU runs lanes. On a CUDA device lanes are branches of a graph, whatever this says.
enum class StreamMode : int32_t {
  kInline,       // Enqueue runs the program before it returns: one lane after the other, in recorded order
  kThreaded,     // every lane is a thread
  kAdversarial,  // kThreaded with a seeded delay before every step: finds orders that timing usually hides
};

// Nanoseconds that steps ran, by phase. Lanes that overlap both count: two steps of 1 ms side by side are 2 ms.
struct PhaseTimes {
  std::array<int64_t, static_cast<int>(Phase::kCount)> ns = {};
  // A CUDA device's, with time_phases: between the end of a program and the beginning of the next one, where that was
  // enqueued before the end. What else it idles, it waits for the host.
  int64_t launch_ns = 0;

  int64_t of(Phase phase) const { return ns[static_cast<int>(phase)]; }
  void Add(Phase phase, int64_t more_ns) { ns[static_cast<int>(phase)] += more_ns; }
  void Add(const PhaseTimes& other) {
    for (size_t i = 0; i < ns.size(); ++i) ns[i] += other.ns[i];
    launch_ns += other.launch_ns;
  }
  // False: nothing ran, or nobody measured it.
  bool any() const {
    return std::any_of(ns.begin(), ns.end(), [](int64_t of_phase) { return of_phase > 0; });
  }
};

class StepTrace;  // runtime/trace.h

class Executor {
 public:
  virtual ~Executor() = default;

  // Makes ready what Enqueue of `program` will need, which then allocates nothing. `program` outlives its executions.
  virtual absl::Status Prepare(const Program& program) = 0;
  virtual void Enqueue(const Program& program) = 0;
  // Waits until at most `n_pending` of the enqueued programs are unfinished. What finished programs wrote is visible.
  // kInternal: the device failed, in one of the programs enqueued so far; none that is enqueued later will run.
  virtual absl::Status WaitFor(int n_pending) = 0;
  // Whether programs run while the host does something else, so that it pays to enqueue several.
  virtual bool runs_ahead() const = 0;

  // Of the programs that WaitFor has seen finished. On a CUDA device all zeros without time_phases and without check_steps.
  virtual PhaseTimes times() const = 0;
  virtual void ResetTimes() = 0;
};

struct ExecutorOptions {
  Device device;
  // The CPU's. `n_threads` threads run a lane's steps; with several lanes at work, they go to the lane that asks first
  // and the other runs alone, which changes no bit of any result (core/worker.h).
  StreamMode streams = StreamMode::kInline;
  int n_threads = 1;
  uint64_t adversary_seed = 0;  // StreamMode::kAdversarial
  // CUDA: launch every step alone and wait for it, so that an error of the device names the step. Slow.
  bool check_steps = false;
  // CUDA: decode forwards as one kernel (kernels/stream) where that can be done; the same bits either way.
  bool stream_kernels = true;
  // CUDA: have graphs stamp the device's clock where a lane's phase changes (stamp_plan.h), for times(). A stamp is a kernel
  // of one thread that the lane waits for, as short as the shortest steps (publish), and one more at a program's end
  // hands them to the host: in a round of gamma draft steps 2 gamma + 6 of them. The CPU, and a device with check_steps,
  // always know times().
  bool time_phases = false;
  // Told of every step, if given. On a CUDA device without check_steps a graph's steps cannot be told apart: it is told of
  // phases then, which costs what time_phases does.
  StepTrace* trace = nullptr;
};

// kUnavailable: there is no such device.
absl::StatusOr<std::unique_ptr<Executor>> NewExecutor(const ExecutorOptions& options);

// What NewExecutor chooses from.
std::unique_ptr<Executor> NewCpuExecutor(const ExecutorOptions& options);
absl::StatusOr<std::unique_ptr<Executor>> NewCudaExecutor(const ExecutorOptions& options);  // TANDEM_CUDA

}  // namespace tandem

#endif  // TANDEM_RUNTIME_EXECUTOR_H_
