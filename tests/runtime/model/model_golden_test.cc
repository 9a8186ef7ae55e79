// The programs that architectures emit, run by a plain interpreter of the kernels' contracts, against logits
// that Hugging Face transformers computed from the same folders (tests/golden/make_model_golden.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/model/checkpoint.h"
#include "tests/runtime/model/forward_runner.h"

namespace tandem {
namespace {

constexpr float kLargestError = 2e-4f;  // what the project promises in fp32 mode, at every position

float Distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(a[i] - b[i]) <= largest)) largest = std::abs(a[i] - b[i]);  // a NaN stays
  }
  return largest;
}

class Golden : public testing::TestWithParam<std::tuple<const char*, Backend>> {
 protected:
  void SetUp() override {
    const std::string name = std::get<0>(GetParam());
    TANDEM_SKIP_WITHOUT(DeviceOf(backend()));
    auto model = LoadModel(GoldenFolder(name), DeviceOf(backend()));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    expected_ = ReadGolden(name);
    ASSERT_FALSE(expected_.empty());
  }

  Backend backend() const { return std::get<1>(GetParam()); }

  // Feeds sequence `s` in runs of rows whose lengths `next(position)` gives; all rows want logits.
  void CheckInRuns(int s, int page_size, const std::function<int(int)>& next) {
    ForwardRunner runner(model_, backend(), page_size);
    const GoldenSequence& sequence = expected_[s];
    const int n = static_cast<int>(sequence.tokens.size());
    for (int begin = 0; begin < n;) {
      const int end = std::min(n, begin + next(begin));
      std::vector<ForwardRow> rows;
      for (int t = begin; t < end; ++t) rows.push_back({0, t, sequence.tokens[t], true});
      const auto logits = runner.Compute(rows);
      for (int t = begin; t < end; ++t) {
        EXPECT_LT(Distance(logits[t - begin], sequence.logits[t]), kLargestError) << "position " << t;
      }
      begin = end;
    }
  }

  std::shared_ptr<const Model> model_;
  std::vector<GoldenSequence> expected_;
};

TEST_P(Golden, WholePrompt) {
  for (size_t s = 0; s < expected_.size(); ++s) CheckInRuns(s, 4, [](int) { return 96; });
}

TEST_P(Golden, Chunks) {
  for (size_t s = 0; s < expected_.size(); ++s) {
    CheckInRuns(s, 4, [](int) { return 7; });
    CheckInRuns(s, 16, [](int begin) { return 1 + begin % 5; });
  }
}

TEST_P(Golden, StepByStep) {
  for (size_t s = 0; s < expected_.size(); ++s) {
    CheckInRuns(s, 1, [](int) { return 1; });
    CheckInRuns(s, 5, [](int) { return 1; });
  }
}

// A prompt without logits (its program has no head), then blocks: the last committed token, k right
// proposals, wrong ones. The rows of the wrong ones are overwritten by the next block.
TEST_P(Golden, BlockVerification) {
  const GoldenSequence& sequence = expected_[0];
  const int n = static_cast<int>(sequence.tokens.size());
  const int n_vocab = model_->shape().n_vocab;
  ForwardRunner runner(model_, backend(), 4);
  std::vector<ForwardRow> prompt;
  for (int t = 0; t < 21; ++t) prompt.push_back({0, t, sequence.tokens[t], false});
  EXPECT_TRUE(runner.Compute(prompt).empty());
  constexpr int kGamma = 5;
  int n_checked = 0;
  for (int begin = 21, round = 0; begin < n; ++round) {
    const int n_right = std::min(round % (kGamma + 1), n - begin - 1);
    std::vector<ForwardRow> rows;
    for (int i = 0; i <= kGamma && begin + i < model_->shape().max_context; ++i) {
      const bool right = i <= n_right;
      const int wrong = begin + i < n ? (sequence.tokens[begin + i] + 1) % n_vocab : 0;
      rows.push_back({0, begin + i, right ? sequence.tokens[begin + i] : wrong, true});
    }
    const auto logits = runner.Compute(rows);
    for (int i = 0; i <= n_right; ++i, ++n_checked) {
      EXPECT_LT(Distance(logits[i], sequence.logits[begin + i]), kLargestError) << "position " << begin + i;
    }
    begin += n_right + 1;
  }
  EXPECT_EQ(n_checked, n - 21);
}

// Two slots in one ragged forward; the second runs the first sequence's tokens a few positions behind.
TEST_P(Golden, BatchOfTwo) {
  const GoldenSequence& sequence = expected_[0];
  const int n = static_cast<int>(sequence.tokens.size());
  ForwardRunner runner(model_, backend(), 4);
  constexpr int kBehind = 9;
  for (int t = 0; t < n + kBehind; t += 3) {
    std::vector<ForwardRow> rows;
    for (int slot : {0, 1}) {
      for (int i = t - slot * kBehind; i < t - slot * kBehind + 3; ++i) {
        if (i >= 0 && i < n) rows.push_back({slot, i, sequence.tokens[i], i % 2 == 0});
      }
    }
    const auto logits = runner.Compute(rows);
    size_t next = 0;
    for (const ForwardRow& row : rows) {
      if (!row.wants_logits) continue;
      EXPECT_LT(Distance(logits[next++], sequence.logits[row.position]), kLargestError)
          << "slot " << row.slot << " position " << row.position;
    }
  }
}

// Without a head the last layer is there for its keys and values alone.
TEST_P(Golden, ProgramsHoldWhatTheirForwardNeeds) {
  ForwardRunner runner(model_, backend(), 4);
  const auto count = [](const Program& program, Op op) {
    return std::count_if(program.steps().begin(), program.steps().end(),
                         [op](Step step) { return step.op == op; });
  };
  const int n_layers = model_->shape().n_layers;
  EXPECT_EQ(count(runner.program(), Op::kAttention), n_layers);
  EXPECT_EQ(count(runner.program(), Op::kLinear), 4 * n_layers + 1);
  EXPECT_EQ(count(runner.headless(), Op::kAttention), n_layers - 1);
  EXPECT_EQ(runner.headless().steps().back().op, Op::kRopeAppend);
}

TEST_P(Golden, Bf16ModeRoundsTheInputsOfEveryProduct) {
  for (const ActivationDType dtype : {ActivationDType::kF32, ActivationDType::kBf16}) {
    ForwardRunner runner(model_, backend(), 4, dtype);
    for (const Step& step : runner.program().steps()) {
      if (step.op != Op::kLinear) continue;
      EXPECT_EQ(runner.program().args_as<LinearArgs>(step).round_bf16, dtype == ActivationDType::kBf16);
    }
  }
}

// Data at an odd address: the same bits as where it was aligned.
TEST_P(Golden, UnalignedWeights) {
  const std::string name = std::get<0>(GetParam());
  TempCheckpoint checkpoint(name);
  const auto weights = Safetensors::Open(checkpoint.folder());
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const std::string& path : (*weights)->files()) {
    const std::string file = ReadBytes(path);
    const std::string header = HeaderOf(file);
    WriteBytes(path + ".new", SafetensorsFile(header + " ", file.substr(8 + header.size())));
    std::filesystem::rename(path + ".new", path);  // the old file stays mapped
  }
  const auto model = LoadModel(checkpoint.folder(), DeviceOf(backend()));
  ASSERT_TRUE(model.ok()) << model.status();
  ForwardRunner aligned(model_, backend(), 4);
  ForwardRunner unaligned(*model, backend(), 4);
  std::vector<ForwardRow> rows;
  for (int t = 0; t < 9; ++t) rows.push_back({0, t, expected_[0].tokens[t], true});
  EXPECT_EQ(aligned.Compute(rows), unaligned.Compute(rows));
}

std::string CaseName(const testing::TestParamInfo<Golden::ParamType>& info) {
  return std::string(std::get<0>(info.param)) + "_" + Name(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Combine(testing::ValuesIn(kGoldenCheckpoints),
                                          testing::Values(Backend::kPlain, Backend::kReference, Backend::kCpu,
                                                          Backend::kCuda)),
                         CaseName);

}  // namespace
}  // namespace tandem
