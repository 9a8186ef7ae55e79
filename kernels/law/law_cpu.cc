#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/law/law.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/law/law_cpu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h comes first.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tandem {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// An array's last vector may be partial: it is completed in a local buffer, so that every element goes
// through the same vector code and no lane is read outside the array.
HWY_INLINE V LoadPadded(D d, const float* p, size_t n, float pad) {
  if (n >= hn::Lanes(d)) return hn::LoadU(d, p);
  HWY_ALIGN float buffer[hn::MaxLanes(d)];
  for (size_t i = 0; i < hn::Lanes(d); ++i) buffer[i] = i < n ? p[i] : pad;
  return hn::Load(d, buffer);
}

// The sum of fp32 vectors, in double.
#if HWY_TARGET == HWY_SCALAR
class WideSum {
 public:
  HWY_INLINE void Add(D, V v) { sum_ += hn::GetLane(v); }
  HWY_INLINE double Total() const { return sum_; }

 private:
  double sum_ = 0;
};
#else
class WideSum {
 public:
  HWY_INLINE WideSum() : low_(hn::Zero(Wide())), high_(hn::Zero(Wide())) {}
  HWY_INLINE void Add(D d, V v) {
    const hn::Half<D> half;
    const Wide wide;
    low_ = hn::Add(low_, hn::PromoteTo(wide, hn::LowerHalf(half, v)));
    high_ = hn::Add(high_, hn::PromoteTo(wide, hn::UpperHalf(half, v)));
  }
  HWY_INLINE double Total() const { return hn::GetLane(hn::SumOfLanes(Wide(), hn::Add(low_, high_))); }

 private:
  using Wide = hn::Repartition<double, D>;
  hn::Vec<Wide> low_;
  hn::Vec<Wide> high_;
};
#endif

// exp(x) for x at most a little over 0, to 1.5 ulp; 0 for x < -87 (p under 2^-125), -infinity and NaN.
// x = k ln 2 + r: 2^k goes into the exponent; exp(r), |r| <= ln(2) / 2, is 1 + r + r^2 P(r) with P fitted for
// the least largest relative error (3e-9). Half the work of a general exp, and exp is most of what laws cost.
HWY_INLINE V ExpNegative(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Adding 1.5 * 2^23 rounds to an integer, which stays in the low bits.
  const V magic = hn::Set(d, 12582912.f);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), magic);
  const V k = hn::Sub(shifted, magic);
  V r = hn::NegMulAdd(k, hn::Set(d, 0.693145751953125f), x);
  r = hn::NegMulAdd(k, hn::Set(d, 1.428606765330187045e-6f), r);
  const V r2 = hn::Mul(r, r);
  const V low = hn::MulAdd(hn::Set(d, 0.1666652113f), r, hn::Set(d, 0.4999999404f));
  const V high = hn::MulAdd(hn::Set(d, 0.008368716575f), r, hn::Set(d, 0.04166838899f));
  const V p = hn::MulAdd(hn::MulAdd(hn::Set(d, 0.00138145988f), r2, high), r2, low);
  const V e = hn::Add(hn::MulAdd(p, r2, r), hn::Set(d, 1.f));
  const auto scaled = hn::Add(hn::BitCast(di, e), hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.f)), hn::BitCast(d, scaled));
}

// exp((x - max) * inv_t - shift) where x >= cutoff, else 0.
struct Weights {
  HWY_INLINE Weights(D d, float max, float inv_t, float shift, float cutoff)
      : max(hn::Set(d, max)),
        inv_t(hn::Set(d, inv_t)),
        shift(hn::Set(d, shift)),
        cutoff(hn::Set(d, cutoff)) {}
  HWY_INLINE V Exponent(V x) const { return hn::MulSub(hn::Sub(x, max), inv_t, shift); }
  HWY_INLINE V operator()(D d, V x) const {
    return hn::IfThenElseZero(hn::Ge(x, cutoff), ExpNegative(d, Exponent(x)));
  }
  V max, inv_t, shift, cutoff;
};

constexpr float kPad = -std::numeric_limits<float>::infinity();

// Sum of f(i, left) over the vectors at i = 0, lanes, 2 lanes, .. < n of which `left` elements count. Added
// in double; with kAddFour, four vectors are added in fp32 first (for statistics: relative error 1e-7).
template <bool kAddFour, typename F>
HWY_INLINE double SumBlocks(D d, size_t n, F f) {
  const size_t lanes = hn::Lanes(d);
  double total = 0;
  for (size_t begin = 0; begin < n; begin += kLawBlock) {
    const size_t end = std::min(n, begin + kLawBlock);
    WideSum sum;
    size_t i = begin;
    for (; kAddFour && i + 4 * lanes <= end; i += 4 * lanes) {
      const V a = hn::Add(f(i, lanes), f(i + lanes, lanes));
      const V b = hn::Add(f(i + 2 * lanes, lanes), f(i + 3 * lanes, lanes));
      sum.Add(d, hn::Add(a, b));
    }
    for (; i < end; i += lanes) sum.Add(d, f(i, end - i));
    total += sum.Total();
  }
  return total;
}

// Sum over x >= cutoff of exp((x - max) * inv_t).
double SumExp(const float* x, size_t n, float max, float inv_t, float cutoff) {
  const D d;
  const Weights weights(d, max, inv_t, 0, cutoff);
  return SumBlocks<true>(
      d, n, [&](size_t i, size_t left) HWY_ATTR { return weights(d, LoadPadded(d, x + i, left, kPad)); });
}

struct Peak {
  float max;
  int32_t argmax;
  bool has_nan;
};

Peak FindPeak(const float* x, size_t n) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V max0 = hn::Set(d, kPad), max1 = max0;
  auto nan = hn::IsNaN(max0);
  for (size_t i = 0; i < n; i += 2 * lanes) {
    const V a = LoadPadded(d, x + i, n - i, kPad);
    const V b = i + lanes < n ? LoadPadded(d, x + i + lanes, n - i - lanes, kPad) : max1;
    max0 = hn::Max(max0, a);
    max1 = hn::Max(max1, b);
    nan = hn::Or(nan, hn::Or(hn::IsNaN(a), hn::IsNaN(b)));
  }
  Peak peak = {hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1))), 0, !hn::AllFalse(d, nan)};
  const V max = hn::Set(d, peak.max);
  for (size_t i = 0; i < n && !peak.has_nan; i += lanes) {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(LoadPadded(d, x + i, n - i, kPad), max));
    if (lane < 0) continue;
    peak.argmax = static_cast<int32_t>(std::min(i + static_cast<size_t>(lane), n - 1));
    break;
  }
  return peak;
}

// Copies the values x with low <= x < high to `out` (which may be `x`), in order; returns how many.
size_t Filter(const float* x, size_t n, float low, float high, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const V v_low = hn::Set(d, low), v_high = hn::Set(d, high);
  size_t n_out = 0;
  for (size_t i = 0; i < n; i += lanes) {
    const size_t left = n - i;
    const V v = LoadPadded(d, x + i, left, kPad);
    const auto keep = hn::And(hn::Ge(v, v_low), hn::Lt(v, v_high));
    if (hn::AllFalse(d, keep)) continue;
    // Compress and a store apart: CompressStore is microcoded on some CPUs.
    const V packed = hn::Compress(v, keep);
    const size_t count = hn::CountTrue(d, keep);
    if (left >= lanes) {
      hn::StoreU(packed, d, out + n_out);
    } else {
      HWY_ALIGN float buffer[hn::MaxLanes(d)];
      hn::Store(packed, d, buffer);
      std::copy_n(buffer, count, out + n_out);
    }
    n_out += count;
  }
  return n_out;
}

// What Select adds up: 1 for each value (top-k), or its weight (top-p).
struct Measure {
  bool count;
  float max, inv_t;

  double Above(const float* x, size_t n, float pivot) const {
    if (!count) return SumExp(x, n, max, inv_t, pivot);
    const D d;
    const V v_pivot = hn::Set(d, pivot);
    size_t total = 0;
    for (size_t i = 0; i < n; i += hn::Lanes(d)) {
      total += hn::CountTrue(d, hn::Ge(LoadPadded(d, x + i, n - i, kPad), v_pivot));
    }
    return static_cast<double>(total);
  }
  void Each(const float* x, size_t n, float* out) const {
    const D d;
    const Weights weights(d, max, inv_t, 0, kPad);
    for (size_t i = 0; i < n; i += hn::Lanes(d)) {
      HWY_ALIGN float buffer[hn::MaxLanes(d)];
      hn::Store(weights(d, LoadPadded(d, x + i, n - i, kPad)), d, buffer);
      for (size_t j = 0; j < hn::Lanes(d) && i + j < n; ++j) out[i + j] = count ? 1.f : buffer[j];
    }
  }
};

// The largest value t of `work` (n > 0 finite values; overwritten) whose measure of {x >= t} reaches
// `target`; the smallest value if none does. Halves the range of values that can hold t, dropping the others,
// until few are left: a handful of passes over fewer and fewer values, and never a sort of the vocabulary.
float Select(float* work, size_t n, const Measure& measure, double target) {
  constexpr size_t kFew = 32;
  double above = 0;  // measure of the values dropped because they are too large
  while (n > kFew) {
    const D d;
    V v_min = hn::Set(d, work[0]), v_max = v_min;
    for (size_t i = 0; i < n; i += hn::Lanes(d)) {
      const V v = LoadPadded(d, work + i, n - i, work[0]);
      v_min = hn::Min(v_min, v);
      v_max = hn::Max(v_max, v);
    }
    const float min = hn::GetLane(hn::MinOfLanes(d, v_min));
    const float max = hn::GetLane(hn::MaxOfLanes(d, v_max));
    if (min == max) return min;
    float pivot = min / 2 + max / 2;
    if (!(pivot > min)) pivot = max;
    const double upper = measure.Above(work, n, pivot);
    if (above + upper >= target) {
      n = Filter(work, n, pivot, std::numeric_limits<float>::infinity(), work);
    } else {
      above += upper;
      n = Filter(work, n, std::numeric_limits<float>::lowest(), pivot, work);
    }
  }
  std::sort(work, work + n, std::greater<>());
  float weights[kFew];
  measure.Each(work, n, weights);
  for (size_t i = 0; i < n; ++i) {
    above += weights[i];
    if (above >= target) return work[i];
  }
  return work[n - 1];
}

float KthLargestImpl(const float* values, int32_t n, int32_t k, float* scratch) {
  // -infinity apart: Select halves a finite range.
  const size_t n_finite = Filter(values, static_cast<size_t>(n), std::numeric_limits<float>::lowest(),
                                 std::numeric_limits<float>::infinity(), scratch);
  if (n_finite < static_cast<size_t>(k) && n_finite < static_cast<size_t>(n)) return kPad;
  return Select(scratch, n_finite, {true, 0, 0}, k);
}

// A value clearly below the top-p cutoff: tokens lighter than (1 - top_p) * mass / n cannot sum to more than
// what top-p leaves out. Half of that, so that rounding does not matter.
float BelowTopP(const Measure& measure, double mass, size_t n, float top_p) {
  const double weight = 0.5 * (1 - static_cast<double>(top_p)) * mass / static_cast<double>(n);
  const double value = measure.max + std::log(weight) / measure.inv_t;
  return static_cast<float>(std::max<double>(value, std::numeric_limits<float>::lowest()));
}

// `logits`: of the block's tokens, which begin at `begin`.
LawBlock BlockOf(const float* logits, int32_t begin, size_t n, const Sampling& sampling) {
  const Peak peak = FindPeak(logits, n);
  LawBlock block = {.max = peak.max, .argmax = begin + peak.argmax};
  if (peak.has_nan) {
    block.max = block.mass1 = std::numeric_limits<float>::quiet_NaN();
  } else if (peak.max > kPad) {
    block.mass1 = SumExp(logits, n, peak.max, 1, kPad);
    block.mass = block.mass1;
    if (!sampling.greedy() && !sampling.cuts() && sampling.temperature != 1) {
      block.mass = SumExp(logits, n, peak.max, 1 / sampling.temperature, kPad);
    }
  }
  return block;
}

// The highest cutoff of those that are on.
float CutoffOf(const float* logits, size_t n, const LawRecord& record, const Sampling& sampling,
               float* scratch) {
  float cutoff = kPad;
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < n) {
    cutoff = KthLargestImpl(logits, static_cast<int32_t>(n), sampling.top_k, scratch);
  }
  if (sampling.top_p < 1) {
    const Measure measure = {false, record.max, record.inv_t};
    const double mass = SumExp(logits, n, record.max, record.inv_t, cutoff);
    const float low = std::max(cutoff, BelowTopP(measure, mass, n, sampling.top_p));
    const size_t n_left = Filter(logits, n, low, std::numeric_limits<float>::infinity(), scratch);
    cutoff = std::max(cutoff, Select(scratch, n_left, measure, sampling.top_p * mass));
  }
  if (sampling.min_p > 0) {
    cutoff = std::max(cutoff, record.max + std::log(sampling.min_p) / record.inv_t);
  }
  return cutoff;
}

LawRecord RecordOf(const float* logits, int32_t n_vocab, const Sampling& sampling, LawBlock* blocks,
                   float* scratch) {
  const size_t n = static_cast<size_t>(n_vocab);
  const int32_t n_blocks = NumLawBlocks(n_vocab);
  LawRecord record;
  record.inv_t = sampling.greedy() ? 0 : 1 / sampling.temperature;
  record.cutoff = record.max = kPad;
  bool has_nan = false;
  for (int32_t b = 0; b < n_blocks; ++b) {
    has_nan |= std::isnan(blocks[b].mass1);
    if (blocks[b].max > record.max) {
      record.max = blocks[b].max;
      record.argmax = blocks[b].argmax;
    }
  }
  if (has_nan || !std::isfinite(record.max)) {
    record.lse = record.lse1 = std::numeric_limits<float>::quiet_NaN();
    record.argmax = 0;
    return record;
  }
  const bool cuts = !sampling.greedy() && sampling.cuts();
  if (cuts) record.cutoff = CutoffOf(logits, n, record, sampling, scratch);
  double mass1 = 0, mass = 0;
  for (int32_t b = 0; b < n_blocks; ++b) {
    LawBlock& block = blocks[b];
    if (block.mass1 == 0) continue;  // no finite logit: of mass 0 too
    const double below = static_cast<double>(block.max) - record.max;
    const double scale1 = std::exp(below);
    mass1 += block.mass1 * scale1;
    if (cuts) {
      const size_t begin = static_cast<size_t>(b) * kLawBlock;
      block.mass = SumExp(logits + begin, std::min<size_t>(kLawBlock, n - begin), record.max, record.inv_t,
                          record.cutoff);
    } else if (!sampling.greedy()) {
      block.mass *= record.inv_t == 1 ? scale1 : std::exp(below * record.inv_t);
    }
    mass += block.mass;
  }
  record.lse1 = static_cast<float>(std::log(mass1));
  if (sampling.greedy()) return record;
  record.lse = static_cast<float>(std::log(mass));
  // Where the likeliest token's p is 0 in fp32, or nearly so, there is nothing to draw.
  for (int32_t b = 0; b < n_blocks; ++b) {
    if (!((blocks[b].max - record.max) * record.inv_t - record.lse > -86)) blocks[b].mass = 0;
  }
  return record;
}

void Probs(const float* x, size_t n, float max, float inv_t, float shift, float cutoff, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const Weights weights(d, max, inv_t, shift, cutoff);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(weights(d, hn::LoadU(d, x + i)), d, out + i);
  if (i == n) return;
  HWY_ALIGN float buffer[hn::MaxLanes(d)];
  hn::Store(weights(d, LoadPadded(d, x + i, n - i, kPad)), d, buffer);
  std::copy_n(buffer, n - i, out + i);
}

// -sum p log p, over p(v) > 0.
float Entropy(const float* x, size_t n, float max, float inv_t, float shift, float cutoff) {
  const D d;
  const Weights weights(d, max, inv_t, shift, cutoff);
  const double sum = SumBlocks<true>(d, n, [&](size_t i, size_t left) HWY_ATTR {
    const V v = LoadPadded(d, x + i, left, kPad);
    const V p = weights(d, v);
    // Where p is 0 its logarithm may be -infinity.
    return hn::IfThenElseZero(hn::Gt(p, hn::Zero(d)), hn::Mul(p, weights.Exponent(v)));
  });
  return static_cast<float>(std::max(0.0, -sum));
}

// Two rows' weights at once, and no array of either.
double TvOf(const float* q, const LawRecord& q_record, const float* p, const LawRecord& p_record, size_t n) {
  const D d;
  const Weights q_weights(d, q_record.max, q_record.inv_t, q_record.lse, q_record.cutoff);
  const Weights p_weights(d, p_record.max, p_record.inv_t, p_record.lse, p_record.cutoff);
  return SumBlocks<true>(d, n, [&](size_t i, size_t left) HWY_ATTR {
    const V difference = hn::Sub(q_weights(d, LoadPadded(d, q + i, left, kPad)),
                                 p_weights(d, LoadPadded(d, p + i, left, kPad)));
    return hn::Max(difference, hn::Zero(d));
  });
}

double SumWeightsImpl(const float* x, size_t n) {
  const D d;
  return SumBlocks<false>(d, n,
                          [&](size_t i, size_t left) HWY_ATTR { return LoadPadded(d, x + i, left, 0); });
}

}  // namespace HWY_NAMESPACE
}  // namespace tandem
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem {

HWY_EXPORT(BlockOf);
HWY_EXPORT(RecordOf);
HWY_EXPORT(Probs);
HWY_EXPORT(Entropy);
HWY_EXPORT(TvOf);
HWY_EXPORT(SumWeightsImpl);
HWY_EXPORT(KthLargestImpl);

namespace {

// The part of [begin, end) inside the vocabulary is left to fill; the rest becomes 0.
struct Inside {
  int32_t begin, end;
};
Inside ZeroOutside(const Law& law, int32_t begin, int32_t end, float* out) {
  const int32_t first = std::clamp(0, begin, end);
  const int32_t last = std::max(first, std::min(end, law.n_vocab));
  std::fill(out, out + (first - begin), 0.f);
  std::fill(out + (last - begin), out + (end - begin), 0.f);
  return {first, last};
}

}  // namespace

void LawBlocksCpu(const LawBlocksArgs& args, Worker worker) {
  const LawBuffer& laws = args.laws;
  const int32_t n_rows = *args.rows.n_logits;
  if (n_rows == 0) return;
  // Block by block, all rows of each: where a worker's share lies, it has most likely written the logits itself.
  const Share share = ShareOf(int64_t{NumLawBlocks(laws.n_vocab)} * n_rows, worker);
  for (int64_t item = share.begin; item < share.end; ++item) {
    const auto b = static_cast<int32_t>(item / n_rows);
    const int64_t i = item % n_rows;
    const int64_t out = args.rows.logits_out[i];
    const Sampling& sampling = args.states[args.rows.slot[args.rows.logits_row[i]]].sampling;
    const int32_t begin = b * kLawBlock;
    laws.blocks_of(out)[b] = HWY_DYNAMIC_DISPATCH(BlockOf)(
        laws.logits + out * laws.stride + begin, begin, std::min(kLawBlock, laws.n_vocab - begin), sampling);
  }
}

void LawCpu(const LawArgs& args, Worker worker) {
  const Share share = ShareOf(*args.rows.n_logits, worker);
  float* scratch = args.scratch + static_cast<int64_t>(worker.index) * args.laws.stride;
  for (int64_t i = share.begin; i < share.end; ++i) {
    const int64_t out = args.rows.logits_out[i];
    const Sampling& sampling = args.states[args.rows.slot[args.rows.logits_row[i]]].sampling;
    args.laws.records[out] =
        HWY_DYNAMIC_DISPATCH(RecordOf)(args.laws.logits + out * args.laws.stride, args.laws.n_vocab, sampling,
                                       args.laws.blocks_of(out), scratch);
  }
}

void LawProbs(const Law& law, int32_t begin, int32_t end, float* out) {
  const Inside inside = ZeroOutside(law, begin, end, out);
  const LawRecord& record = law.record;
  if (law.greedy()) {
    std::fill(out + (inside.begin - begin), out + (inside.end - begin), 0.f);
    if (record.argmax >= inside.begin && record.argmax < inside.end) out[record.argmax - begin] = 1;
    return;
  }
  HWY_DYNAMIC_DISPATCH(Probs)
  (law.logits + inside.begin, static_cast<size_t>(inside.end - inside.begin), record.max, record.inv_t,
   record.lse, record.cutoff, out + (inside.begin - begin));
}

void LawProbs1(const Law& law, int32_t begin, int32_t end, float* out) {
  const Inside inside = ZeroOutside(law, begin, end, out);
  const LawRecord& record = law.record;
  HWY_DYNAMIC_DISPATCH(Probs)
  (law.logits + inside.begin, static_cast<size_t>(inside.end - inside.begin), record.max, 1.f, record.lse1,
   -std::numeric_limits<float>::infinity(), out + (inside.begin - begin));
}

float LawEntropy(const Law& law) {
  if (law.greedy()) return 0;
  const LawRecord& record = law.record;
  return HWY_DYNAMIC_DISPATCH(Entropy)(law.logits, static_cast<size_t>(law.n_vocab), record.max, record.inv_t,
                                       record.lse, record.cutoff);
}

float LawEntropy1(const Law& law) {
  const LawRecord& record = law.record;
  return HWY_DYNAMIC_DISPATCH(Entropy)(law.logits, static_cast<size_t>(law.n_vocab), record.max, 1.f,
                                       record.lse1, -std::numeric_limits<float>::infinity());
}

double LawTotalVariation(const Law& q, const Law& p, int32_t begin, int32_t end) {
  // Where p has no tokens, q's count whole; where q has none, nothing does.
  const int32_t q_end = std::min(end, q.n_vocab);
  const int32_t both = std::max(begin, std::min(q_end, p.n_vocab));
  double sum = HWY_DYNAMIC_DISPATCH(TvOf)(q.logits + begin, q.record, p.logits + begin, p.record,
                                          static_cast<size_t>(both - begin));
  for (int32_t v = both; v < q_end; ++v) {
    float prob = 0;
    LawProbs(q, v, v + 1, &prob);
    sum += prob;
  }
  return sum;
}

double SumWeights(const float* weights, int32_t n) {
  return HWY_DYNAMIC_DISPATCH(SumWeightsImpl)(weights, static_cast<size_t>(n));
}

float KthLargest(const float* values, int32_t n, int32_t k, float* scratch) {
  return HWY_DYNAMIC_DISPATCH(KthLargestImpl)(values, n, k, scratch);
}

}  // namespace tandem
#endif  // HWY_ONCE
