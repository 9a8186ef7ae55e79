// ModelBench: one model by itself, without an engine, on one sequence: what its prompt, its forwards and its steps as a
// draft take.
//
// One thread, the host.
#ifndef TANDEM_RUNTIME_MODEL_BENCH_H_
#define TANDEM_RUNTIME_MODEL_BENCH_H_

#include <memory>

#include "runtime/core/buffer.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/status.h"
#include "runtime/executor.h"
#include "runtime/model/model.h"
#include "runtime/model/runner.h"
#include "runtime/program_timer.h"

namespace tandem {

struct ModelBenchOptions {
  ExecutorOptions executor;  // on the model's device
  ActivationDType dtype = ActivationDType::kBf16;
  int32_t context = 1024;    // positions that forwards and steps find in the cache
  int32_t n_prefill = 2048;  // tokens of Prefill
  int n_repetitions = 5;
};

class ModelBench {
 public:
  struct Timed {
    double ms = 0;
    ProgramWork work;
  };

  ModelBench(std::shared_ptr<const Model> model, const ModelBenchOptions& options);

  // A prompt of n_prefill tokens in one forward, without a head. It lays out and fills the cache that the others read:
  // REQUIRES of them: it has run.
  absl::StatusOr<Timed> Prefill();
  // A forward of the rows behind `context`, from embed to the logits of every one; several in a row, the time and work of
  // one.
  absl::StatusOr<Timed> Forward(int32_t n_rows);
  // A draft step as rounds have them behind their first one: plan, forward, law, and a token drawn at temperature 1.
  // Several in a row, each fed with the token before it; the time and work of one.
  absl::StatusOr<Timed> DraftStep();

 private:
  // Of one of `n_parts` equal parts of the program.
  absl::StatusOr<Timed> Time(const Program& program, int64_t n_keys, int32_t n_parts);
  template <typename T>
  T ReadBack(const T* there) const;

  static constexpr int32_t kSteps = 4;  // or forwards, in a row

  std::shared_ptr<const Model> model_;
  ModelBenchOptions options_;
  int32_t n_positions_;  // that the cache has room for
  Arena arena_, shared_;
  ModelRunner runner_;
  Batch batch_;
  SeqState* staged_;        // what each prefill begins with
  int32_t* staged_prompt_;  // [n_positions]
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_BENCH_H_
