#include "runtime/round_budget.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "runtime/report.h"

namespace tandem {
namespace {

// What a part's time goes to.
const char* Doing(std::string_view part) {
  if (part == "bandwidth") return "reading weights and cache";
  if (part == "draft") return "draft forwards, beyond reading";
  if (part == "verify") return "the target's forwards, beyond reading";
  if (part == "rule") return "laws, drawing, judging and settling";
  if (part == "launch") return "a device between two programs";
  return "nothing running, for the host";
}

}  // namespace

void RoundReads::Add(const RoundReads& other) {
  n_rounds += other.n_rounds;
  draft_bytes += other.draft_bytes;
  verify_bytes += other.verify_bytes;
}

RoundReader::RoundReader(const Program& round)
    : draft_(WorkOf(round, 1, Phase::kDraft)), verify_(WorkOf(round, 1, Phase::kVerify)) {
  for (const Step& step : round.steps()) {
    n_drafts_ += step.phase == Phase::kDraft && step.op == Op::kPlan;
    n_tokens_ += step.op == Op::kSample;
  }
}

RoundReads RoundReader::Of(std::span<const SlotRecord> slots) const {
  RoundReads reads;
  double n_keys = 0, n_draft_keys = 0;
  int32_t n_forwards = 0;
  for (const SlotRecord& slot : slots) {
    if (!slot.ran) continue;
    reads.n_rounds = 1;
    const int32_t n_drafts = std::min(n_drafts_, slot.n_proposed + n_drafts_ - n_tokens_);
    n_forwards = std::max(n_forwards, n_drafts);
    n_keys += slot.base;
    n_draft_keys += static_cast<double>(slot.base) * n_drafts;
  }
  if (reads.n_rounds == 0) return reads;
  reads.verify_bytes =
      static_cast<double>(verify_.weight_bytes) + static_cast<double>(verify_.cache_bytes) * n_keys;
  if (n_drafts_ > 0) {
    reads.draft_bytes = (static_cast<double>(draft_.weight_bytes) * n_forwards +
                         static_cast<double>(draft_.cache_bytes) * n_draft_keys) /
                        n_drafts_;
  }
  return reads;
}

std::vector<RoundBudget::Part> RoundBudget::Parts() const {
  // Weights that a cache of the processor holds are read faster than that.
  const double draft_reading = std::min(draft_ms, draft_floor_ms);
  const double verify_reading = std::min(verify_ms, verify_floor_ms);
  std::vector<Part> parts = {{"bandwidth", draft_reading + verify_reading},
                             {"verify", verify_ms - verify_reading},
                             {"draft", draft_ms - draft_reading},
                             {"rule", rule_ms},
                             {"launch", launch_ms},
                             {"host", host_ms}};
  const bool by_bandwidth = parts[0].ms >= 0.5 * ms();
  const auto by_size = [](const Part& a, const Part& b) { return a.ms > b.ms; };
  std::stable_sort(parts.begin() + 1, parts.end(), by_size);
  if (by_bandwidth) return parts;
  std::swap(parts[0], parts[1]);
  std::stable_sort(parts.begin() + 1, parts.end(), by_size);
  return parts;
}

std::string LimitText(const RoundBudget& budget) {
  const std::vector<RoundBudget::Part> parts = budget.Parts();
  const auto share = [&](const RoundBudget::Part& part) { return FormatPercent(part.ms / budget.ms()); };
  std::string text =
      absl::StrCat(parts[0].name, ": ", share(parts[0]), " of a round is ", Doing(parts[0].name));
  for (size_t i = 1; i < parts.size() && parts[i].ms > 0; ++i)
    absl::StrAppend(&text, i == 1 ? "; beside that " : ", ", parts[i].name, " ", share(parts[i]));
  return text;
}

}  // namespace tandem
