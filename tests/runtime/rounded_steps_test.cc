// On a CUDA device a step may leave its rows rounded for the product behind it (RoundedInput in kernels/linear/linear.h). The
// product's outputs have the same bits as with rows in fp32 between the two, and those are then left alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/silu_gate/silu_gate.h"
#include "tests/kernels/util.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

constexpr int kRows = 70, kOut = 40;

class RoundedSteps : public testing::Test {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(kCudaDevice);
    arena_ = std::make_unique<Arena>(kCudaDevice, Access::kShared);
  }

  float* Floats(const std::vector<float>& values) { return arena_->Copy(values.data(), values.size()); }
  uint16_t* Halves(size_t n) {
    std::vector<uint16_t> halves;
    for (float value : RandomFloats(n, random_)) halves.push_back(FloatToBf16(value));
    return arena_->Copy(halves.data(), n);
  }

  LinearArgs ProductOf(const float* in, int in_dim, const int32_t* n_rows, bool only_reader) {
    LinearArgs args = {};
    args.in = in;
    args.in_stride = args.in_dim = in_dim;
    args.round_bf16 = true;
    args.n_rows = n_rows;
    args.max_rows = kRows;
    args.n_segments = 1;
    args.segment[0] = {weight_, {}, Floats(std::vector<float>(kRows * kOut, Poison())), kOut, false};
    args.only_reader = only_reader;
    args.scratch = arena_->New<float>(LinearScratch(kRows, in_dim));
    return args;
  }
  static std::vector<float> Outputs(const LinearArgs& args, int n_rows) {
    return {args.segment[0].out, args.segment[0].out + n_rows * kOut};
  }
  void Run(const Program& program, bool check_steps) {
    auto executor = NewExecutor({.device = kCudaDevice, .check_steps = check_steps});
    ASSERT_TRUE(executor.ok()) << executor.status();
    ASSERT_TRUE((*executor)->Prepare(program).ok());
    (*executor)->Enqueue(program);
    const absl::Status status = (*executor)->WaitFor(0);
    ASSERT_TRUE(status.ok()) << status;
  }

  // record(program, only_reader) adds both steps and returns the product; `between` is what the first one may leave alone.
  template <typename Record>
  void Compare(Record record, int n_rows, const float* between, size_t n_between) {
    std::vector<float> expected;
    for (const bool only_reader : {false, true}) {
      for (const bool check_steps : {true, false}) {
        SCOPED_TRACE(only_reader ? "rounded" : "fp32");
        std::fill_n(const_cast<float*>(between), n_between, Poison());
        Program program;
        const LinearArgs product = record(program, only_reader);
        Run(program, check_steps);
        if (HasFatalFailure()) return;
        const std::vector<float> result = Outputs(product, n_rows);
        for (float value : result) ASSERT_TRUE(std::isfinite(value));
        if (expected.empty()) expected = result;
        ASSERT_EQ(BitsOf(result.data(), result.size()), BitsOf(expected.data(), expected.size()));
        for (size_t i = 0; i < n_between; ++i) ASSERT_EQ(IsPoison(between[i]), only_reader) << i;
      }
    }
  }

  std::mt19937 random_{1};
  std::unique_ptr<Arena> arena_;
  View weight_;
};

TEST_F(RoundedSteps, Attention) {
  constexpr int kHeads = 4, kDim = 64, kIn = kHeads * kDim, kPageSize = 16;
  std::vector<PlannedRow> planned;
  for (int i = 0; i < kRows; ++i) planned.push_back({0, i});
  const PlanOf plan(planned);
  const std::vector<int32_t> pages = {3, 0, 4, 1, 2};
  KvLayer kv;
  kv.dtype = DType::kBf16;
  kv.page_size = kPageSize;
  kv.n_kv_heads = 2;
  kv.head_dim = kDim;
  kv.page_table = arena_->Copy(pages.data(), pages.size());
  kv.max_pages = static_cast<int32_t>(pages.size());
  kv.k = Halves(pages.size() * kPageSize * kv.n_kv_heads * kDim);
  kv.v = Halves(pages.size() * kPageSize * kv.n_kv_heads * kDim);
  weight_ = {Halves(kOut * kIn), DType::kBf16, kOut, kIn};
  const AttentionArgs attention = {plan.CopyTo(*arena_),
                                   Floats(RandomFloats(kRows * kIn, random_)),
                                   kv,
                                   kHeads,
                                   1 / std::sqrt(static_cast<float>(kDim)),
                                   arena_->New<float>(kRows * kIn)};
  Compare(
      [&](Program& program, bool only_reader) {
        program.Add(attention);
        const LinearArgs product = ProductOf(attention.out, kIn, attention.rows.n_rows, only_reader);
        program.Add(product);
        return product;
      },
      kRows, attention.out, kRows * kIn);
}

// The gate's own input stands where its output goes: what is left alone is that.
TEST_F(RoundedSteps, SiluGate) {
  constexpr int kIn = 96;
  const int32_t n_rows = 67;
  const std::vector<float> gate = RandomFloats(kRows * kIn, random_, 4),
                           up = RandomFloats(kRows * kIn, random_, 3);
  weight_ = {Halves(kOut * kIn), DType::kBf16, kOut, kIn};
  std::vector<float> expected;
  for (const bool only_reader : {false, true}) {
    const SiluGateArgs silu = {arena_->Copy(&n_rows, 1), kIn, Floats(gate), Floats(up)};
    const LinearArgs product = ProductOf(silu.gate, kIn, silu.n_rows, only_reader);
    Program program;
    program.Add(silu);
    program.Add(product);
    Run(program, /*check_steps=*/false);
    if (HasFatalFailure()) return;
    const std::vector<float> result = Outputs(product, n_rows);
    if (expected.empty()) expected = result;
    EXPECT_EQ(BitsOf(result.data(), result.size()), BitsOf(expected.data(), expected.size()));
    EXPECT_EQ(std::vector<float>(silu.gate, silu.gate + n_rows * kIn) ==
                  std::vector<float>(gate.begin(), gate.begin() + n_rows * kIn),
              only_reader);
  }
}

}  // namespace
}  // namespace tandem
