// The tail of a round by itself: what comes after the target's logits (their laws, the rule, resampling, settle, publish),
// for one sequence, laws of random logits, on one device.
//
// One thread, the host.
#ifndef TANDEM_RUNTIME_TAIL_BENCH_H_
#define TANDEM_RUNTIME_TAIL_BENCH_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "runtime/core/buffer.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/status.h"
#include "runtime/executor.h"
#include "runtime/settle.h"

namespace tandem {

struct TailOptions {
  ExecutorOptions executor;  // the device
  int32_t n_vocab = 0;
  int32_t gamma = 4;
  std::string rule = "opt";
  Sampling sampling = {.temperature = 1};
  int n_repetitions = 7;
};

class TailBench {
 public:
  // kInvalidArgument: the rule; kUnavailable: the device.
  static absl::StatusOr<std::unique_ptr<TailBench>> Create(const TailOptions& options);

  // Each appends what its name says.
  void Law(Program& program);  // of the block's gamma + 1 rows
  void Judge(Program& program);
  void Settle(Program& program);
  void Publish(Program& program);
  void Sample(Program& program);  // one row's law and a draft token from it

  // Microseconds of what `add` appends: of a program that holds it many times, over that number.
  absl::StatusOr<double> Us(const std::function<void(Program&)>& add);

  // The last round that was published.
  const SlotRecord& last() const { return ring_->slots[0]; }

 private:
  TailBench(const TailOptions& options, std::unique_ptr<Policy> policy);
  LawBuffer Laws(const std::vector<float>& logits);

  TailOptions options_;
  int32_t block_;
  Arena arena_, shared_;
  std::unique_ptr<Policy> policy_;
  Batch batch_;
  LawBuffer p_, q_;
  RowPlan rows_, one_row_;
  Proposal proposal_;
  Verdicts verdicts_;
  Program judge_;
  float* scratch_ = nullptr;  // [stride of the laws], of one worker
  SlotRecord* records_ = nullptr;
  RoundRecord* ring_ = nullptr;
  int64_t* n_published_ = nullptr;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_TAIL_BENCH_H_
