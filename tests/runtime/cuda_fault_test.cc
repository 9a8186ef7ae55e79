// What a CUDA executor says of a program that breaks its device. It leaves the process without a device: each case is a
// process of its own.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/plan/plan.h"
#include "runtime/settle.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

// Runs a sound program and then one that writes where nothing is; prints the error. Exits with 0 if that stopped the
// executor and it says the same from then on.
void RunBroken(bool check_steps) {
  const auto executor = NewExecutor({.device = kCudaDevice, .check_steps = check_steps});
  Arena arena(kCudaDevice);
  Arena shared(kCudaDevice, Access::kShared);
  Program sound("prefill"), broken("round");
  sound.Add(CutArgs{.slot = 0, .length = shared.New<int32_t>(1), .states = arena.New<SeqState>(1)});
  broken.Add(AdvanceArgs{.rows = {.capacity = 1}});
  for (const Program* program : {&sound, &broken}) {
    if (!(*executor)->Prepare(*program).ok()) std::exit(2);
  }
  (*executor)->Enqueue(sound);
  if (!(*executor)->WaitFor(0).ok()) std::exit(3);
  (*executor)->Enqueue(broken);
  const absl::Status failed = (*executor)->WaitFor(0);
  std::fprintf(stderr, "%s\n", std::string(failed.message()).c_str());
  (*executor)->Enqueue(sound);
  const bool stays = (*executor)->WaitFor(0) == failed;
  // Nothing is freed: the device is gone.
  std::_Exit(failed.code() == absl::StatusCode::kInternal && stays ? 0 : 1);
}

TEST(CudaFaultDeathTest, NamesTheProgram) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(RunBroken(false), testing::ExitedWithCode(0),
              "cuda:0: running round failed: .*; execution.check_steps: true names the step that fails");
}

TEST(CudaFaultDeathTest, NamesTheStepIfAsked) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(RunBroken(true), testing::ExitedWithCode(0), "cuda:0: step advance of round failed: ");
}

}  // namespace
}  // namespace tandem
