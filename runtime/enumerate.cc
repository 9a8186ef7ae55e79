#include "runtime/enumerate.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "runtime/core/check.h"

namespace tandem {

UniformKey OutcomeSweep::NumberOf(const UniformKey& asked) const {
  UniformKey key = rekey ? rekey(asked) : asked;
  key.seed = 0;
  return key;
}

OutcomeSweep::Path& OutcomeSweep::RunOf(const UniformKey& asked) {
  TANDEM_CHECK(asked.seed < static_cast<uint64_t>(n_going_))
      << "a number for run " << asked.seed << " of " << n_going_;
  return runs_[asked.seed];
}

OutcomeSweep::Drawn* OutcomeSweep::Find(Path& path, const UniformKey& number) {
  const auto found = std::find_if(path.begin() + 1, path.end(),
                                  [&](const Drawn& drawn) { return branches_[drawn.branch].key == number; });
  return found == path.end() ? nullptr : &*found;
}

double OutcomeSweep::Draw(const UniformKey& asked) {
  if (asked.base >= base_end) return 0;
  const UniformKey number = NumberOf(asked);
  Path& path = RunOf(asked);
  if (Drawn* known = Find(path, number)) {
    known->again = false;
    return branches_[known->branch].begin;
  }
  branches_.push_back({.parent = path.back().branch, .key = number});
  path.push_back({.branch = static_cast<int32_t>(branches_.size()) - 1, .again = false});
  return 0;
}

void OutcomeSweep::Cell(const UniformKey& asked, double low, double high) {
  if (asked.base >= base_end) return;
  Drawn* drawn = Find(RunOf(asked), NumberOf(asked));
  TANDEM_CHECK(drawn != nullptr) << "an interval for a number that was not drawn";
  const double value = branches_[drawn->branch].begin;
  TANDEM_CHECK(low <= value && value < high) << "[" << low << ", " << high << ") around " << value;
  drawn->end = std::min(drawn->end, high);
}

void OutcomeSweep::Fill(UniformTable* tables) const {
  for (int32_t run = 0; run < n_going_; ++run) {
    const Path& path = runs_[run];
    UniformTable& table = tables[run];
    table.n_cells = 0;
    table.n_numbers = static_cast<int32_t>(std::min<size_t>(path.size() - 1, UniformTable::kCapacity));
    for (int32_t i = 0; i < table.n_numbers; ++i) {
      const Branch& branch = branches_[path[i + 1].branch];
      table.numbers[i] = {branch.key, branch.begin};
      table.numbers[i].key.seed = static_cast<uint64_t>(run);
    }
  }
}

absl::Status OutcomeSweep::TakeCells(const UniformTable* tables) {
  TANDEM_CHECK(!rekey) << "steps look numbers up by their own keys";
  for (int32_t run = 0; run < n_going_; ++run) {
    const UniformTable& table = tables[run];
    if (runs_[run].size() > UniformTable::kCapacity || table.n_cells > UniformTable::kCapacity)
      return absl::ResourceExhaustedError("a run of more decisions than a table of numbers holds");
    for (int32_t i = 0; i < table.n_cells; ++i) {
      const UniformTable::Cell& cell = table.cells[i];
      Draw(cell.key);
      Cell(cell.key, cell.low, cell.high);
    }
  }
  return absl::OkStatus();
}

// The numbers that lead to a branch are known; those behind it are drawn by the run.
void OutcomeSweep::Begin(int32_t branch, Path* path) const {
  path->clear();
  for (int32_t at = branch; at >= 0; at = branches_[at].parent) path->push_back({.branch = at});
  std::reverse(path->begin(), path->end());
  path->front().again = false;
}

absl::Status OutcomeSweep::Finish(const Path& path, int64_t outcome) {
  for (const Drawn& drawn : path) {
    const Branch branch = branches_[drawn.branch];
    if (drawn.again) {
      return absl::InternalError(
          absl::StrCat("a number of the round at length ", branch.key.base, ", offset ", branch.key.offset,
                       ", was drawn in one run and not in another that is the same up to there; what a ",
                       "sequence draws must depend on its own numbers alone"));
    }
    if (drawn.end >= branch.end) continue;
    branches_[drawn.branch].end = drawn.end;
    waiting_.push_back(static_cast<int32_t>(branches_.size()));
    branches_.push_back({.parent = branch.parent, .key = branch.key, .begin = drawn.end, .end = branch.end});
  }
  branches_[path.back().branch].outcome = outcome;
  return absl::OkStatus();
}

std::vector<double> OutcomeSweep::Law(int64_t n_outcomes) const {
  std::vector<double> weight(branches_.size(), 1);
  std::vector<std::pair<int64_t, double>> leaves;
  for (size_t i = 0; i < branches_.size(); ++i) {
    const Branch& branch = branches_[i];
    if (branch.parent >= 0) weight[i] = weight[branch.parent] * (branch.end - branch.begin);
    if (branch.outcome >= 0) leaves.emplace_back(branch.outcome, weight[i]);
  }
  // In an order that does not depend on that of the runs.
  std::sort(leaves.begin(), leaves.end());
  std::vector<double> law(n_outcomes, 0);
  for (const auto& [outcome, probability] : leaves) law[outcome] += probability;
  return law;
}

absl::StatusOr<std::vector<double>> OutcomeSweep::Run(
    int64_t n_outcomes, const std::function<absl::Status(std::span<int64_t> outcomes)>& run) {
  std::vector<int64_t> outcomes(runs_.size());
  n_runs_ = 0;
  branches_ = {Branch()};
  waiting_ = {0};
  while (!waiting_.empty()) {
    n_going_ = static_cast<int32_t>(std::min(waiting_.size(), runs_.size()));
    for (int32_t i = 0; i < n_going_; ++i) {
      Begin(waiting_.back(), &runs_[i]);
      waiting_.pop_back();
    }
    TANDEM_RETURN_IF_ERROR(run({outcomes.data(), static_cast<size_t>(n_going_)}));
    for (int32_t i = 0; i < n_going_; ++i) {
      TANDEM_CHECK(outcomes[i] >= 0 && outcomes[i] < n_outcomes)
          << "outcome " << outcomes[i] << " of " << n_outcomes;
      TANDEM_RETURN_IF_ERROR(Finish(runs_[i], outcomes[i]));
    }
    n_runs_ += n_going_;
  }
  return Law(n_outcomes);
}

}  // namespace tandem
