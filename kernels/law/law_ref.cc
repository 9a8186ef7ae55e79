#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/law/law.h"

namespace tandem {
namespace {

LawRecord ReferenceRecord(const float* logits, int32_t n_vocab, const Sampling& sampling) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  LawRecord record;
  record.inv_t = sampling.greedy() ? 0 : 1 / sampling.temperature;
  record.cutoff = -kInfinity;
  record.argmax = static_cast<int32_t>(std::max_element(logits, logits + n_vocab) - logits);
  record.max = logits[record.argmax];
  const bool has_nan = std::any_of(logits, logits + n_vocab, [](float x) { return std::isnan(x); });
  if (has_nan || !std::isfinite(record.max)) {
    record.lse = record.lse1 = std::numeric_limits<float>::quiet_NaN();
    record.argmax = 0;
    return record;
  }
  double sum1 = 0;
  for (int32_t v = 0; v < n_vocab; ++v) sum1 += std::exp(static_cast<double>(logits[v]) - record.max);
  record.lse1 = static_cast<float>(std::log(sum1));
  if (sampling.greedy()) return record;

  std::vector<float> sorted(logits, logits + n_vocab);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  auto weight = [&](float x) { return std::exp((static_cast<double>(x) - record.max) * record.inv_t); };
  if (sampling.top_k > 0 && sampling.top_k < n_vocab) record.cutoff = sorted[sampling.top_k - 1];
  if (sampling.top_p < 1) {
    double mass = 0, running = 0;
    for (float x : sorted) mass += x >= record.cutoff ? weight(x) : 0;
    for (float x : sorted) {
      running += weight(x);
      if (running >= sampling.top_p * mass) {
        record.cutoff = std::max(record.cutoff, x);
        break;
      }
    }
  }
  if (sampling.min_p > 0) {
    record.cutoff = std::max(record.cutoff, record.max + std::log(sampling.min_p) / record.inv_t);
  }
  double sum = 0;
  for (float x : sorted) sum += x >= record.cutoff ? weight(x) : 0;
  record.lse = static_cast<float>(std::log(sum));
  return record;
}

}  // namespace

void LawReference(const LawArgs& args) {
  for (int32_t i = 0; i < *args.rows.n_logits; ++i) {
    const int64_t out = args.rows.logits_out[i];
    const Sampling& sampling = args.states[args.rows.slot[args.rows.logits_row[i]]].sampling;
    args.laws.records[out] =
        ReferenceRecord(args.laws.logits + out * args.laws.stride, args.laws.n_vocab, sampling);
  }
}

}  // namespace tandem
