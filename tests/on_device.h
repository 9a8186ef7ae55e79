// Tests on the CPU and, where there is one, on a CUDA device: one body for both. Buffers that a test fills and looks at lie
// in memory that both sides see (Access::kShared).
#ifndef TANDEM_TESTS_ON_DEVICE_H_
#define TANDEM_TESTS_ON_DEVICE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "runtime/core/buffer.h"
#include "runtime/core/cuda.h"
#include "runtime/core/device.h"
#include "runtime/core/program.h"
#include "runtime/executor.h"

namespace tandem {

inline constexpr Device kCpuDevice = {};
inline constexpr Device kCudaDevice = {.cuda_index = 0};

// Whether there may be a GPU for this build, in whatever state.
inline bool MayHaveGpu() {
  const cuda::Machine machine = cuda::ThisMachine();
  return machine.driver_version != 0 &&
         (machine.n_devices > 0 || machine.driver_too_old || !machine.error.empty());
}

// First in a test that needs `device`: skips it, saying why, where there is no GPU, or no CUDA in this build. A GPU that
// cannot be used is a failure.
#define TANDEM_SKIP_WITHOUT(device)                                  \
  if (const absl::Status there = cuda::Check(device); !there.ok()) { \
    if (MayHaveGpu()) FAIL() << there;                               \
    GTEST_SKIP() << std::string(there.message());                    \
  }                                                                  \
  static_assert(true)

// Runs programs one by one and waits.
class ProgramRunner {
 public:
  explicit ProgramRunner(Device device) {
    auto executor = NewExecutor({.device = device, .check_steps = true});
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
  }
  void Run(const Program& program) {
    const absl::Status prepared = executor_->Prepare(program);
    ASSERT_TRUE(prepared.ok()) << prepared;
    executor_->Enqueue(program);
    const absl::Status status = executor_->WaitFor(0);
    ASSERT_TRUE(status.ok()) << status;
  }
  // A program of one step.
  template <typename Args>
  void RunStep(const Args& args) {
    Program program;
    program.Add(args);
    Run(program);
  }

 private:
  std::unique_ptr<Executor> executor_;
};

}  // namespace tandem

#endif  // TANDEM_TESTS_ON_DEVICE_H_
