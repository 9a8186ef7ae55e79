// Forwards in bf16 against logits in fp32: Hugging Face's for the golden checkpoints, the plain interpreter's for two
// checkpoints of sizes that a device's tensor cores take.
//
// The tolerance. A forward in bf16 rounds the inputs of its products and the keys and values of its cache to 8 bits of
// significand, and computes the rest in fp32, whose roundings are 2^16 times smaller. Rounding m 2^e, 1 <= m < 2, moves it
// by an error that is spread evenly over [-u, u] 2^e with u = 2^-8: relative to the value, by u / (m sqrt(3)) in the root
// of the mean square, which is the largest at m = 1. So each rounding is of the size of a disturbance by +-u / sqrt(3), or
// less (down to half of that, at m = 2), and like it independent of the others. How much of thousands of such errors
// arrives at the logits, through residuals, norms, softmax and layers, is the network's business and follows from its
// weights; errors of this size pass it in a nearly linear way. So it is computed: the interpreter, in fp32, multiplies
// whatever bf16 rounds by 1 +- u / sqrt(3). The root of the mean square of what that does to the logits, over a number of
// draws, is the tolerance of a bf16 forward's root mean square error over all positions.
//
// A single position's error hangs on few roundings, those that move the scores of its one or two largest keys, so that it
// is spread like a normal variable and not like a mean of many: four times its own root mean square is its tolerance.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/stream/stream_plan.h"
#include "tests/runtime/model/forward_runner.h"
#include "tests/runtime/model/random_checkpoint.h"

namespace tandem {
namespace {

constexpr int kDraws = 8;
const double kDisturbance = 0x1p-8 / std::sqrt(3.0);

constexpr const char* kAll[] = {"llama2_mha", "llama3_gqa",    "llama_mqa_sharded", "qwen3_gqa",
                                "qwen3_fp32", "llama_aligned", "qwen3_aligned"};

// Mean squares of differences of logits, position after position, all sequences in a row.
struct Errors {
  std::vector<double> at;

  double pooled() const {
    double sum = 0;
    for (const double square : at) sum += square;
    return std::sqrt(sum / static_cast<double>(at.size()));
  }
};

class Bf16 : public testing::TestWithParam<std::tuple<const char*, Backend>> {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(DeviceOf(backend()));
    const std::string name = std::get<0>(GetParam());
    const std::string folder = FolderOf(name, random_);
    aligned_ = folder == random_.folder();
    for (const auto& [device, to] : {std::pair{kCpuDevice, &plain_}, {DeviceOf(backend()), &model_}}) {
      auto model = LoadModel(folder, device);
      ASSERT_TRUE(model.ok()) << model.status();
      *to = *std::move(model);
    }
    if (!aligned_) {
      expected_ = ReadGolden(name);
      return;
    }
    std::mt19937 rng(5);
    GoldenSequence& sequence = expected_.emplace_back();
    for (int i = 0; i < 90; ++i)
      sequence.tokens.push_back(static_cast<int32_t>(rng() % plain_->shape().n_vocab));
    sequence.logits = Forwards(plain_, {}, [](int) { return 96; })[0];
  }

  Backend backend() const { return std::get<1>(GetParam()); }
  int page_size() const { return aligned_ ? 16 : 4; }

  // The logits of every sequence, fed in runs of rows whose lengths `next(position)` gives.
  std::vector<std::vector<std::vector<float>>> Forwards(const std::shared_ptr<const Model>& model,
                                                        ForwardRunnerOptions options,
                                                        const std::function<int(int)>& next) const {
    options.page_size = page_size();
    std::vector<std::vector<std::vector<float>>> all;
    for (const GoldenSequence& sequence : expected_) {
      ForwardRunner runner(model, options);
      auto& logits = all.emplace_back();
      const int n = static_cast<int>(sequence.tokens.size());
      while (static_cast<int>(logits.size()) < n) {
        const int begin = static_cast<int>(logits.size()), end = std::min(n, begin + next(begin));
        std::vector<ForwardRow> rows;
        for (int t = begin; t < end; ++t) rows.push_back({0, t, sequence.tokens[t], true});
        for (auto& row : runner.Compute(rows)) logits.push_back(std::move(row));
      }
    }
    return all;
  }
  Errors ErrorsOf(const std::vector<std::vector<std::vector<float>>>& got) const {
    Errors errors;
    for (size_t s = 0; s < expected_.size(); ++s) {
      for (size_t t = 0; t < got[s].size(); ++t) {
        double sum = 0;
        for (size_t v = 0; v < got[s][t].size(); ++v) {
          const double difference = double{got[s][t][v]} - expected_[s].logits[t][v];
          sum += difference * difference;
        }
        errors.at.push_back(sum / static_cast<double>(got[s][t].size()));
      }
    }
    return errors;
  }
  Errors Tolerance() const {
    Errors tolerance;
    for (int draw = 0; draw < kDraws; ++draw) {
      plain::Disturbance disturbance(kDisturbance, 1 + draw);
      const Errors errors = ErrorsOf(Forwards(plain_, {.disturbance = &disturbance}, [](int) { return 96; }));
      tolerance.at.resize(errors.at.size(), 0);
      for (size_t i = 0; i < errors.at.size(); ++i) tolerance.at[i] += errors.at[i] / kDraws;
    }
    return tolerance;
  }

  TempCheckpoint random_;
  bool aligned_ = false;
  std::shared_ptr<const Model> plain_, model_;
  std::vector<GoldenSequence> expected_;
};

// How many rows a forward has room for, and how many it has: a device takes up to 8 rows as one kernel, up to 64 by
// kernels of its own, more by a library. What is plain has one way to compute all.
struct Rows {
  int most;
  std::function<int(int)> next;
};
std::vector<Rows> SomeRows(Backend backend) {
  if (backend == Backend::kPlain || backend == Backend::kReference) return {{96, [](int) { return 96; }}};
  return {{96, [](int) { return 96; }},
          {64, [](int) { return 40; }},
          {8, [](int begin) { return 1 + begin % 8; }},
          {1, [](int) { return 1; }}};
}

TEST_P(Bf16, ErrorsAreThoseOfRoundingAndNoMore) {
  const Errors tolerance = Tolerance();
  for (const Rows& rows : SomeRows(backend())) {
    SCOPED_TRACE("up to " + std::to_string(rows.most) + " rows");
    const Errors errors = ErrorsOf(Forwards(
        model_, {.backend = backend(), .max_rows = rows.most, .dtype = ActivationDType::kBf16}, rows.next));
    EXPECT_LT(errors.pooled(), tolerance.pooled());
    // Half of what it is if all significands are near 2.
    EXPECT_GT(errors.pooled(), tolerance.pooled() / 4) << "is anything rounded?";
    for (size_t i = 0; i < errors.at.size(); ++i) {
      EXPECT_LT(std::sqrt(errors.at[i]), 4 * std::sqrt(tolerance.at[i])) << "position " << i;
    }
  }
}

// Sizes that tensor cores take: none of the golden checkpoints has them.
class AlignedBf16 : public Bf16 {};

// What the golden checkpoints' own test promises, of these.
TEST_P(AlignedBf16, Fp32IsExactForTheseSizesToo) {
  for (const Rows& rows : SomeRows(backend())) {
    const auto got = Forwards(model_, {.backend = backend(), .max_rows = rows.most}, rows.next);
    for (size_t t = 0; t < got[0].size(); ++t) {
      for (size_t v = 0; v < got[0][t].size(); ++v)
        ASSERT_NEAR(got[0][t][v], expected_[0].logits[t][v], 2e-4) << "position " << t;
    }
  }
}

// That forwards of up to 8 rows of these sizes are one kernel on a device that can.
TEST_P(AlignedBf16, IsStreamed) {
  const ForwardRunner runner(
      model_,
      {.backend = backend(), .page_size = page_size(), .max_rows = 8, .dtype = ActivationDType::kBf16});
  const std::vector<Step>& steps = runner.program().steps();
  const auto first = std::find_if(steps.begin(), steps.end(), [](Step s) { return s.op == Op::kLinear; });
  stream::StreamPlan plan;
  EXPECT_EQ(stream::PlanStream(runner.program(), first - steps.begin(), &plan), steps.end() - first);
}

std::string CaseName(const testing::TestParamInfo<Bf16::ParamType>& info) {
  return std::string(std::get<0>(info.param)) + "_" + Name(std::get<1>(info.param));
}
INSTANTIATE_TEST_SUITE_P(Models, Bf16,
                         testing::Combine(testing::ValuesIn(kAll),
                                          testing::Values(Backend::kPlain, Backend::kReference, Backend::kCpu,
                                                          Backend::kCuda)),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Models, AlignedBf16,
                         testing::Combine(testing::Values(kAlignedLlama.name, kAlignedQwen3.name),
                                          testing::Values(Backend::kPlain, Backend::kReference, Backend::kCpu,
                                                          Backend::kCuda)),
                         CaseName);

// The tolerance sees a mistake when there is one.
class Bf16Defects : public Bf16 {};

TEST_P(Bf16Defects, ANormWithoutItsWeightsIsSeen) {
  const Errors tolerance = Tolerance();
  const std::vector<float> ones(4096, 1);
  const int n_products = 4 * plain_->shape().n_layers + 1;
  for (int product = 0; product < n_products; product += 2) {  // those behind a norm
    const auto defect = [&](int n, LinearArgs& args) {
      if (n != product) return;
      ASSERT_TRUE(args.norm);
      args.norm.data = ones.data();
      args.norm.dtype = DType::kF32;
    };
    const Errors errors = ErrorsOf(
        Forwards(plain_, {.dtype = ActivationDType::kBf16, .defect = defect}, [](int) { return 96; }));
    EXPECT_GT(errors.pooled(), 2 * tolerance.pooled()) << "product " << product;
  }
}

// One product of the first layer, whose inputs keep 4 bits of significand.
TEST_P(Bf16Defects, ACoarserRoundingIsSeen) {
  const Errors tolerance = Tolerance();
  for (int product = 0; product < 4; ++product) {
    std::vector<float> coarse;
    const auto defect = [&](int n, LinearArgs& args) {
      if (n != product) return;
      coarse.assign(args.in, args.in + *args.n_rows * args.in_stride);
      for (float& value : coarse) {
        int exponent;
        const float significand = std::frexp(value, &exponent);
        value = std::ldexp(std::nearbyint(significand * 16), exponent - 4);
      }
      args.in = coarse.data();
    };
    const Errors errors = ErrorsOf(
        Forwards(plain_, {.dtype = ActivationDType::kBf16, .defect = defect}, [](int) { return 96; }));
    EXPECT_GT(errors.pooled(), tolerance.pooled()) << "product " << product;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Bf16Defects,
                         testing::Combine(testing::ValuesIn(kAll), testing::Values(Backend::kPlain)),
                         CaseName);

}  // namespace
}  // namespace tandem
