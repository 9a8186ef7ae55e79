// The score of an answer: how sure the draft was of what it wrote, in nats. From the log-probabilities of the answer's
// tokens, the end of text included, under the draft's law at temperature 1 with nothing cut off: a score means the same
// at every temperature, while at temperature 0 the law that is sampled from gives every token of its own a log-probability
// of 0. (Gupta et al., arXiv 2404.10136: Chow-Sum, Chow-Average, Chow-Quantile.) Pure functions.
#ifndef TANDEM_RUNTIME_CASCADE_SCORE_H_
#define TANDEM_RUNTIME_CASCADE_SCORE_H_

#include <cstdint>
#include <span>

namespace tandem {

enum class AnswerScore : int32_t {
  kMean,      // biased towards keeping long answers
  kSum,       // biased towards redoing them
  kQuantile,  // 0: the least sure token; 0.5: the median
};

// REQUIRES: at least one token; 0 <= quantile <= 1. Between two order statistics the quantile is interpolated.
double ScoreOf(AnswerScore score, double quantile, std::span<const float> log_probs);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CASCADE_SCORE_H_
