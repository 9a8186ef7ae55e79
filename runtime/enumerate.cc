#include "runtime/enumerate.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace tandem {

OutcomeSweep::Number* OutcomeSweep::Find(const UniformKey& key) {
  const auto found =
      std::find_if(path_.begin(), path_.end(), [&](const Number& number) { return number.key == key; });
  return found == path_.end() ? nullptr : &*found;
}

double OutcomeSweep::Draw(const UniformKey& asked) {
  const UniformKey key = rekey ? rekey(asked) : asked;
  if (const Number* known = Find(key)) return known->value;
  path_.push_back({.key = key, .law = {}});
  return 0;
}

void OutcomeSweep::Cell(const UniformKey& asked, double low, double high) {
  Number* number = Find(rekey ? rekey(asked) : asked);
  TANDEM_CHECK(number != nullptr) << "an interval for a number that was not drawn";
  TANDEM_CHECK(low <= number->value && number->value < high)
      << "[" << low << ", " << high << ") around " << number->value;
  number->end = std::min(number->end, high);
}

void OutcomeSweep::Fill(UniformTable* table) const {
  table->n_cells = 0;
  table->n_numbers = static_cast<int32_t>(std::min<size_t>(path_.size(), UniformTable::kCapacity));
  for (int32_t i = 0; i < table->n_numbers; ++i) table->numbers[i] = {path_[i].key, path_[i].value};
}

absl::Status OutcomeSweep::TakeCells(const UniformTable& table) {
  TANDEM_CHECK(!rekey) << "steps look numbers up by their own keys";
  if (path_.size() > UniformTable::kCapacity || table.n_cells > UniformTable::kCapacity)
    return absl::ResourceExhaustedError("a run of more decisions than a table of numbers holds");
  for (int32_t i = 0; i < table.n_cells; ++i) {
    const UniformTable::Cell& cell = table.cells[i];
    Draw(cell.key);
    Cell(cell.key, cell.low, cell.high);
  }
  return absl::OkStatus();
}

std::vector<double> OutcomeSweep::Run(const std::function<int64_t()>& run) {
  path_.clear();
  n_runs_ = 0;
  while (true) {
    const int64_t outcome = run();
    ++n_runs_;
    if (outcome < 0) return {};
    std::vector<double> here(n_outcomes_, 0);
    here[outcome] = 1;
    // From the last number to the first: the law at its value is known now; on to its next interval if it has one.
    while (!path_.empty()) {
      Number& last = path_.back();
      last.law.resize(n_outcomes_, 0);
      for (int64_t i = 0; i < n_outcomes_; ++i) last.law[i] += (last.end - last.value) * here[i];
      last.value = last.end;
      last.end = 1;
      if (last.value < 1) break;
      here = std::move(last.law);
      path_.pop_back();
    }
    if (path_.empty()) return here;
  }
}

}  // namespace tandem
