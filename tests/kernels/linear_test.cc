// ctest-label: concurrent
#include "kernels/linear/linear.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include "kernels/linear/linear_library.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/util.h"

namespace tandem {
namespace {

constexpr float kEps = 1e-5f;
constexpr int kMaxRows = 64;

// A linear step over random numbers, and what it must give, computed here in double.
class Problem {
 public:
  Problem(const LinearCase& shape, int n_in_rows, std::mt19937& random, size_t gap = 0)
      : shape_(shape),
        gap_(gap),
        in_(static_cast<int64_t>(n_in_rows), shape.in_dim, DType::kF32, random),
        norm_(1, shape.in_dim, shape.dtype[0], random, gap) {
    for (int64_t i = 0; i < static_cast<int64_t>(n_in_rows) * shape.in_dim; i += 3) {
      in_.Set(i, Bf16Tie(static_cast<float>(in_.at(0, i))));
    }
    for (int s = 0; s < 3 && shape.out_dim[s] != 0; ++s) {
      weights_.push_back(
          std::make_unique<Matrix>(shape.out_dim[s], shape.in_dim, shape.dtype[s], random, gap));
      biases_.push_back(std::make_unique<Matrix>(1, shape.out_dim[s], shape.dtype[s], random, gap));
    }
  }

  int n_segments() const { return static_cast<int>(weights_.size()); }
  Matrix& in() { return in_; }
  Matrix& weight(int s) { return *weights_[s]; }

  // Outputs of `rows` (rows of the input) in the order given, one vector for each segment: row-major bits.
  // in_order: the rows are 0, 1, 2, ..., and `src` is left out. `library`: of a device.
  std::vector<std::vector<float>> Run(const std::vector<int32_t>& rows, Backend backend, int n_workers = 1,
                                      const std::vector<int32_t>& dst = {}, int max_rows = kMaxRows,
                                      bool in_order = false,
                                      [[maybe_unused]] LinearLibrary* library = nullptr) const {
    const auto n_rows = static_cast<int32_t>(rows.size());
    const int n_out_rows = dst.empty() ? n_rows : 1 + *std::max_element(dst.begin(), dst.end());
    LinearArgs args = {};
    args.in = static_cast<const float*>(in_.view().data);
    args.in_stride = shape_.in_dim;
    args.in_dim = shape_.in_dim;
    if (shape_.norm) args.norm = norm_.view();
    args.norm_eps = kEps;
    args.round_bf16 = shape_.round_bf16;
    args.n_rows = &n_rows;
    args.max_rows = max_rows;
    args.src = in_order ? nullptr : rows.data();
    args.dst = dst.empty() ? nullptr : dst.data();
    args.n_segments = n_segments();
    std::vector<std::unique_ptr<Output>> outputs;
    for (int s = 0; s < n_segments(); ++s) {
      const int64_t n = shape_.out_dim[s];
      outputs.push_back(std::make_unique<Output>(n_out_rows * (n + kStridePadding)));
      LinearSegment& segment = args.segment[s];
      segment.weight = weights_[s]->view();
      if (shape_.bias) segment.bias = biases_[s]->view();
      segment.out = outputs[s]->data();
      segment.out_stride = n + kStridePadding;
      segment.accumulate = shape_.accumulate;
      if (shape_.accumulate) {
        for (int m = 0; m < n_rows; ++m) {
          for (int64_t o = 0; o < n; ++o)
            segment.out[Target(dst, m) * segment.out_stride + o] = Residual(rows[m], o);
        }
      }
    }
    if (backend == Backend::kReference) {
      LinearReference(args);
    } else if (backend == Backend::kCuda) {
#ifdef TANDEM_CUDA
      RunOnDevice(args, rows, dst, outputs, library);
#endif
    } else {
      Output scratch(static_cast<size_t>(n_workers) * LinearScratch(max_rows, shape_.in_dim));
      args.scratch = scratch.data();
      RunOnWorkers(n_workers, [&](Worker worker) { LinearCpu(args, worker); });
      scratch.CheckEdges();
    }
    std::vector<std::vector<float>> results;
    for (int s = 0; s < n_segments(); ++s) {
      outputs[s]->CheckEdges();
      const int64_t stride = args.segment[s].out_stride;
      std::vector<float>& result = results.emplace_back();
      std::vector<bool> mine(outputs[s]->size());
      for (int m = 0; m < n_rows; ++m) {
        for (int64_t o = 0; o < shape_.out_dim[s]; ++o) {
          const int64_t i = Target(dst, m) * stride + o;
          mine[i] = true;
          EXPECT_FALSE(IsPoison(outputs[s]->data()[i])) << "not written: row " << m << ", output " << o;
          result.push_back(outputs[s]->data()[i]);
        }
      }
      for (size_t i = 0; i < mine.size(); ++i) {
        EXPECT_TRUE(mine[i] || IsPoison(outputs[s]->data()[i])) << "written: " << i;
      }
    }
    return results;
  }

  // Compares with sums in double. Errors: the prepared input has none, for its product with the norm and its
  // rounding to bf16 are defined to the bit. n products and n - 1 additions round in W in'; r is known to a
  // relative error and its product with the sum rounds (without a norm it is 1: no error); then come the
  // additions of bias and residual. One more stands for the sums here.
  // Tensor cores take 16 products, which are exact, and the sum so far; they cut each of the 17 terms, and
  // the result, at 2^-23 of the largest (Fasi et al. 2021, Numerical behavior of NVIDIA tensor cores): 36
  // roundings for 16 products. The sums of 8 strands, and bias and residual come to 18.
  // A library's rows are rounded with r in them, which is known to `of_scale` roundings: where that leaves open to which of
  // two neighbours a value goes, either will do.
  void Check(const std::vector<int32_t>& rows, const std::vector<std::vector<float>>& results,
             Backend backend, bool library = false) const {
    const int n = shape_.in_dim;
    // Sum of squares n, mean and eps 2, halved by the root (to first order: 1.01); root and reciprocal 2; the
    // product with the sum.
    const double of_scale = shape_.norm ? ((n + 2) / 2. + 2) * 1.01 + 1 : 0;
    const double roundings = (backend == Backend::kCuda ? 2.25 * n + 36 + 18 : n + 3) + of_scale;
    std::vector<double> x(n), open(n, 0);
    for (size_t m = 0; m < rows.size(); ++m) {
      double squares = 0;
      for (int k = 0; k < n; ++k) squares += in_.at(rows[m], k) * in_.at(rows[m], k);
      const double r = shape_.norm ? 1 / std::sqrt(squares / n + kEps) : 1;
      const double scale = library ? 1 : r;
      for (int k = 0; k < n; ++k) {
        const auto value = static_cast<float>(in_.at(rows[m], k) * (shape_.norm ? norm_.at(0, k) : 1));
        if (library && shape_.norm) {
          const double error = std::fabs(value * r) * Gamma(of_scale + 1);
          const double low = RoundToBf16(static_cast<float>(value * r - error)),
                       high = RoundToBf16(static_cast<float>(value * r + error));
          x[k] = low;
          open[k] = high - low;
          continue;
        }
        x[k] = shape_.round_bf16 ? RoundToBf16(value) : value;
      }
      for (int s = 0; s < n_segments(); ++s) {
        for (int o = 0; o < shape_.out_dim[s]; ++o) {
          const double bias = shape_.bias ? biases_[s]->at(0, o) : 0;
          const double residual = shape_.accumulate ? Residual(rows[m], o) : 0;
          double sum = 0, size = 0, either = 0;
          for (int k = 0; k < n; ++k) {
            sum += weights_[s]->at(o, k) * x[k];
            size += std::fabs(weights_[s]->at(o, k) * x[k]);
            either += std::fabs(weights_[s]->at(o, k)) * open[k];
          }
          ASSERT_NEAR(results[s][m * shape_.out_dim[s] + o], scale * sum + bias + residual,
                      Gamma(roundings) * (scale * size + either) + either +
                          Gamma(2) * (std::fabs(bias) + std::fabs(residual)))
              << "row " << m << " of " << rows.size() << ", segment " << s << ", output " << o;
        }
      }
    }
  }

 private:
#ifdef TANDEM_CUDA
  // The same step on copies in the device's memory.
  void RunOnDevice(LinearArgs args, const std::vector<int32_t>& rows, const std::vector<int32_t>& dst,
                   const std::vector<std::unique_ptr<Output>>& outputs, LinearLibrary* library) const {
    DeviceInputs inputs;
    const size_t offset = 2 * gap_;  // as little aligned as a loaded tensor may be
    std::vector<float> in(args.in, args.in + in_.view().n_rows * args.in_stride);
    in.resize(std::max<size_t>(in.size(), args.max_rows * args.in_stride), Poison());
    args.in = inputs.Copy(in.data(), in.size());
    args.norm = inputs.Copy(args.norm, offset);
    args.n_rows = inputs.Copy(args.n_rows, 1);
    if (args.src) args.src = inputs.Copy(args.src, rows.size());
    if (args.dst) args.dst = inputs.Copy(args.dst, dst.size());
    std::vector<std::unique_ptr<DeviceBytes>> device_outputs;
    for (int s = 0; s < args.n_segments; ++s) {
      LinearSegment& segment = args.segment[s];
      segment.weight = inputs.Copy(segment.weight, offset);
      segment.bias = inputs.Copy(segment.bias, offset);
      device_outputs.push_back(std::make_unique<DeviceBytes>(segment.out, outputs[s]->size() * 4));
      segment.out = reinterpret_cast<float*>(device_outputs.back()->data());
    }
    const DeviceBytes scratch(LinearScratch(args.max_rows, args.in_dim) * 4);
    args.scratch = reinterpret_cast<float*>(scratch.data());
    LinearCuda(args, nullptr, library);
    for (int s = 0; s < args.n_segments; ++s) device_outputs[s]->Download(outputs[s]->data());
  }
#endif

  static constexpr int kStridePadding = 3;
  static int Target(const std::vector<int32_t>& dst, int m) { return dst.empty() ? m : dst[m]; }
  static float Residual(int row, int64_t o) { return 0.25f * static_cast<float>((row * 7 + o * 3) % 11) - 1; }

  LinearCase shape_;
  size_t gap_;
  Matrix in_;
  Matrix norm_;
  std::vector<std::unique_ptr<Matrix>> weights_, biases_;
};

std::vector<int32_t> Iota(int n) {
  std::vector<int32_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

std::string Describe(const LinearCase& c) {
  return std::to_string(c.in_dim) + " -> " + std::to_string(c.out_dim[0]) + " + " +
         std::to_string(c.out_dim[1]) + " + " + std::to_string(c.out_dim[2]);
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return BitsOf(a.data(), a.size()) == BitsOf(b.data(), b.size());
}

TEST(LinearReference, ComputedByHand) {
  const float in[] = {1, 2, -2};
  const uint16_t weights[] = {FloatToBf16(1), FloatToBf16(0.5f), FloatToBf16(-1),  //
                              FloatToBf16(0), FloatToBf16(4),    FloatToBf16(2)};
  const float norm[] = {3, 6, 6};
  const float bias[] = {10, 20};
  float out[] = {100, 200};
  const int32_t n_rows = 1;
  LinearArgs args = {};
  args.in = in;
  args.in_stride = 3;
  args.in_dim = 3;
  args.n_rows = &n_rows;
  args.max_rows = 1;
  args.n_segments = 1;
  args.segment[0] = {{weights, DType::kBf16, 2, 3}, {}, out, 2, false};
  LinearReference(args);
  EXPECT_EQ(out[0], 1 + 1 + 2);
  EXPECT_EQ(out[1], 8 - 4);

  args.segment[0].bias = {bias, DType::kF32, 1, 2};
  args.segment[0].accumulate = true;
  LinearReference(args);
  EXPECT_EQ(out[0], 4 + 10 + 4);
  EXPECT_EQ(out[1], 4 + 20 + 4);

  // The mean of the squares is 3; with eps 6 r is 1 / 3, and the prepared input 3, 12, -12.
  args.norm = {norm, DType::kF32, 1, 3};
  args.norm_eps = 6;
  LinearReference(args);
  EXPECT_EQ(out[0], 7 + 10 + 18);  // r takes in neither the bias nor the residual
  EXPECT_EQ(out[1], 8 + 20 + 28);
  args.segment[0].accumulate = false;
  args.segment[0].bias = {};
  LinearReference(args);
  EXPECT_EQ(out[0], 1 + 2 + 4);
  EXPECT_EQ(out[1], 16 - 8);

  // 257 rounds to 256 in bf16, and 257 / 3 would to 85.5: what is rounded is the input without r.
  const float large[] = {257, 0, 0};
  args.norm.data = large;
  args.round_bf16 = true;
  LinearReference(args);
  EXPECT_EQ(out[0], 256.f / 3);
  args.round_bf16 = false;

  // 1 + 2^-9 rounds to 1 in bf16.
  const float fine[] = {1.f + 1.f / 512, 0, 0};
  args.norm = {};
  args.in = fine;
  LinearReference(args);
  EXPECT_EQ(out[0], 1.f + 1.f / 512);
  args.round_bf16 = true;
  LinearReference(args);
  EXPECT_EQ(out[0], 1);
}

class Linear : public BackendTest {
 protected:
  // Every way in which the backend may compute.
  template <typename Body>
  void ForEachWay(Body body) const {
    if (is_cuda()) return body();
    ForEachTarget(body);
  }
};
INSTANTIATE_TEST_SUITE_P(, Linear, testing::Values(Backend::kCpu, Backend::kCuda), NameOf);

TEST_P(Linear, MatchesSumsInDouble) {
  for (const LinearCase& c : kLinearCases) {
    SCOPED_TRACE(Describe(c));
    std::mt19937 random(1);
    const Problem problem(c, kMaxRows, random, /*gap=*/c.in_dim % 2);
    for (int n_rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 32, 64}) {
      const std::vector<int32_t> rows = Iota(n_rows);
      if (n_rows <= 3) {
        problem.Check(rows, problem.Run(rows, Backend::kReference), Backend::kReference);
      }
      ForEachWay([&] { problem.Check(rows, problem.Run(rows, GetParam()), GetParam()); });
      if (HasFatalFailure()) return;
    }
  }
}

// The launch is sized for max_rows; n_rows, known on the device alone, may be less.
TEST_P(Linear, RoomForMoreRowsDoesNotMatter) {
  for (const LinearCase& c : kLinearCases) {
    SCOPED_TRACE(Describe(c));
    std::mt19937 random(8);
    const Problem problem(c, kMaxRows, random);
    ForEachWay([&] {
      const auto expected = problem.Run(Iota(3), GetParam());
      for (int max_rows : {3, 5, 8, 9, 16, 20, 40, 200}) {
        const auto result = problem.Run(Iota(3), GetParam(), 1, {}, max_rows, /*in_order=*/true);
        for (int s = 0; s < problem.n_segments(); ++s)
          ASSERT_TRUE(SameBits(result[s], expected[s])) << max_rows;
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_P(Linear, LargeShapes) {
  for (const LinearCase& c : kLargeLinearCases) {
    SCOPED_TRACE(Describe(c));
    std::mt19937 random(9);
    constexpr int kMost = 150;  // more than two passes over the weights
    const Problem problem(c, kMost, random);
    const auto all = problem.Run(Iota(kMost), GetParam(), 1, {}, kMost, /*in_order=*/true);
    const std::vector<int32_t> few = {0, 70, 149};
    problem.Check(few, problem.Run(few, GetParam()), GetParam());
    if (HasFatalFailure()) return;
    for (int n_rows : {1, 5, 8, 9, 12, 16, 17, 29, 32, 33, 64}) {
      const auto some = problem.Run(Iota(n_rows), GetParam(), 1, {}, n_rows);
      for (int s = 0; s < problem.n_segments(); ++s) {
        const std::vector<float> begin(all[s].begin(), all[s].begin() + some[s].size());
        ASSERT_TRUE(SameBits(some[s], begin)) << n_rows << " rows";
      }
    }
    const auto again = problem.Run(few, GetParam());
    for (int s = 0; s < problem.n_segments(); ++s) {
      for (size_t i = 0; i < few.size(); ++i) {
        const auto n = static_cast<size_t>(c.out_dim[s]);
        const auto at = all[s].begin() + few[i] * n;
        ASSERT_TRUE(SameBits({again[s].begin() + i * n, again[s].begin() + (i + 1) * n}, {at, at + n}))
            << few[i];
      }
    }
  }
}

#ifdef TANDEM_CUDA
class LinearCudaLibrary : public testing::Test {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(kTestGpu);
    library_ = LinearLibrary::Make();
    ASSERT_NE(library_, nullptr);
  }
  std::unique_ptr<LinearLibrary> library_;
};

// Shapes that are not for the library come out as they do without.
TEST_F(LinearCudaLibrary, MatchesSumsInDouble) {
  std::vector<LinearCase> cases(std::begin(kLinearCases), std::end(kLinearCases));
  cases.insert(cases.end(), std::begin(kLargeLinearCases), std::end(kLargeLinearCases));
  for (const LinearCase& c : cases) {
    SCOPED_TRACE(Describe(c));
    std::mt19937 random(10);
    constexpr int kMost = 130;
    const Problem problem(c, kMost, random);
    const bool wide = c.round_bf16 && c.in_dim % 32 == 0 && c.dtype[0] == DType::kBf16;
    for (int n_rows : {kMost, 65, 64}) {
      const bool library = wide && n_rows > 64;
      const auto run = [&] {
        return problem.Run(Iota(n_rows), Backend::kCuda, 1, {}, n_rows, /*in_order=*/true, library_.get());
      };
      const auto result = run();
      // A few rows, for what the library computes in tiles does not differ from row to row.
      std::vector<int32_t> few = {0, 63, n_rows - 1};
      std::vector<std::vector<float>> of_few;
      for (int s = 0; s < problem.n_segments(); ++s) {
        std::vector<float>& values = of_few.emplace_back();
        for (int row : few) {
          const auto at = result[s].begin() + static_cast<int64_t>(row) * c.out_dim[s];
          values.insert(values.end(), at, at + c.out_dim[s]);
        }
      }
      problem.Check(few, of_few, Backend::kCuda, library);
      if (HasFatalFailure()) return;
      const auto again = run();
      for (int s = 0; s < problem.n_segments(); ++s) ASSERT_TRUE(SameBits(result[s], again[s])) << n_rows;
    }
  }
}

// What a product without a norm would round, the step before it may.
TEST_F(LinearCudaLibrary, RowsRoundedBefore) {
  constexpr int kRows = 70, kIn = 96, kOut = 40;
  std::mt19937 random(11);
  const Matrix weight(kOut, kIn, DType::kBf16, random);
  const std::vector<float> in = RandomFloats(kRows * kIn, random);
  std::vector<uint16_t> rounded_in;
  for (float value : in) rounded_in.push_back(FloatToBf16(value));
  const std::vector<float> poison(in.size(), Poison());
  const int32_t n_rows = kRows;
  DeviceInputs inputs;
  const DeviceBytes out(kRows * kOut * 4), scratch(LinearScratch(kRows, kIn) * 4);
  LinearArgs args = {};
  args.in = inputs.Copy(in.data(), in.size());
  args.in_stride = args.in_dim = kIn;
  args.round_bf16 = true;
  args.n_rows = inputs.Copy(&n_rows, 1);
  args.max_rows = kRows;
  args.n_segments = 1;
  args.segment[0] = {inputs.Copy(weight.view()), {}, reinterpret_cast<float*>(out.data()), kOut, false};
  args.scratch = reinterpret_cast<float*>(scratch.data());
  EXPECT_EQ(RoundedInput(args, library_.get()), nullptr);  // somebody else may read `in`
  args.only_reader = true;
  EXPECT_EQ(RoundedInput(args, nullptr), nullptr);
  uint16_t* rounded = RoundedInput(args, library_.get());
  ASSERT_NE(rounded, nullptr);

  std::vector<float> expected(kRows * kOut), result(kRows * kOut);
  LinearCuda(args, nullptr, library_.get());
  out.Download(expected.data());
  cuda::Upload(kTestGpu, rounded, rounded_in.data(), rounded_in.size() * 2);
  args.in = inputs.Copy(poison.data(), poison.size());
  LinearCuda(args, nullptr, library_.get(), /*in_rounded=*/true);
  out.Download(result.data());
  EXPECT_TRUE(SameBits(result, expected));

  args.norm = {args.in, DType::kF32, 1, kIn};
  EXPECT_EQ(RoundedInput(args, library_.get()), nullptr);
  args.norm = {};
  args.max_rows = 64;
  EXPECT_EQ(RoundedInput(args, library_.get()), nullptr);
}
#endif

// Every length of a row's end, with weights that end at or one byte before a page that may not be read.
TEST_P(Linear, OddSizesAndAddresses) {
  std::mt19937 random(2);
  for (int in_dim = 1; in_dim < 200; in_dim += 2) {
    const DType dtype = in_dim % 3 == 0 ? DType::kF32 : in_dim % 3 == 1 ? DType::kBf16 : DType::kF16;
    const LinearCase c = {in_dim, {1 + in_dim % 5, 0, 0}, {dtype}, in_dim % 4 == 1, false, false, false};
    SCOPED_TRACE(Describe(c));
    for (size_t gap : {0, 1}) {
      const Problem problem(c, 3, random, gap);
      ForEachWay([&] { problem.Check(Iota(3), problem.Run(Iota(3), GetParam()), GetParam()); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Linear, ARowHasTheSameBitsInAnyCompany) {
  for (const LinearCase& c : kLinearCases) {
    SCOPED_TRACE(Describe(c));
    std::mt19937 random(3);
    const Problem problem(c, kMaxRows, random);
    ForEachWay([&] {
      std::vector<std::vector<std::vector<float>>> alone;
      for (int row = 0; row < kMaxRows; ++row) alone.push_back(problem.Run({row}, GetParam()));
      for (int n_rows = 2; n_rows <= kMaxRows; n_rows += n_rows < 16 ? 1 : 16) {
        std::vector<int32_t> rows = Iota(kMaxRows);
        std::shuffle(rows.begin(), rows.end(), random);
        rows.resize(n_rows);
        const auto together = problem.Run(rows, GetParam());
        for (int s = 0; s < problem.n_segments(); ++s) {
          const int n = c.out_dim[s];
          for (int m = 0; m < n_rows; ++m) {
            const auto begin = together[s].begin() + m * n;
            ASSERT_TRUE(SameBits({begin, begin + n}, alone[rows[m]][s])) << "row " << m << " of " << n_rows;
          }
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST(LinearCpu, AnyNumberOfWorkersGivesTheSameBits) {
  for (const LinearCase& c : kLinearCases) {
    SCOPED_TRACE(Describe(c));
    std::mt19937 random(4);
    const Problem problem(c, 8, random);
    ForEachTarget([&] {
      for (int n_rows : {1, 6, 8}) {
        const auto one = problem.Run(Iota(n_rows), Backend::kCpu);
        for (int n_workers = 2; n_workers <= 5; ++n_workers) {
          const auto many = problem.Run(Iota(n_rows), Backend::kCpu, n_workers);
          for (int s = 0; s < problem.n_segments(); ++s) ASSERT_TRUE(SameBits(one[s], many[s])) << n_workers;
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_P(Linear, RowsGoWhereDstSays) {
  std::mt19937 random(5);
  for (const LinearCase& c :
       {LinearCase{48, {20, 0, 0}, {DType::kBf16}, false, false, true, false},
        LinearCase{128, {20, 70, 0}, {DType::kBf16, DType::kBf16}, true, true, true, true}}) {
    SCOPED_TRACE(Describe(c));
    const Problem problem(c, 64, random);
    for (const int n_rows : {7, 16, 17, 50}) {
      std::vector<int32_t> rows = Iota(64), dst = Iota(80);
      std::shuffle(rows.begin(), rows.end(), random);
      std::shuffle(dst.begin(), dst.end(), random);
      rows.resize(n_rows);
      dst.resize(n_rows);
      ForEachWay([&] {
        problem.Check(rows, problem.Run(rows, GetParam(), 2, dst, /*max_rows=*/n_rows), GetParam());
      });
      problem.Check(rows, problem.Run(rows, Backend::kReference, 1, dst), Backend::kReference);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Linear, NoRowsWriteNothing) {
  std::mt19937 random(6);
  for (const LinearCase& c : kLinearCases) {
    SCOPED_TRACE(Describe(c));
    const Problem problem(c, 1, random);
    for (int max_rows : {1, 16, 32, 64})
      ForEachWay([&] { EXPECT_TRUE(problem.Run({}, GetParam(), 1, {}, max_rows)[0].empty()); });
  }
}

// The padding of a row's end must not take in the row after it, nor a row of the input its neighbours.
TEST_P(Linear, InfinitiesAndNansStayWhereTheyBelong) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int in_dim : {5, 37, 64}) {
      const LinearCase c = {in_dim, {6, 0, 0}, {dtype}, true, false, false, true};
      std::mt19937 random(7);
      Problem problem(c, 4, random);
      const auto clean = problem.Run(Iota(4), GetParam());
      // F16 has no infinity in Matrix::Set; a NaN input must spread over its own row's outputs alone all the
      // same.
      if (dtype != DType::kF16) {
        for (int k = 0; k < in_dim; ++k) problem.weight(0).Set(3 * in_dim + k, infinity);
      }
      problem.in().Set(2 * in_dim + in_dim - 1, std::numeric_limits<float>::quiet_NaN());
      ForEachWay([&] {
        const auto result = problem.Run(Iota(4), GetParam());
        for (int m = 0; m < 4; ++m) {
          for (int o = 0; o < 6; ++o) {
            const float value = result[0][m * 6 + o];
            if (m == 2) {
              EXPECT_TRUE(std::isnan(value)) << m << " " << o;
            } else if (o == 3 && dtype != DType::kF16) {
              EXPECT_FALSE(std::isfinite(value)) << m << " " << o;
            } else {
              EXPECT_TRUE(std::isfinite(value)) << m << " " << o;
            }
          }
        }
      });
      const auto after = problem.Run(Iota(4), GetParam());
      EXPECT_EQ(BitsOf(after[0][0]), BitsOf(clean[0][0]));
    }
  }
}

}  // namespace
}  // namespace tandem
