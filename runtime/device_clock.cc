#include "runtime/device_clock.h"

#include <algorithm>
#include <numeric>

#include "runtime/core/cuda.h"

namespace tandem {

#ifdef TANDEM_CUDA
void StampCuda(const JudgeArgs& args, CudaStream stream);  // device_clock_cuda.cu
#endif

namespace {

const RuleEntry& StampRule() {
  static constexpr RuleInfo kInfo{.name = "device_clock"};
#ifdef TANDEM_CUDA
  static constexpr RuleEntry kEntry{.info = &kInfo, .judge_cuda = StampCuda};
#else
  static constexpr RuleEntry kEntry{.info = &kInfo};
#endif
  return kEntry;
}

// Without the smallest and the largest twentieth: one interrupt of the host does not count.
double TrimmedMean(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto cut = static_cast<int64_t>(values.size() / 20);
  return std::accumulate(values.begin() + cut, values.end() - cut, 0.) /
         static_cast<double>(static_cast<int64_t>(values.size()) - 2 * cut);
}

}  // namespace

// Not in memory of the host's: a stamp's kernel would wait for the bus, and a round for it.
DeviceClock::DeviceClock(Device device) : arena_(device), log_(arena_.New<Log>(1)) {}

JudgeArgs DeviceClock::Stamp(int which) const {
  JudgeArgs args = {};
  args.rule = &StampRule();
  args.scratch = log_;
  args.scratch_stride = which;
  return args;
}

void DeviceClock::Around(const Program& round, Program* out) {
  out->At(Lane::kDraft, Phase::kSettle);
  out->Add(Stamp(0));
  out->Append(round);
  out->At(Lane::kTarget, Phase::kSettle);
  out->Add(Stamp(1));
}

DeviceClock::Times DeviceClock::Read() const {
  Log log;
  cuda::Download(arena_.device(), &log, log_, sizeof(log));
  const int32_t n = std::min(log.n[0], kCapacity);
  if (log.n[0] != log.n[1] || n < 2) return {};
  std::vector<double> idle, rounds;
  for (int32_t i = 0; i < n; ++i) {
    rounds.push_back(static_cast<double>(log.ns[1][i] - log.ns[0][i]));
    if (i > 0) idle.push_back(static_cast<double>(log.ns[0][i] - log.ns[1][i - 1]));
    if (rounds.back() < 0 || (i > 0 && idle.back() < 0)) return {};
  }
  return {TrimmedMean(std::move(idle)) * 1e-3, TrimmedMean(std::move(rounds)) * 1e-6, n};
}

}  // namespace tandem
