#include "runtime/request.h"

#include <algorithm>
#include <bit>

namespace tandem {
namespace {

void Count(std::vector<int64_t>& counts, int i) {
  if (counts.size() <= static_cast<size_t>(i)) counts.resize(i + 1);
  ++counts[i];
}

void AddAll(std::vector<int64_t>& counts, const std::vector<int64_t>& other) {
  if (counts.size() < other.size()) counts.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) counts[i] += other[i];
}

}  // namespace

void SpeculationCounts::Add(const SpeculationCounts& other) {
  num_drafts += other.num_drafts;
  num_draft_tokens += other.num_draft_tokens;
  num_accepted_tokens += other.num_accepted_tokens;
  target_calls += other.target_calls;
  draft_calls += other.draft_calls;
  num_tokens_by_draft += other.num_tokens_by_draft;
  num_scored_answers += other.num_scored_answers;
  num_deferred_answers += other.num_deferred_answers;
  num_preemptions += other.num_preemptions;
  num_emitted_tokens += other.num_emitted_tokens;
  num_judged += other.num_judged;
  num_deferred += other.num_deferred;
  AddAll(drafted_per_pos, other.drafted_per_pos);
  AddAll(reached_per_pos, other.reached_per_pos);
  AddAll(accepted_per_pos, other.accepted_per_pos);
  AddAll(acceptance_histogram, other.acceptance_histogram);
}

void SpeculationCounts::AddRound(const SlotRecord& record, int n_output) {
  const int n_added = record.target_added ? 1 : 0;
  const bool cut = n_output < record.n_keep + n_added;  // the output ended within the block
  const int n_proposed = cut ? std::min(record.n_proposed, n_output) : record.n_proposed;
  const int n_judged = cut ? std::min(record.n_judged, n_output) : record.n_judged;
  const int n_kept = std::min(record.n_keep, n_output);
  target_calls += n_added;
  draft_calls += std::max(n_proposed, n_judged);  // a token cascade's draft proposes nothing where it defers
  num_emitted_tokens += n_output;
  num_tokens_by_draft += n_kept;
  num_judged += n_judged;
  num_deferred += std::popcount(record.deferred & ((uint64_t{1} << n_judged) - 1));
  if (n_proposed == 0 || n_added == 0) return;  // no block for the target to judge
  ++num_drafts;
  num_draft_tokens += n_proposed;
  num_accepted_tokens += n_kept;
  for (int i = 0; i < n_proposed; ++i) {
    Count(drafted_per_pos, i);
    if (i <= n_kept) Count(reached_per_pos, i);
    if (i < n_kept) Count(accepted_per_pos, i);
  }
  reached_per_pos.resize(drafted_per_pos.size());
  accepted_per_pos.resize(drafted_per_pos.size());
  Count(acceptance_histogram, n_kept);
}

}  // namespace tandem
