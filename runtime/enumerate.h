// OutcomeSweep: runs a program of random decisions once for every outcome it can have and adds up exact probabilities.
//
// It stands in for the random numbers (UniformProbe). A number is known by its key: a key asked for twice in one run
// gives the same number, as the real generator would. After each decision the program reports the interval of values
// that decide alike; what of the number's values lies beyond it is a branch of its own, for another run. So every outcome
// is reached once, with nothing sampled. If a key is used for two decisions, their intervals intersect, and the sweep
// finds the law that really results.
//
// Branches wait for nothing but the run that they split from, so several runs can go at the same time: sequences of one
// batch, of which the one whose keys have seed i is run i. The seed tells runs apart and no numbers: the tree of branches,
// the number of runs and the law are the same for any number of runs at a time.
#ifndef TANDEM_RUNTIME_ENUMERATE_H_
#define TANDEM_RUNTIME_ENUMERATE_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/core/uniforms.h"

namespace tandem {

class OutcomeSweep : public UniformProbe {
 public:
  // `n_at_once`: the most runs that go at the same time.
  explicit OutcomeSweep(int32_t n_at_once = 1) : runs_(n_at_once) {}

  // What the random numbers are keyed by; tests replace it to see a wrong scheme fail.
  std::function<UniformKey(const UniformKey&)> rekey;
  // A round that begins at this length or beyond decides nothing that counts: its numbers are 0 and are not swept.
  int32_t base_end = std::numeric_limits<int32_t>::max();

  // Calls `run` until every branch has been taken: outcomes.size() runs, at most n_at_once, of which it sets the outcomes,
  // 0 .. n_outcomes - 1. The law of the outcomes. Errors are those of `run`; kInternal: a run did not draw again what
  // another one had drawn up to where they part, so something beside the numbers decides.
  absl::StatusOr<std::vector<double>> Run(
      int64_t n_outcomes, const std::function<absl::Status(std::span<int64_t> outcomes)>& run);
  int64_t n_runs() const { return n_runs_; }  // of the latest Run

  // For steps that cannot call the sweep: the numbers of the runs to come into tables [n_at_once], run i's into
  // tables[i], and after the runs what the steps decided, in its order. Not with `rekey`. kResourceExhausted: more numbers
  // or cells than a table holds.
  void Fill(UniformTable* tables) const;
  absl::Status TakeCells(const UniformTable* tables);

  double Draw(const UniformKey& key) override;
  void Cell(const UniformKey& key, double low, double high) override;

 private:
  // The values [begin, end) of one number, behind those of the numbers before it: all runs there decide alike about it.
  // The first branch is of no number: every run begins there.
  struct Branch {
    int32_t parent = -1;  // of the number drawn before
    UniformKey key;
    double begin = 0, end = 1;
    int64_t outcome = -1;  // of the run that drew no further number
  };
  // A number of a run: its branch, and to where the run would have gone the same way.
  struct Drawn {
    int32_t branch;
    double end = 1;
    bool again = true;  // known from the runs before, and not drawn in this one so far
  };
  using Path = std::vector<Drawn>;

  UniformKey NumberOf(const UniformKey& asked) const;
  Path& RunOf(const UniformKey& asked);
  Drawn* Find(Path& path, const UniformKey& number);
  void Begin(int32_t branch, Path* path) const;
  absl::Status Finish(const Path& path, int64_t outcome);
  std::vector<double> Law(int64_t n_outcomes) const;

  int64_t n_runs_ = 0;
  std::vector<Branch> branches_;  // a parent before its children
  std::vector<int32_t> waiting_;  // those that no run has taken: a stack
  std::vector<Path> runs_;        // [n_at_once] those that go now; first the first branch
  int32_t n_going_ = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_ENUMERATE_H_
