// The programs that architectures emit, run by a plain interpreter of the kernels' contracts, against logits
// that Hugging Face transformers computed from the same folders (tests/golden/make_model_golden.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/embed/embed.h"
#include "kernels/linear/linear.h"
#include "kernels/rope/rope.h"
#include "kernels/silu_gate/silu_gate.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/model.h"
#include "runtime/model/safetensors.h"
#include "tests/on_device.h"
#include "tests/runtime/model/temp_checkpoint.h"

namespace tandem {
namespace {

constexpr float kLargestError = 2e-4f;  // what the project promises in fp32 mode, at every position
constexpr const char* kCheckpoints[] = {"llama2_mha", "llama3_gqa", "llama_mqa_sharded", "qwen3_gqa",
                                        "qwen3_fp32"};

// A plain interpreter: one loop nest per operation, sums in double.

void Normalize(float* x, int n, View norm, float eps) {
  double squares = 0;
  for (int i = 0; i < n; ++i) squares += double{x[i]} * x[i];
  const double scale = 1 / std::sqrt(squares / n + eps);
  for (int i = 0; i < n; ++i) x[i] = static_cast<float>(x[i] * scale * LoadFloat(norm.data, norm.dtype, i));
}

void Run(const EmbedArgs& args) {
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int i = 0; i < args.table.n_cols; ++i) {
      args.out[r * args.table.n_cols + i] =
          LoadFloat(args.table.row(args.rows.token[r]), args.table.dtype, i);
    }
  }
}

void Run(const RopeAnglesArgs& args) {
  const int half = args.head_dim / 2;
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(args.rows.position[r]) * args.inv_freq[i];
      args.cos_sin[r * args.head_dim + i] = std::cos(angle);
      args.cos_sin[r * args.head_dim + half + i] = std::sin(angle);
    }
  }
}

void Run(const LinearArgs& args) {
  for (int m = 0; m < *args.n_rows; ++m) {
    const float* source = args.in + (args.src != nullptr ? args.src[m] : m) * args.in_stride;
    std::vector<float> in(source, source + args.in_dim);
    if (args.norm) Normalize(in.data(), args.in_dim, args.norm, args.norm_eps);
    if (args.round_bf16) {
      for (float& value : in) value = RoundToBf16(value);
    }
    for (int s = 0; s < args.n_segments; ++s) {
      const LinearSegment& segment = args.segment[s];
      float* out = segment.out + (args.dst != nullptr ? args.dst[m] : m) * segment.out_stride;
      for (int64_t j = 0; j < segment.weight.n_rows; ++j) {
        double sum = segment.bias ? LoadFloat(segment.bias.data, segment.bias.dtype, j) : 0;
        for (int i = 0; i < args.in_dim; ++i) {
          sum += double{in[i]} * LoadFloat(segment.weight.row(j), segment.weight.dtype, i);
        }
        out[j] = static_cast<float>(segment.accumulate ? out[j] + sum : sum);
      }
    }
  }
}

void Rotate(float* x, const float* cos_sin, int head_dim) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cos_sin[i] - b * cos_sin[half + i];
    x[i + half] = b * cos_sin[i] + a * cos_sin[half + i];
  }
}

void Run(const RopeAppendArgs& args) {
  const int dim = args.kv.head_dim;
  ASSERT_EQ(args.kv.dtype, DType::kF32);
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int h = 0; h < args.n_heads; ++h) {
      float* q = args.q + (static_cast<int64_t>(r) * args.n_heads + h) * dim;
      if (args.q_norm) Normalize(q, dim, args.q_norm, args.norm_eps);
      Rotate(q, args.cos_sin + r * dim, dim);
    }
    for (int h = 0; h < args.kv.n_kv_heads; ++h) {
      const int64_t row = (static_cast<int64_t>(r) * args.kv.n_kv_heads + h) * dim;
      if (args.k_norm) Normalize(args.k + row, dim, args.k_norm, args.norm_eps);
      Rotate(args.k + row, args.cos_sin + r * dim, dim);
      const int64_t offset = args.kv.offset(args.rows.slot[r], h, args.rows.position[r]);
      std::copy_n(args.k + row, dim, static_cast<float*>(args.kv.k) + offset);
      std::copy_n(args.v + row, dim, static_cast<float*>(args.kv.v) + offset);
    }
  }
}

void Run(const AttentionArgs& args) {
  const int dim = args.kv.head_dim;
  for (int r = 0; r < *args.rows.n_rows; ++r) {
    for (int h = 0; h < args.n_heads; ++h) {
      const float* q = args.q + (static_cast<int64_t>(r) * args.n_heads + h) * dim;
      const int n_keys = args.rows.position[r] + 1;
      std::vector<double> weight(n_keys);
      std::vector<int64_t> offset(n_keys);
      double largest = -INFINITY;
      for (int t = 0; t < n_keys; ++t) {
        offset[t] = args.kv.offset(args.rows.slot[r], h * args.kv.n_kv_heads / args.n_heads, t);
        const float* key = static_cast<const float*>(args.kv.k) + offset[t];
        weight[t] = args.scale * std::inner_product(q, q + dim, key, 0.0);
        largest = std::max(largest, weight[t]);
      }
      double total = 0;
      for (double& w : weight) total += w = std::exp(w - largest);
      for (int i = 0; i < dim; ++i) {
        double sum = 0;
        for (int t = 0; t < n_keys; ++t)
          sum += weight[t] * static_cast<const float*>(args.kv.v)[offset[t] + i];
        args.out[(static_cast<int64_t>(r) * args.n_heads + h) * dim + i] = static_cast<float>(sum / total);
      }
    }
  }
}

void Run(const SiluGateArgs& args) {
  for (int64_t i = 0; i < int64_t{*args.n_rows} * args.dim; ++i) {
    args.gate[i] = args.gate[i] / (1 + std::exp(-args.gate[i])) * args.up[i];
  }
}

enum class Backend { kPlain, kReference, kCpu, kCuda };

Device DeviceOf(Backend backend) { return backend == Backend::kCuda ? kCudaDevice : kCpuDevice; }
constexpr int kWorkers = 3;

template <typename Args>
void RunOn(Backend backend, const Program& program, const Step& step, void (*reference)(const Args&),
           void (*cpu)(const Args&, Worker)) {
  const Args& args = program.args_as<Args>(step);
  if (backend == Backend::kPlain) Run(args);
  if (backend == Backend::kReference) reference(args);
  // Workers do not read what others of the same step write: in turn is as good as at once.
  for (int i = 0; backend == Backend::kCpu && i < kWorkers; ++i) cpu(args, {i, kWorkers});
}

void Run(Backend backend, const Program& program) {
  for (const Step& step : program.steps()) {
    switch (step.op) {
      case Op::kEmbed:
        RunOn<EmbedArgs>(backend, program, step, EmbedReference, EmbedCpu);
        break;
      case Op::kRopeAngles:
        RunOn<RopeAnglesArgs>(backend, program, step, RopeAnglesReference, RopeAnglesCpu);
        break;
      case Op::kLinear:
        RunOn<LinearArgs>(backend, program, step, LinearReference, LinearCpu);
        break;
      case Op::kRopeAppend:
        RunOn<RopeAppendArgs>(backend, program, step, RopeAppendReference, RopeAppendCpu);
        break;
      case Op::kAttention:
        RunOn<AttentionArgs>(backend, program, step, AttentionReference, AttentionCpu);
        break;
      case Op::kSiluGate:
        RunOn<SiluGateArgs>(backend, program, step, SiluGateReference, SiluGateCpu);
        break;
      default:
        FAIL() << "an architecture emitted operation " << static_cast<int>(step.op);
    }
  }
}

struct Row {
  int slot;
  int position;
  int token;
  bool wants_logits;
};

// A model with its caches, for forwards whose rows are given by hand.
class Runner {
 public:
  static constexpr int kSlots = 2;
  static constexpr int kMaxRows = 96;

  Runner(std::shared_ptr<const Model> model, Backend backend, int page_size,
         ActivationDType dtype = ActivationDType::kF32)
      : model_(std::move(model)),
        backend_(backend),
        on_device_(DeviceOf(backend)),
        arena_(DeviceOf(backend), Access::kShared) {
    const ModelShape& shape = model_->shape();
    const int max_pages = (shape.max_context + page_size - 1) / page_size;
    const int n_pages = kSlots * max_pages;
    // Pages lie scattered: slot s's page i is page n_pages - 1 - (kSlots * i + s).
    auto* table = arena_.New<int32_t>(n_pages);
    for (int s = 0; s < kSlots; ++s) {
      for (int i = 0; i < max_pages; ++i) table[s * max_pages + i] = n_pages - 1 - (kSlots * i + s);
    }
    const size_t elements = static_cast<size_t>(n_pages) * shape.n_kv_heads * page_size * shape.head_dim;
    for (int i = 0; i < shape.n_layers; ++i) {
      auto* k = arena_.New<float>(elements);
      auto* v = arena_.New<float>(elements);
      std::fill_n(k, elements, NAN);  // a row that was never written must never be read
      std::fill_n(v, elements, NAN);
      layers_.push_back({k, v, DType::kF32, page_size, shape.n_kv_heads, shape.head_dim, table, max_pages});
    }
    Forward forward;
    forward.rows.capacity = kMaxRows;
    forward.rows.n_rows = arena_.New<int32_t>(1);
    forward.rows.slot = arena_.New<int32_t>(kMaxRows);
    forward.rows.position = arena_.New<int32_t>(kMaxRows);
    forward.rows.token = arena_.New<int32_t>(kMaxRows);
    forward.rows.n_logits = arena_.New<int32_t>(1);
    forward.rows.logits_row = arena_.New<int32_t>(kMaxRows);
    forward.rows.logits_out = arena_.New<int32_t>(kMaxRows);
    forward.kv = layers_.data();
    forward.workspace = model_->NewWorkspace(arena_, kMaxRows, kWorkers);
    forward.dtype = dtype;
    model_->Emit(headless_, forward);
    forward.out.stride = shape.n_vocab + 3;  // a pair's buffers may be wider than the model's vocabulary
    forward.out.n_vocab = shape.n_vocab;
    forward.out.logits = arena_.New<float>(static_cast<size_t>(kMaxRows) * forward.out.stride);
    model_->Emit(program_, forward);
    forward_ = forward;
  }

  // Logits of the rows that want them, in their order.
  std::vector<std::vector<float>> Compute(const std::vector<Row>& rows) {
    const RowPlan& plan = forward_.rows;
    int n_logits = 0;
    *plan.n_rows = static_cast<int32_t>(rows.size());
    for (size_t r = 0; r < rows.size(); ++r) {
      plan.slot[r] = rows[r].slot;
      plan.position[r] = rows[r].position;
      plan.token[r] = rows[r].token;
      if (!rows[r].wants_logits) continue;
      plan.logits_row[n_logits] = static_cast<int32_t>(r);
      plan.logits_out[n_logits] = OutRow(n_logits);
      ++n_logits;
    }
    *plan.n_logits = n_logits;
    const Program& program = n_logits == 0 ? headless_ : program_;
    backend_ == Backend::kCuda ? on_device_.Run(program) : Run(backend_, program);
    std::vector<std::vector<float>> logits;
    for (int i = 0; i < n_logits; ++i) {
      const float* row = forward_.out.logits + static_cast<int64_t>(OutRow(i)) * forward_.out.stride;
      logits.emplace_back(row, row + forward_.out.n_vocab);
    }
    return logits;
  }

  const Program& program() const { return program_; }
  const Program& headless() const { return headless_; }

 private:
  static int32_t OutRow(int i) { return kMaxRows - 1 - i; }

  std::shared_ptr<const Model> model_;
  Backend backend_;
  ProgramRunner on_device_;
  Arena arena_;
  std::vector<KvLayer> layers_;
  Forward forward_;
  Program program_;
  Program headless_;
};

struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][n_vocab]
};

std::vector<Sequence> ReadExpected(const std::string& name) {
  const std::string path = GoldenFolder(name) + "/expected.safetensors";
  const std::string bytes = ReadBytes(path);
  const auto tensors = ParseSafetensors(std::as_bytes(std::span(bytes)), path);
  EXPECT_TRUE(tensors.ok()) << tensors.status();
  std::vector<Sequence> sequences(tensors->size() / 2);
  for (const Tensor& tensor : *tensors) {
    Sequence& sequence = sequences[tensor.name.back() - '0'];
    const int64_t n = tensor.shape[0];
    if (tensor.name.starts_with("tokens")) {
      sequence.tokens.resize(n);
      std::memcpy(sequence.tokens.data(), tensor.data.data(), tensor.data.size());
    } else {
      sequence.logits.assign(n, std::vector<float>(tensor.shape[1]));
      for (int64_t i = 0; i < n * tensor.shape[1]; ++i) {
        sequence.logits[i / tensor.shape[1]][i % tensor.shape[1]] =
            LoadFloat(tensor.data.data(), DType::kF32, i);
      }
    }
  }
  return sequences;
}

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
    expected_ = ReadExpected(name);
    ASSERT_FALSE(expected_.empty());
  }

  Backend backend() const { return std::get<1>(GetParam()); }

  // Feeds sequence `s` in runs of rows whose lengths `next(position)` gives; all rows want logits.
  void CheckInRuns(int s, int page_size, const std::function<int(int)>& next) {
    Runner runner(model_, backend(), page_size);
    const Sequence& sequence = expected_[s];
    const int n = static_cast<int>(sequence.tokens.size());
    for (int begin = 0; begin < n;) {
      const int end = std::min(n, begin + next(begin));
      std::vector<Row> rows;
      for (int t = begin; t < end; ++t) rows.push_back({0, t, sequence.tokens[t], true});
      const auto logits = runner.Compute(rows);
      for (int t = begin; t < end; ++t) {
        EXPECT_LT(Distance(logits[t - begin], sequence.logits[t]), kLargestError) << "position " << t;
      }
      begin = end;
    }
  }

  std::shared_ptr<const Model> model_;
  std::vector<Sequence> expected_;
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
  const Sequence& sequence = expected_[0];
  const int n = static_cast<int>(sequence.tokens.size());
  const int n_vocab = model_->shape().n_vocab;
  Runner runner(model_, backend(), 4);
  std::vector<Row> prompt;
  for (int t = 0; t < 21; ++t) prompt.push_back({0, t, sequence.tokens[t], false});
  EXPECT_TRUE(runner.Compute(prompt).empty());
  constexpr int kGamma = 5;
  int n_checked = 0;
  for (int begin = 21, round = 0; begin < n; ++round) {
    const int n_right = std::min(round % (kGamma + 1), n - begin - 1);
    std::vector<Row> rows;
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
  const Sequence& sequence = expected_[0];
  const int n = static_cast<int>(sequence.tokens.size());
  Runner runner(model_, backend(), 4);
  constexpr int kBehind = 9;
  for (int t = 0; t < n + kBehind; t += 3) {
    std::vector<Row> rows;
    for (int slot : {0, 1}) {
      for (int i = t - slot * kBehind; i < t - slot * kBehind + 3; ++i) {
        if (i >= 0 && i < n) rows.push_back({slot, i, sequence.tokens[i], i % 2 == 0});
      }
    }
    const auto logits = runner.Compute(rows);
    size_t next = 0;
    for (const Row& row : rows) {
      if (!row.wants_logits) continue;
      EXPECT_LT(Distance(logits[next++], sequence.logits[row.position]), kLargestError)
          << "slot " << row.slot << " position " << row.position;
    }
  }
}

// Without a head the last layer is there for its keys and values alone.
TEST_P(Golden, ProgramsHoldWhatTheirForwardNeeds) {
  Runner runner(model_, backend(), 4);
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
    Runner runner(model_, backend(), 4, dtype);
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
  Runner aligned(model_, backend(), 4);
  Runner unaligned(*model, backend(), 4);
  std::vector<Row> rows;
  for (int t = 0; t < 9; ++t) rows.push_back({0, t, expected_[0].tokens[t], true});
  EXPECT_EQ(aligned.Compute(rows), unaligned.Compute(rows));
}

std::string CaseName(const testing::TestParamInfo<Golden::ParamType>& info) {
  constexpr const char* kNames[] = {"plain", "reference", "cpu", "cuda"};
  return std::string(std::get<0>(info.param)) + "_" + kNames[static_cast<int>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Combine(testing::ValuesIn(kCheckpoints),
                                          testing::Values(Backend::kPlain, Backend::kReference, Backend::kCpu,
                                                          Backend::kCuda)),
                         CaseName);

}  // namespace
}  // namespace tandem
