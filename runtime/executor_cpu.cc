#include "runtime/executor.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/core/check.h"
#include "runtime/steps.h"
#include "runtime/team.h"
#include "runtime/trace.h"

namespace tandem {
namespace {

constexpr int kMaxEvents = 16;
constexpr int kMaxWaits = 16;    // of one program
constexpr uint64_t kQueue = 64;  // programs enqueued and unfinished

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A counter that only rises; threads wait for it to reach a value.
class Counter {
 public:
  void Raise() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++value_;
    }
    changed_.notify_all();
  }
  void Await(uint64_t value) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return value_ >= value; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t value_ = 0;
};

// One enqueued program: which count of its event each wait step waits for, in the order of the program's waits.
struct Item {
  const Program* program = nullptr;
  uint64_t wait_for[kMaxWaits] = {};
};

// Books the time of one lane's steps by phase.
class PhaseClock {
 public:
  explicit PhaseClock(std::atomic<int64_t>* ns) : ns_(ns) {}
  void Enter(Phase phase) {
    if (running_ && phase == phase_) return;
    Stop();
    phase_ = phase;
    running_ = true;
    since_ = NowNs();
  }
  void Stop() {
    if (running_) ns_[static_cast<int>(phase_)].fetch_add(NowNs() - since_, std::memory_order_relaxed);
    running_ = false;
  }

 private:
  std::atomic<int64_t>* ns_;
  Phase phase_ = Phase::kPrefill;
  bool running_ = false;
  int64_t since_ = 0;
};

// xorshift64*: which delay comes before a step.
class Adversary {
 public:
  explicit Adversary(uint64_t seed) : state_(seed | 1) {}
  void Delay() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    const uint64_t draw = (state_ * 0x2545F4914F6CDD1Dull) >> 56;
    if (draw < 2) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    } else if (draw < 48) {
      std::this_thread::yield();
    }
  }

 private:
  uint64_t state_;
};

class CpuExecutor final : public Executor {
 public:
  explicit CpuExecutor(const ExecutorOptions& options)
      : mode_(options.streams), trace_(options.trace), team_(options.n_threads) {
    if (mode_ == StreamMode::kInline) return;
    for (int lane = 0; lane < kNumLanes; ++lane) {
      threads_.emplace_back(
          [this, lane, seed = options.adversary_seed] { LaneLoop(static_cast<Lane>(lane), seed); });
    }
  }

  ~CpuExecutor() override {
    if (mode_ == StreamMode::kInline) return;
    Push({});  // no program: leave
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status Prepare(const Program&) override { return absl::OkStatus(); }

  void Enqueue(const Program& program) override {
    if (mode_ == StreamMode::kInline) {
      Walk walk{.executor = this, .program = &program, .lanes = kBothLanes, .number = n_enqueued_};
      team_.Run(&Walk::Body, &walk);
      ++n_enqueued_;
      return;
    }
    Item item{.program = &program};
    int n_waits = 0;
    for (const Step& step : program.steps()) {
      if (step.op != Op::kRecord && step.op != Op::kWait) continue;
      const EventId event = *static_cast<const EventId*>(program.args(step));
      TANDEM_CHECK(event >= 0 && event < kMaxEvents) << "event " << event;
      if (step.op == Op::kRecord) {
        ++n_records_[event];
      } else {
        TANDEM_CHECK(n_waits < kMaxWaits) << "a program with more than " << kMaxWaits << " waits";
        item.wait_for[n_waits++] = n_records_[event];
      }
    }
    Push(item);
  }

  absl::Status WaitFor(int n_pending) override {
    if (mode_ != StreamMode::kInline && n_enqueued_ > static_cast<uint64_t>(n_pending)) {
      for (Counter& done : done_) done.Await(n_enqueued_ - n_pending);
    }
    return absl::OkStatus();
  }

  bool runs_ahead() const override { return mode_ != StreamMode::kInline; }

  PhaseTimes times() const override {
    PhaseTimes times;
    for (size_t i = 0; i < times.ns.size(); ++i) times.ns[i] = ns_[i].load(std::memory_order_relaxed);
    return times;
  }
  void ResetTimes() override {
    for (auto& ns : ns_) ns.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kBothLanes = 3;

  // One member's way through a program's steps of the given lanes. The leader runs serial steps, events and the clock.
  struct Walk {
    CpuExecutor* executor;
    const Program* program;
    uint32_t lanes;
    uint64_t number = 0;         // of the program
    const Item* item = nullptr;  // threaded: what waits wait for
    Adversary* adversary = nullptr;

    static void Body(void* context, Worker worker, SpinBarrier& barrier) {
      static_cast<Walk*>(context)->Run(worker, barrier);
    }

    void Run(Worker worker, SpinBarrier& barrier) {
      PhaseClock clock(executor->ns_);
      int n_waits = 0;
      bool behind = false;  // serial steps ran since the last barrier
      for (const Step& step : program->steps()) {
        const int wait = step.op == Op::kWait ? n_waits++ : 0;
        if ((lanes >> static_cast<int>(step.lane) & 1) == 0) continue;
        const bool parallel = IsParallel(step.op);
        if (parallel && behind) barrier.Arrive();
        behind = !parallel;
        if (worker.index == 0) {
          if (adversary != nullptr) adversary->Delay();
          if (step.op == Op::kWait) {
            clock.Stop();
            if (item != nullptr) executor->events_[EventOf(step)].Await(item->wait_for[wait]);
            continue;
          }
          if (step.op == Op::kRecord) {
            if (item != nullptr) executor->events_[EventOf(step)].Raise();
            continue;
          }
          clock.Enter(step.phase);
        }
        const bool traced = executor->trace_ != nullptr && worker.index == 0;
        const int64_t begin = traced ? NowNs() : 0;
        if (parallel) {
          RunParallelStep(*program, step, worker);
          barrier.Arrive();
        } else if (worker.index == 0) {
          RunSerialStep(*program, step);
        }
        if (traced) executor->trace_->AddStep(step.lane, number, step.op, step.phase, begin, NowNs());
      }
      clock.Stop();
    }

    EventId EventOf(const Step& step) const { return *static_cast<const EventId*>(program->args(step)); }
  };

  void Push(const Item& item) {
    if (n_enqueued_ >= kQueue) {
      for (Counter& done : done_) done.Await(n_enqueued_ - kQueue + 1);
    }
    items_[n_enqueued_ % kQueue] = item;
    ++n_enqueued_;
    enqueued_.Raise();
  }

  void LaneLoop(Lane lane, uint64_t adversary_seed) {
    Adversary adversary(adversary_seed * kNumLanes + static_cast<uint64_t>(lane) + 1);
    for (uint64_t n = 0;; ++n) {
      enqueued_.Await(n + 1);
      const Item& item = items_[n % kQueue];
      if (item.program == nullptr) return;
      Walk walk{.executor = this,
                .program = item.program,
                .lanes = 1u << static_cast<int>(lane),
                .number = n,
                .item = &item,
                .adversary = mode_ == StreamMode::kAdversarial ? &adversary : nullptr};
      team_.Run(&Walk::Body, &walk);
      done_[static_cast<int>(lane)].Raise();
    }
  }

  const StreamMode mode_;
  StepTrace* const trace_;
  Team team_;
  std::atomic<int64_t> ns_[static_cast<int>(Phase::kCount)] = {};
  uint64_t n_enqueued_ = 0;              // the host's
  uint64_t n_records_[kMaxEvents] = {};  // the host's: records enqueued so far
  Item items_[kQueue];
  Counter enqueued_;
  Counter done_[kNumLanes];
  Counter events_[kMaxEvents];
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Executor> NewCpuExecutor(const ExecutorOptions& options) {
  return std::make_unique<CpuExecutor>(options);
}

}  // namespace tandem
