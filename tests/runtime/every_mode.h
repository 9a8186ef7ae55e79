// EveryMode: one test body for the CPU's ways to run lanes and for a CUDA device.
#ifndef TANDEM_TESTS_RUNTIME_EVERY_MODE_H_
#define TANDEM_TESTS_RUNTIME_EVERY_MODE_H_

#include <gtest/gtest.h>

#include <string>

#include "tests/on_device.h"

namespace tandem {

struct Mode {
  const char* name;
  StreamMode streams;
  Device device;
};

inline auto AllModes() {
  return testing::Values(Mode{"Inline", StreamMode::kInline, kCpuDevice},
                         Mode{"Threaded", StreamMode::kThreaded, kCpuDevice},
                         Mode{"Adversarial", StreamMode::kAdversarial, kCpuDevice},
                         Mode{"Cuda", StreamMode::kInline, kCudaDevice});
}
inline std::string NameOfMode(const testing::TestParamInfo<Mode>& info) { return info.param.name; }

class EveryMode : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam().device); }
};

}  // namespace tandem

#endif  // TANDEM_TESTS_RUNTIME_EVERY_MODE_H_
