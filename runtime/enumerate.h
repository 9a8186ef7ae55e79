// OutcomeSweep: runs a program of random decisions once for every outcome it can have and adds up exact probabilities.
//
// It stands in for the random numbers (UniformProbe). A number is known by its key: a key asked for twice in one run
// gives the same number, as the real generator would. After each decision the program reports the interval of values
// that decide alike, so the next run takes the value at the interval's end: every outcome once, in order, no sampling.
// If a key is used for two decisions, their intervals intersect, and the sweep finds the law that really results.
#ifndef TANDEM_RUNTIME_ENUMERATE_H_
#define TANDEM_RUNTIME_ENUMERATE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/core/uniforms.h"

namespace tandem {

class OutcomeSweep : public UniformProbe {
 public:
  explicit OutcomeSweep(int64_t n_outcomes) : n_outcomes_(n_outcomes) {}

  // What the random numbers are keyed by; tests replace it to see a wrong scheme fail.
  std::function<UniformKey(const UniformKey&)> rekey;

  // Calls `run` until every path has been taken. It returns the outcome, 0 .. n_outcomes - 1, or a negative number to
  // give up. The law of the outcomes; empty if it gave up.
  std::vector<double> Run(const std::function<int64_t()>& run);
  int64_t n_runs() const { return n_runs_; }

  // For steps that cannot call the sweep: the numbers of the path into a table before a run, and after it what the steps
  // decided, in its order. Not with `rekey`. kResourceExhausted: more numbers or cells than a table holds.
  void Fill(UniformTable* table) const;
  absl::Status TakeCells(const UniformTable& table);

  double Draw(const UniformKey& key) override;
  void Cell(const UniformKey& key, double low, double high) override;

 private:
  // One random number on the current path. Its values from 0 to `value` have been swept; what comes of them is in
  // `law`, each outcome by the measure of the numbers that follow times this number's.
  struct Number {
    UniformKey key;
    double value = 0;
    double end = 1;  // of the interval around `value` in which everything seen so far stays the same
    std::vector<double> law;
  };

  Number* Find(const UniformKey& key);

  int64_t n_outcomes_;
  int64_t n_runs_ = 0;
  std::vector<Number> path_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_ENUMERATE_H_
