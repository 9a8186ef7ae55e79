#include "runtime/program_timer.h"

#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "runtime/scheduler.h"

namespace tandem {

double MedianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

absl::StatusOr<double> TimeProgram(const Program& program, const ExecutorOptions& options,
                                   int n_repetitions) {
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor, NewExecutor(options));
  TANDEM_RETURN_IF_ERROR(executor->Prepare(program));
  const auto run = [&](int n) -> absl::StatusOr<double> {
    const int64_t begin = NowNs();
    for (int i = 0; i < n; ++i) executor->Enqueue(program);
    TANDEM_RETURN_IF_ERROR(executor->WaitFor(0));
    return static_cast<double>(NowNs() - begin) * 1e-6 / n;
  };
  constexpr double kMeasurementMs = 30;
  TANDEM_RETURN_IF_ERROR(run(1).status());
  TANDEM_ASSIGN_OR_RETURN(const double once, run(2));
  const int n = static_cast<int>(std::clamp(kMeasurementMs / std::max(once, 1e-3), 1., 50.));
  std::vector<double> times;
  for (int i = 0; i < n_repetitions; ++i) {
    TANDEM_ASSIGN_OR_RETURN(const double ms, run(n));
    times.push_back(ms);
  }
  return MedianOf(std::move(times));
}

ProgramWork WorkOf(const Program& program, int64_t n_keys, std::optional<Phase> only) {
  ProgramWork work;
  for (const Step& step : program.steps()) {
    if (only && step.phase != *only) continue;
    if (step.op == Op::kLinear) {
      const auto& linear = program.args_as<LinearArgs>(step);
      for (int32_t i = 0; i < linear.n_segments; ++i) {
        const View& weight = linear.segment[i].weight;
        work.weight_bytes += static_cast<int64_t>(weight.bytes());
        work.product_flops += 2. * linear.max_rows * static_cast<double>(weight.n_rows) * linear.in_dim;
      }
    } else if (step.op == Op::kAttention) {
      const KvLayer& kv = program.args_as<AttentionArgs>(step).kv;
      work.cache_bytes += 2 * n_keys * kv.n_kv_heads * kv.head_dim * static_cast<int64_t>(SizeOf(kv.dtype));
    }
  }
  return work;
}

}  // namespace tandem
