// A law: a next-token distribution in memory as a raw fp32 row of logits and a small record. Probabilities
// are computed on the fly; no array of them is kept between steps.
//
//   p(v)  = exp((logit(v) - max) * inv_t - lse)   if logit(v) >= cutoff, else 0: the sampling law
//   p1(v) = exp(logit(v) - max - lse1)            temperature 1, nothing cut off
//   T = 0: p is one-hot at argmax (lowest id among equals); inv_t is 0 then
//
// Exponents are taken from the largest logit, where the fp32 difference is exact or nearly so: relative to 0
// a logit of 40 at T = 0.1 would cost p five digits.
//
// Sums over the vocabulary are made of the sums over its blocks of kLawBlock tokens, added in order, whoever computes
// them; the law keeps those at hand, so that a token can be drawn by looking at one block.
//
// top-k, top-p and min-p, in this order and after the temperature, become one cutoff on the logit; ties at it
// stay.
#ifndef TANDEM_RUNTIME_CORE_LAW_H_
#define TANDEM_RUNTIME_CORE_LAW_H_

#include <cmath>
#include <cstdint>

#include "runtime/core/platform.h"

namespace tandem {

// Sampling parameters of one request, applied to q and p alike.
struct Sampling {
  float temperature = 0;  // 0: greedy
  int32_t top_k = 0;      // 0: off
  float top_p = 1;        // 1: off
  float min_p = 0;        // 0: off

  TANDEM_HD bool greedy() const { return temperature == 0; }
  TANDEM_HD bool cuts() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

inline constexpr int kLawBlock = 1024;
TANDEM_HD inline int32_t NumLawBlocks(int32_t n_vocab) { return (n_vocab + kLawBlock - 1) / kLawBlock; }

// The tokens [b * kLawBlock, (b + 1) * kLawBlock) of a law.
struct LawBlock {
  float max = 0;       // largest logit
  int32_t argmax = 0;  // its lowest id
  double mass1 = 0;    // sum of exp(logit - max), of the block's own max
  double mass =
      0;  // sum over the kept tokens of exp((logit - record.max) * inv_t), 0 if under 2^-124; T = 0: unset
};

struct LawRecord {
  float inv_t = 0;     // 1 / temperature; 0: greedy
  float cutoff = 0;    // smallest logit kept; -infinity: all
  float lse = 0;       // log of the sum over kept v of exp((logit - max) * inv_t); T = 0: 0
  float lse1 = 0;      // log of the sum over all v of exp(logit - max)
  float max = 0;       // largest logit
  int32_t argmax = 0;  // its lowest id
};

// One law: record and logits. `n_vocab` tokens; a token id outside it has probability 0.
struct Law {
  const float* logits = nullptr;  // [n_vocab]
  int32_t n_vocab = 0;
  LawRecord record;
  const LawBlock* blocks = nullptr;  // [NumLawBlocks(n_vocab)]

  TANDEM_HD bool greedy() const { return record.inv_t == 0; }
  // False if a logit is NaN or +infinity, or all are -infinity: no law then, and no token may be drawn from
  // it.
  TANDEM_HD bool finite() const { return std::isfinite(record.lse) && std::isfinite(record.lse1); }
  TANDEM_HD float prob(int32_t v) const {
    if (v < 0 || v >= n_vocab) return 0;
    if (greedy()) return v == record.argmax ? 1.f : 0.f;
    return logits[v] >= record.cutoff ? std::exp((logits[v] - record.max) * record.inv_t - record.lse) : 0.f;
  }
  TANDEM_HD float prob1(int32_t v) const {
    return v < 0 || v >= n_vocab ? 0.f : std::exp(logits[v] - record.max - record.lse1);
  }
};

// Rows of laws: float logits[n_rows][stride], LawRecord records[n_rows], LawBlock blocks[n_rows][NumLawBlocks(n_vocab)].
// Of a row, `n_vocab` logits count.
struct LawBuffer {
  float* logits = nullptr;
  LawRecord* records = nullptr;
  LawBlock* blocks = nullptr;
  int32_t stride = 0;
  int32_t n_vocab = 0;

  TANDEM_HD LawBlock* blocks_of(int64_t i) const { return blocks + i * NumLawBlocks(n_vocab); }
  TANDEM_HD Law row(int64_t i) const { return {logits + i * stride, n_vocab, records[i], blocks_of(i)}; }
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_LAW_H_
