// ctest-label: concurrent
#include "kernels/attention/attention.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "tests/kernels/backend.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/util.h"

namespace tandem {
namespace {

constexpr int kSlots = 3;

// The logical K and V of each slot, apart from pages: value of (slot, kv head, position, element).
class Sequences {
 public:
  Sequences(const AttentionCase& shape, int n_positions, std::mt19937& random)
      : shape_(shape), n_positions_(n_positions) {
    k_ = RandomFloats(static_cast<size_t>(kSlots) * shape.n_kv_heads * n_positions * shape.head_dim, random,
                      2);
    v_ = RandomFloats(k_.size(), random, 2);
    if (shape.dtype == DType::kBf16) {
      for (float& x : k_) x = RoundToBf16(x);
      for (float& x : v_) x = RoundToBf16(x);
    }
  }
  float& k(int slot, int head, int t, int i) { return k_[Index(slot, head, t, i)]; }
  float& v(int slot, int head, int t, int i) { return v_[Index(slot, head, t, i)]; }
  int n_positions() const { return n_positions_; }

 private:
  size_t Index(int slot, int head, int t, int i) const {
    return ((static_cast<size_t>(slot) * shape_.n_kv_heads + head) * n_positions_ + t) * shape_.head_dim + i;
  }
  AttentionCase shape_;
  int n_positions_;
  std::vector<float> k_, v_;
};

// A paged cache that holds the sequences; whatever no sequence owns is NaN.
class PagedCache {
 public:
  PagedCache(const AttentionCase& shape, Sequences& sequences, int page_size, uint32_t order) {
    const int max_pages = (sequences.n_positions() + page_size - 1) / page_size;
    std::vector<int32_t> pages(kSlots * max_pages);
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    std::mt19937 random(order);
    std::shuffle(pages.begin(), pages.end(), random);
    table_ = pages;
    const size_t n = pages.size() * shape.n_kv_heads * page_size * shape.head_dim;
    k_ = std::make_unique<EdgeBytes>(n * SizeOf(shape.dtype));
    v_ = std::make_unique<EdgeBytes>(n * SizeOf(shape.dtype));
    std::memset(k_->data(), 0xff, k_->bytes());
    std::memset(v_->data(), 0xff, v_->bytes());
    kv_.k = k_->data();
    kv_.v = v_->data();
    kv_.dtype = shape.dtype;
    kv_.page_size = page_size;
    kv_.n_kv_heads = shape.n_kv_heads;
    kv_.head_dim = shape.head_dim;
    kv_.page_table = table_.data();
    kv_.max_pages = max_pages;
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int h = 0; h < shape.n_kv_heads; ++h) {
        for (int t = 0; t < sequences.n_positions(); ++t) {
          for (int i = 0; i < shape.head_dim; ++i) {
            // By the layout of core/kv.h, written out again: [page][kv head][position in the page][element].
            const size_t page = table_[static_cast<size_t>(slot) * max_pages + t / page_size];
            const size_t at =
                ((page * shape.n_kv_heads + h) * page_size + t % page_size) * shape.head_dim + i;
            Set(k_->data(), at, sequences.k(slot, h, t, i));
            Set(v_->data(), at, sequences.v(slot, h, t, i));
          }
        }
      }
    }
  }
  const KvLayer& kv() const { return kv_; }
  KvLayer CopyTo(DeviceInputs& inputs) const {
    KvLayer kv = kv_;
    kv.k = inputs.Copy(k_->data(), k_->bytes());
    kv.v = inputs.Copy(v_->data(), v_->bytes());
    kv.page_table = inputs.Copy(table_.data(), table_.size());
    return kv;
  }

 private:
  void Set(unsigned char* data, size_t at, float value) {
    if (kv_.dtype == DType::kF32) {
      std::memcpy(data + at * 4, &value, 4);
    } else {
      const uint16_t half = FloatToBf16(value);
      std::memcpy(data + at * 2, &half, 2);
    }
  }

  std::vector<int32_t> table_;
  std::unique_ptr<EdgeBytes> k_, v_;
  KvLayer kv_;
};

class Problem {
 public:
  Problem(const AttentionCase& shape, uint32_t seed)
      : shape_(shape), random_(seed), sequences_(shape, LastPosition(shape) + 1, random_) {
    for (const AttentionRun& run : shape.runs) {
      for (int i = 0; i < run.n_rows; ++i)
        rows_.push_back({run.slot, run.last_position - run.n_rows + 1 + i});
    }
    q_ = RandomFloats(rows_.size() * row_size(), random_, 1.5f);
    scale_ = 1.f / std::sqrt(static_cast<float>(shape.head_dim));
  }

  size_t row_size() const { return static_cast<size_t>(shape_.n_heads) * shape_.head_dim; }
  const std::vector<PlannedRow>& rows() const { return rows_; }
  Sequences& sequences() { return sequences_; }
  std::vector<size_t> All() const {
    std::vector<size_t> which(rows_.size());
    for (size_t i = 0; i < which.size(); ++i) which[i] = i;
    return which;
  }

  // The outputs of some rows, in the order given. `rounded`: as a device rounds them to bf16.
  std::vector<float> Run(const std::vector<size_t>& which, const PagedCache& cache, Backend backend,
                         int n_workers = 1, [[maybe_unused]] bool rounded = false) const {
    std::vector<PlannedRow> rows;
    EdgeBytes q(which.size() * row_size() * 4);
    for (size_t i = 0; i < which.size(); ++i) {
      rows.push_back(rows_[which[i]]);
      std::copy_n(q_.begin() + which[i] * row_size(), row_size(), q.floats() + i * row_size());
    }
    const PlanOf plan(rows);
    Output out(which.size() * row_size());
    const AttentionArgs args = {plan.plan(), q.floats(), cache.kv(), shape_.n_heads, scale_, out.data()};
    if (backend == Backend::kReference) {
      AttentionReference(args);
    } else if (backend == Backend::kCuda) {
#ifdef TANDEM_CUDA
      DeviceInputs inputs;
      AttentionArgs copy = args;
      copy.rows = inputs.Copy(args.rows, static_cast<int>(which.size()));
      copy.q = inputs.Copy(args.q, out.size());
      copy.kv = cache.CopyTo(inputs);
      const DeviceBytes device_out(out.data(), out.size() * 4);
      copy.out = reinterpret_cast<float*>(device_out.data());
      if (rounded) {
        const DeviceBytes device_rounded(out.size() * 2);
        AttentionCuda(copy, nullptr, reinterpret_cast<uint16_t*>(device_rounded.data()));
        std::vector<uint16_t> bits(out.size());
        device_rounded.Download(bits.data());
        device_out.Download(out.data());
        for (size_t i = 0; i < out.size(); ++i) {
          EXPECT_TRUE(IsPoison(out.data()[i])) << "written: " << i;
          out.data()[i] = LoadFloat(bits.data(), DType::kBf16, static_cast<int64_t>(i));
        }
      } else {
        AttentionCuda(copy, nullptr);
        device_out.Download(out.data());
      }
#endif
    } else {
      RunOnWorkers(n_workers, [&](Worker worker) { AttentionCpu(args, worker); });
    }
    out.CheckEdges();
    for (size_t i = 0; i < out.size(); ++i) EXPECT_FALSE(IsPoison(out.data()[i])) << "not written: " << i;
    return {out.data(), out.data() + out.size()};
  }

  // Against softmax in double. A score is a sum of head_dim products, scaled: error e_s. Its distance to the
  // maximum rounds once, Highway's exp is within 1 ulp, and each of the chunks rescales what came before by
  // one more exp and one product. So a weight is known to a relative e_w, as is the sum of all, and the mean
  // of the values is known to twice that and the roundings of two sums of n_keys terms.
  // CUDA: exp is within 2 ulp, and after the chunks 4 warps and 8 blocks are merged likewise. On tensor cores a query and a weight come in two parts, which leaves 2^-18 = 64 roundings of it, and a sum has 36 roundings for
  // every 16 products of either part (linear_test.cc), after a product with scale and log2(e).
  void Check(const std::vector<float>& result, Backend backend) {
    const int d = shape_.head_dim, group = shape_.n_heads / shape_.n_kv_heads;
    const bool cuda = backend == Backend::kCuda;
    const bool parts = cuda && shape_.dtype == DType::kBf16 && (d == 64 || d == 128);
    const double score_roundings = parts ? 4.5 * d + 64 + 3 : d + 2;
    for (size_t r = 0; r < rows_.size(); ++r) {
      const int slot = rows_[r].slot, n_keys = rows_[r].position + 1;
      const int n_chunks = (n_keys + kAttentionChunk - 1) / kAttentionChunk;
      for (int h = 0; h < shape_.n_heads; ++h) {
        const float* q = q_.data() + (r * shape_.n_heads + h) * d;
        std::vector<double> scores(n_keys);
        double max = -1e300, max_size = 0, total = 0;
        for (int t = 0; t < n_keys; ++t) {
          double sum = 0, size = 0;
          for (int i = 0; i < d; ++i) {
            const double product = static_cast<double>(q[i]) * sequences_.k(slot, h / group, t, i);
            sum += product;
            size += std::fabs(product);
          }
          scores[t] = sum * scale_;
          max = std::max(max, scores[t]);
          max_size = std::max(max_size, size * scale_);
        }
        for (double& score : scores) total += score = std::exp(score - max);
        const double e_s = Gamma(score_roundings) * max_size;
        const int n_merges = cuda ? n_chunks + 12 : n_chunks;
        const double e_w = 1.01 * (2 * e_s + (n_merges + 1) * (2 * max_size * kRoundoff + Gamma(6)) +
                                   (parts ? Gamma(64) : 0));
        const double sum_roundings =
            parts ? 4.5 * (n_keys + 16) + n_merges : n_keys + 2 + (cuda ? n_merges : 0);
        for (int i = 0; i < d; ++i) {
          double sum = 0, size = 0;
          for (int t = 0; t < n_keys; ++t) {
            const double v = sequences_.v(slot, h / group, t, i);
            sum += scores[t] / total * v;
            size += scores[t] / total * std::fabs(v);
          }
          ASSERT_NEAR(result[(r * shape_.n_heads + h) * d + i], sum,
                      size * (2 * e_w + 2 * Gamma(sum_roundings)))
              << "row " << r << ", head " << h << ", element " << i;
        }
      }
    }
  }

 private:
  static int LastPosition(const AttentionCase& shape) {
    int last = 0;
    for (const AttentionRun& run : shape.runs) last = std::max(last, run.n_rows ? run.last_position : 0);
    return last;
  }

  AttentionCase shape_;
  std::mt19937 random_;
  Sequences sequences_;
  std::vector<PlannedRow> rows_;
  std::vector<float> q_;
  float scale_;
};

std::string Describe(const AttentionCase& c) {
  return std::to_string(c.n_heads) + "/" + std::to_string(c.n_kv_heads) + " heads of " +
         std::to_string(c.head_dim) + ", pages of " + std::to_string(c.page_size);
}

TEST(AttentionReference, ComputedByHand) {
  const AttentionCase shape = {1, 1, 2, DType::kF32, 2, {}};
  Sequences sequences(shape, 3, *std::make_unique<std::mt19937>(1));
  const float k[3][2] = {{1, 0}, {0, 1}, {1, 1}}, v[3][2] = {{1, 10}, {2, 20}, {4, 40}};
  for (int t = 0; t < 3; ++t) {
    for (int i = 0; i < 2; ++i) {
      sequences.k(1, 0, t, i) = k[t][i];
      sequences.v(1, 0, t, i) = v[t][i];
    }
  }
  const PagedCache cache(shape, sequences, 2, 1);
  const PlanOf plan({{1, 0}, {1, 2}});
  // Scores of the second row: 0.5 * (ln 2, ln 4, ln 8) * 2, so weights 2 : 4 : 8.
  const float log2 = std::log(2.f);
  const float q[] = {5, 5, 2 * log2, 4 * log2};
  float out[4];
  AttentionReference({plan.plan(), q, cache.kv(), 1, 0.5f, out});
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[1], 10);
  EXPECT_NEAR(out[2], (2 * 1 + 4 * 2 + 8 * 4) / 14., 1e-6);
  EXPECT_NEAR(out[3], (2 * 10 + 4 * 20 + 8 * 40) / 14., 1e-5);
}

class Attention : public BackendTest {
 protected:
  // Every way in which the backend may compute.
  template <typename Body>
  void ForEachWay(Body body) const {
    if (is_cuda()) return body();
    ForEachTarget(body);
  }
};
INSTANTIATE_TEST_SUITE_P(, Attention, testing::Values(Backend::kCpu, Backend::kCuda), NameOf);

TEST_P(Attention, MatchesSoftmaxInDouble) {
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(Describe(c));
    Problem problem(c, 1);
    const PagedCache cache(c, problem.sequences(), c.page_size, 1);
    problem.Check(problem.Run(problem.All(), cache, Backend::kReference), Backend::kReference);
    ForEachWay([&] { problem.Check(problem.Run(problem.All(), cache, GetParam()), GetParam()); });
    if (HasFatalFailure()) return;
  }
}

TEST_P(Attention, ARowHasTheSameBitsInAnyCompany) {
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(Describe(c));
    Problem problem(c, 2);
    const PagedCache cache(c, problem.sequences(), c.page_size, 1);
    ForEachWay([&] {
      const std::vector<float> all = problem.Run(problem.All(), cache, GetParam());
      const size_t n = problem.row_size();
      for (size_t r : problem.All()) {
        const std::vector<float> alone = problem.Run({r}, cache, GetParam());
        ASSERT_EQ(BitsOf(alone.data(), n), BitsOf(all.data() + r * n, n)) << "row " << r;
      }
      // The same sequences in the opposite order, and every second row of each.
      std::vector<size_t> other;
      for (size_t r : problem.All()) {
        if (r % 2 == 0) other.push_back(r);
      }
      std::stable_sort(other.begin(), other.end(),
                       [&](size_t a, size_t b) { return problem.rows()[a].slot > problem.rows()[b].slot; });
      const std::vector<float> some = problem.Run(other, cache, GetParam());
      for (size_t i = 0; i < other.size(); ++i) {
        ASSERT_EQ(BitsOf(some.data() + i * n, n), BitsOf(all.data() + other[i] * n, n)) << "row " << other[i];
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_P(Attention, PagesAndWorkersDoNotMatter) {
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(Describe(c));
    Problem problem(c, 3);
    const PagedCache cache(c, problem.sequences(), c.page_size, 1);
    ForEachWay([&] {
      const std::vector<float> expected = problem.Run(problem.All(), cache, GetParam());
      for (int n_workers = 2; n_workers <= 5 && !is_cuda(); ++n_workers) {
        const std::vector<float> result = problem.Run(problem.All(), cache, GetParam(), n_workers);
        ASSERT_EQ(BitsOf(result.data(), result.size()), BitsOf(expected.data(), expected.size()))
            << n_workers;
      }
      for (int page_size : {1, 7, 16, 64, 100, 256}) {
        const PagedCache other(c, problem.sequences(), page_size, page_size);
        const std::vector<float> result = problem.Run(problem.All(), other, GetParam());
        ASSERT_EQ(BitsOf(result.data(), result.size()), BitsOf(expected.data(), expected.size()))
            << page_size;
      }
    });
    if (HasFatalFailure()) return;
  }
}

// A row sees positions 0 .. its own: NaN in later ones must not reach it, NaN in its own must.
TEST_P(Attention, SeesItsPastAlone) {
  constexpr std::pair<DType, int> kKinds[] = {
      {DType::kF32, 24}, {DType::kBf16, 24}, {DType::kBf16, 64}, {DType::kBf16, 128}};
  for (const auto& [dtype, head_dim] : kKinds) {
    for (const int n_rows : {6, 69}) {
      const AttentionCase c = {4, 2, head_dim, dtype, 8, {{0, n_rows, 69}}};
      SCOPED_TRACE(Describe(c));
      Problem problem(c, 4);
      const float nan = std::numeric_limits<float>::quiet_NaN();
      const PagedCache clean_cache(c, problem.sequences(), c.page_size, 1);
      const size_t n = problem.row_size();
      for (const bool key : {true, false}) {
        Problem spoiled(c, 4);
        (key ? spoiled.sequences().k(0, 1, 66, 0) : spoiled.sequences().v(0, 1, 66, 0)) = nan;
        const PagedCache cache(c, spoiled.sequences(), c.page_size, 1);
        ForEachWay([&] {
          const std::vector<float> clean = problem.Run(problem.All(), clean_cache, GetParam());
          const std::vector<float> result = spoiled.Run(spoiled.All(), cache, GetParam());
          for (size_t r : problem.All()) {
            const bool sees = problem.rows()[r].position >= 66;
            if (!sees) {
              ASSERT_EQ(BitsOf(result.data() + r * n, n), BitsOf(clean.data() + r * n, n)) << r;
            }
            // Heads 2 and 3 use kv head 1.
            const bool is_nan = std::isnan(result[r * n + 2 * c.head_dim]);
            EXPECT_EQ(is_nan, sees) << "row " << r;
            EXPECT_FALSE(std::isnan(result[r * n])) << "row " << r;
          }
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Forwards of more rows than decoding has may be computed in another way; then among themselves likewise.
constexpr AttentionCase kPrefillCases[] = {
    {8, 2, 128, DType::kBf16, 16, {{0, 90, 700}, {1, 20, 19}}},
    {4, 4, 64, DType::kBf16, 5, {{0, 70, 69}}},
    {2, 1, 24, DType::kBf16, 16, {{0, 70, 69}}},
    {6, 2, 64, DType::kBf16, 16, {{1, 3, 1100}, {0, 129, 128}}},
    {16, 1, 128, DType::kBf16, 16, {{2, 2, 70}, {1, 1, 0}, {0, 66, 130}}},  // runs that share a block's rows
    {4, 2, 128, DType::kBf16, 16, {{0, 261, 300}, {1, 7, 40}}},             // so many that blocks are larger
    {3, 1, 64, DType::kBf16, 16, {{1, 40, 200}, {0, 240, 239}}},
};
TEST_P(Attention, Prefill) {
  for (const AttentionCase& c : kPrefillCases) {
    SCOPED_TRACE(Describe(c));
    Problem problem(c, 6);
    const PagedCache cache(c, problem.sequences(), c.page_size, 1);
    const size_t n = problem.row_size();
    ForEachWay([&] {
      const std::vector<float> all = problem.Run(problem.All(), cache, GetParam());
      problem.Check(all, GetParam());
      if (is_cuda()) {
        const std::vector<float> rounded = problem.Run(problem.All(), cache, GetParam(), 1, /*rounded=*/true);
        for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(rounded[i], RoundToBf16(all[i])) << i;
      }
      std::vector<size_t> longest;  // the rows of one sequence alone
      for (size_t r : problem.All()) {
        if (problem.rows()[r].slot == 0) longest.push_back(r);
      }
      ASSERT_GT(longest.size(), static_cast<size_t>(kAttentionDecodeRows));
      for (const size_t n_some : {longest.size(), size_t{kAttentionDecodeRows + 1}}) {
        longest.resize(n_some);
        const std::vector<float> some =
            problem.Run(longest, PagedCache(c, problem.sequences(), 7, 7), GetParam());
        for (size_t i = 0; i < longest.size(); ++i) {
          ASSERT_EQ(BitsOf(some.data() + i * n, n), BitsOf(all.data() + longest[i] * n, n))
              << "row " << longest[i] << ", " << n_some << " rows";
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

// Scores far apart, over several chunks: the running maximum moves up late.
TEST_P(Attention, LargeScores) {
  for (const AttentionCase& c : {AttentionCase{1, 1, 16, DType::kF32, 16, {{0, 1, 299}}},
                                 AttentionCase{1, 1, 64, DType::kBf16, 16, {{0, 1, 1299}}}}) {
    Problem problem(c, 5);
    for (int t = 0; t <= c.runs[0].last_position; ++t) {
      for (int i = 0; i < c.head_dim; ++i) {
        float& k = problem.sequences().k(0, 0, t, i);
        k = RoundToBf16(k * static_cast<float>(t) / 8);
      }
    }
    const PagedCache cache(c, problem.sequences(), c.page_size, 1);
    problem.Check(problem.Run(problem.All(), cache, Backend::kReference), Backend::kReference);
    ForEachWay([&] { problem.Check(problem.Run(problem.All(), cache, GetParam()), GetParam()); });
  }
}

}  // namespace
}  // namespace tandem
