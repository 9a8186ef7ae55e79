#include "runtime/cascade/score.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "runtime/core/check.h"

namespace tandem {

double ScoreOf(AnswerScore score, double quantile, std::span<const float> log_probs) {
  TANDEM_CHECK(!log_probs.empty());
  if (score == AnswerScore::kQuantile) {
    std::vector<float> sorted(log_probs.begin(), log_probs.end());
    std::sort(sorted.begin(), sorted.end());
    const double at = quantile * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<size_t>(at);
    const size_t above = std::min(below + 1, sorted.size() - 1);
    const double share = at - static_cast<double>(below);
    return (1 - share) * sorted[below] + share * sorted[above];
  }
  const double sum = std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
  return score == AnswerScore::kSum ? sum : sum / static_cast<double>(log_probs.size());
}

}  // namespace tandem
