// bench_kernels: what a forward costs on this CPU, step by step, against the rate at which it can read
// memory.
//
// Every figure is a ratio within one run: a repetition reads memory once and runs one forward of each number
// of rows, in turn, so that a slow moment falls on all of them. The workers run a forward's steps in lockstep
// as the runtime's executor does, each with its share, and meet after every step. That, and the table of
// ratios, is why this has a main of its own: Google Benchmark times one case after the other, each on threads
// of its own.
//
// Weights lie in 4 KiB pages, as those of a mapped checkpoint do; the read rate is the better of 4 KiB pages
// and whatever pages the system prefers.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/kernel_stack.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// Threads that run the same function and can wait for each other, spinning: a step is shorter than a thread's
// wake-up.
class Team {
 public:
  explicit Team(int n_workers) : n_(n_workers) {
    for (int i = 1; i < n_; ++i) {
      threads_.emplace_back([this, i] {
        while (true) {
          Meet();
          if (!job_) return;
          job_({i, n_});
          Meet();
        }
      });
    }
  }
  ~Team() {
    job_ = nullptr;
    Meet();
    for (std::thread& thread : threads_) thread.join();
  }

  void Run(std::function<void(Worker)> job) {
    job_ = std::move(job);
    Meet();
    job_({0, n_});
    Meet();
  }

  void Meet() {
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins > 20000) std::this_thread::yield();
    }
  }

 private:
  const int n_;
  std::function<void(Worker)> job_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> round_{0};
  std::vector<std::thread> threads_;
};

// Reads a share of the pages as fast as this CPU can, fetching `ahead` bytes further on (0: left to the CPU).
// The sum keeps the compiler from dropping the loads.
using Line = uint64_t __attribute__((vector_size(64)));
__attribute__((target_clones("default", "avx2", "avx512f"))) uint64_t Read(const Pages& pages, Worker worker,
                                                                           size_t ahead) {
  const auto* lines = reinterpret_cast<const Line*>(pages.data());
  const Share share = ShareOf(static_cast<int64_t>(pages.bytes() / sizeof(Line)), worker, 64);
  Line a = {}, b = {}, c = {}, d = {};
  for (int64_t i = share.begin; i < share.end; i += 4) {
    if (ahead != 0) {
      const std::byte* next = pages.data() + i * sizeof(Line) + ahead;
      for (int line = 0; line < 4; ++line) __builtin_prefetch(next + line * sizeof(Line), 0, 2);
    }
    a += lines[i];
    b += lines[i + 1];
    c += lines[i + 2];
    d += lines[i + 3];
  }
  a += b + c + d;
  return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
}

void RunStep(const Program& program, const Step& step, Worker worker) {
  switch (step.op) {
    case Op::kEmbed:
      return EmbedCpu(program.args_as<EmbedArgs>(step), worker);
    case Op::kRopeAngles:
      return RopeAnglesCpu(program.args_as<RopeAnglesArgs>(step), worker);
    case Op::kLinear:
      return LinearCpu(program.args_as<LinearArgs>(step), worker);
    case Op::kRopeAppend:
      return RopeAppendCpu(program.args_as<RopeAppendArgs>(step), worker);
    case Op::kAttention:
      return AttentionCpu(program.args_as<AttentionArgs>(step), worker);
    case Op::kSiluGate:
      return SiluGateCpu(program.args_as<SiluGateArgs>(step), worker);
    default:
      TANDEM_CHECK(false) << "a step that this program does not hold";
  }
}

// Times of one forward: of each label's steps together, and of the whole in the last element.
void Forward(Team& team, const Stack& stack, std::vector<double>& times) {
  times.assign(stack.labels().size() + 1, 0.);
  const Program& program = stack.program();
  team.Run([&](Worker worker) {
    const Clock::time_point start = Clock::now();
    Clock::time_point before = start;
    for (size_t i = 0; i < program.steps().size(); ++i) {
      RunStep(program, program.steps()[i], worker);
      team.Meet();
      if (worker.index != 0) continue;
      const Clock::time_point now = Clock::now();
      times[stack.label_of()[i]] += Seconds(now - before);
      before = now;
    }
    if (worker.index == 0) times.back() = Seconds(before - start);
  });
}

double Min(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }
double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Options {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  int repetitions = 30;
  std::string stack;
  bool round_bf16 = false;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), team_(options.threads) {
    for (int i = 0; i < 4; ++i) {
      buffers_.push_back(std::make_unique<Pages>(kBufferBytes, i % 2 == 0));
      std::memset(buffers_.back()->data(), i + 1, kBufferBytes);
    }
    for (int i = 0; i < 8; ++i) ReadOnce();
  }

  void Measure(const StackCase& shape) {
    constexpr int kRows[] = {1, 2, 6, 16};
    constexpr int kCounts = std::size(kRows);
    Stack stack(shape, options_.threads, options_.round_bf16);
    const size_t n_labels = stack.labels().size();
    std::vector<std::vector<double>> times[kCounts];
    uint64_t hashes[kCounts] = {};
    std::vector<double> rates, one;
    for (auto& t : times) t.resize(n_labels + 1);
    for (int repetition = -2; repetition < options_.repetitions; ++repetition) {
      if (repetition >= 0) {
        for (int i = 0; i < 3; ++i) rates.push_back(ReadOnce());
      }
      for (int i = 0; i < kCounts; ++i) {
        stack.SetRows(kRows[i]);
        // The last of several, when the caches hold what such a forward leaves there.
        for (int pass = 0; pass < 4; ++pass) Forward(team_, stack, one);
        const uint64_t hash = stack.Hash();
        TANDEM_CHECK(repetition == -2 || hash == hashes[i]) << "outputs differ between repetitions";
        hashes[i] = hash;
        if (repetition < 0) continue;
        for (size_t label = 0; label <= n_labels; ++label) times[i][label].push_back(one[label]);
      }
    }
    const double best_rate = *std::max_element(rates.begin(), rates.end());
    std::printf("\n%s: %.1f MB of bf16 weights; read rate %.1f GB/s (median %.1f)\n", shape.name,
                stack.bytes() * 1e-6, best_rate * 1e-9, Median(rates) * 1e-9);
    std::printf("| %-30s | %4s | %10s | %10s | %6s | %5s | %8s | %8s | %-16s |\n", "step", "rows", "min us",
                "median us", "GB/s", "share", "min x 1", "med x 1", "hash");
    std::printf("|%s|\n",
                "--------------------------------|-----:|-----------:|-----------:|-------:|------:|"
                "---------:|---------:|------------------");
    for (size_t label = 0; label <= n_labels; ++label) {
      for (int i = 0; i < kCounts; ++i) {
        const bool whole = label == n_labels;
        const size_t bytes = whole ? stack.bytes() : stack.label_bytes()[label];
        const double min = Min(times[i][label]), median = Median(times[i][label]);
        std::printf("| %-30s | %4d | %10.1f | %10.1f |", whole ? "forward" : stack.labels()[label].c_str(),
                    kRows[i], min * 1e6, median * 1e6);
        if (bytes) {
          std::printf(" %6.1f | %4.0f%% |", bytes / min * 1e-9, 100 * bytes / min / best_rate);
        } else {
          std::printf(" %6s | %5s |", "", "");
        }
        std::printf(" %8.2f | %8.2f |", min / Min(times[0][label]), median / Median(times[0][label]));
        if (whole) {
          std::printf(" %016llx |\n", static_cast<unsigned long long>(hashes[i]));
        } else {
          std::printf(" %16s |\n", "");
        }
      }
    }
    std::fflush(stdout);
  }

 private:
  static constexpr size_t kBufferBytes = size_t{256} << 20;

  // Bytes per second over one of the buffers.
  double ReadOnce() {
    constexpr size_t kAhead[] = {0, 4096, 16384};
    const Pages& pages = *buffers_[next_ % buffers_.size()];
    const size_t ahead = kAhead[next_ / buffers_.size() % std::size(kAhead)];
    ++next_;
    std::atomic<uint64_t> sum{0};
    const Clock::time_point start = Clock::now();
    team_.Run([&](Worker worker) { sum += Read(pages, worker, ahead); });
    const double seconds = Seconds(Clock::now() - start);
    TANDEM_CHECK(sum != 0);
    return static_cast<double>(pages.bytes()) / seconds;
  }

  Options options_;
  Team team_;
  std::vector<std::unique_ptr<Pages>> buffers_;
  size_t next_ = 0;
};

int Main(int argc, char** argv) {
  Options options;
  const auto usage = [&](const char* name) {
    std::fprintf(stderr, "usage: %s [--threads N] [--repetitions N] [--dtype fp32|bf16] [--stack", name);
    for (const StackCase& stack : kStacks)
      std::fprintf(stderr, "%s%s", &stack == kStacks ? " " : "|", stack.name);
    std::fprintf(stderr, "]\n");
    return 2;
  };
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc) return usage(argv[0]);
    if (option == "--threads") {
      options.threads = std::atoi(argv[i + 1]);
    } else if (option == "--repetitions") {
      options.repetitions = std::atoi(argv[i + 1]);
    } else if (option == "--dtype" &&
               (argv[i + 1] == std::string("fp32") || argv[i + 1] == std::string("bf16"))) {
      options.round_bf16 = argv[i + 1] == std::string("bf16");
    } else if (option == "--stack") {
      options.stack = argv[i + 1];
    } else {
      return usage(argv[0]);
    }
  }
  if (options.threads < 1 || options.repetitions < 1) return usage(argv[0]);
  Bench bench(options);
  bool any = false;
  std::printf("%d threads, %d repetitions, products in %s\n", options.threads, options.repetitions,
              options.round_bf16 ? "bf16" : "fp32");
  for (const StackCase& stack : kStacks) {
    if (!options.stack.empty() && options.stack != stack.name) continue;
    bench.Measure(stack);
    any = true;
  }
  return any ? 0 : usage(argv[0]);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::Main(argc, argv); }
