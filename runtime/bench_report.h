// What `tandem bench` measured: the target alone and the pair, repetition by repetition, and what it says
// about them.
#ifndef TANDEM_RUNTIME_BENCH_REPORT_H_
#define TANDEM_RUNTIME_BENCH_REPORT_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/report.h"
#include "runtime/report_json.h"
#include "runtime/request.h"
#include "runtime/round_budget.h"

namespace tandem {

// One pass over all prompts.
struct BenchPass {
  Measured total;
  RoundReads reads;  // of all rounds
  std::map<std::string, Measured> by_category;
};

BenchPass MeasurePass(const std::vector<RequestResult>& results, const PhaseTimes& times,
                      const RoundReads& reads = {});

// The first token at which two outputs of one request differ; -1 stands for an output that ended before it.
struct OutputDifference {
  std::string id;
  int64_t position = 0;
  int32_t target_token = 0;
  int32_t pair_token = 0;
};

struct BenchResult {
  std::vector<BenchPass> target;  // per repetition
  std::vector<BenchPass> pair;
  // Of a cascade without speculation. Speed counts from admission on then, prompts included: a query cascade hands over
  // answers whole, and a token cascade's target reads the prompt when it is asked first.
  bool is_cascade = false;
  double read_rate = 0;    // bytes per second that the machine's memory gives; 0: not known
  bool compared = false;   // the outputs are greedy
  int64_t n_compared = 0;  // pairs of outputs
  int64_t n_different = 0;
  std::optional<OutputDifference> first_difference;

  // Compares the outputs of one repetition.
  void Compare(const std::vector<RequestResult>& target_results,
               const std::vector<RequestResult>& pair_results);
};

// The pair's speed over the target's, per repetition; of one category if it is not empty.
// Repetitions without a measurable speed are left out.
std::vector<double> Speedups(const BenchResult& result, const std::string& category);

// Of all rounds of the pair: their times, and the floors of their forwards. REQUIRES: phases were timed.
RoundBudget BudgetOf(const BenchResult& result);

std::string BenchText(const ReportHeader& header, const BenchResult& result, bool colour);

OrderedJson BenchJson(const Config& config, const ReportHeader& header, const BenchResult& result);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_BENCH_REPORT_H_
