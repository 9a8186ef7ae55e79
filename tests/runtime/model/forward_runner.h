// ForwardRunner: a model with its caches, for forwards whose rows a test gives by hand, on every backend: the plain
// interpreter, the kernels' references, their CPU code, and a CUDA device as an engine runs it (graphs, stream kernels).
#ifndef TANDEM_TESTS_RUNTIME_MODEL_FORWARD_RUNNER_H_
#define TANDEM_TESTS_RUNTIME_MODEL_FORWARD_RUNNER_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/model/model.h"
#include "runtime/model/safetensors.h"
#include "tests/on_device.h"
#include "tests/runtime/model/interpreter.h"
#include "tests/runtime/model/temp_checkpoint.h"

namespace tandem {

enum class Backend { kPlain, kReference, kCpu, kCuda };

inline const char* Name(Backend backend) {
  constexpr const char* kNames[] = {"plain", "reference", "cpu", "cuda"};
  return kNames[static_cast<int>(backend)];
}
inline Device DeviceOf(Backend backend) { return backend == Backend::kCuda ? kCudaDevice : kCpuDevice; }

// One row of a forward.
struct ForwardRow {
  int slot;
  int position;
  int token;
  bool wants_logits;
};

struct ForwardRunnerOptions {
  Backend backend = Backend::kPlain;
  int page_size = 4;
  int max_rows = 96;                              // of a forward; a device chooses its kernels by it
  ActivationDType dtype = ActivationDType::kF32;  // of products' inputs, and of the cache
  // Backend::kPlain.
  plain::Disturbance* disturbance = nullptr;
  std::function<void(int n, LinearArgs& args)> defect;  // what is done to the n-th product of every forward
};

class ForwardRunner {
 public:
  static constexpr int kSlots = 2;

  ForwardRunner(std::shared_ptr<const Model> model, const ForwardRunnerOptions& options)
      : model_(std::move(model)), options_(options), arena_(device()) {
    const ModelShape& shape = model_->shape();
    const int page_size = options_.page_size, max_rows = options_.max_rows;
    const int max_pages = (shape.max_context + page_size - 1) / page_size;
    const int n_pages = kSlots * max_pages;
    // Pages lie scattered: slot s's page i is page n_pages - 1 - (kSlots * i + s).
    std::vector<int32_t> table(n_pages);
    for (int s = 0; s < kSlots; ++s) {
      for (int i = 0; i < max_pages; ++i) table[s * max_pages + i] = n_pages - 1 - (kSlots * i + s);
    }
    const auto* page_table = arena_.Copy(table.data(), table.size());
    const size_t elements = static_cast<size_t>(n_pages) * shape.n_kv_heads * page_size * shape.head_dim;
    const DType dtype = options_.dtype == ActivationDType::kBf16 ? DType::kBf16 : DType::kF32;
    for (int i = 0; i < shape.n_layers; ++i) {
      layers_.push_back({NewCache(dtype, elements), NewCache(dtype, elements), dtype, page_size,
                         shape.n_kv_heads, shape.head_dim, page_table, max_pages});
    }
    Forward forward;
    forward.rows.capacity = max_rows;
    forward.rows.n_rows = arena_.New<int32_t>(1);
    forward.rows.slot = arena_.New<int32_t>(max_rows);
    forward.rows.position = arena_.New<int32_t>(max_rows);
    forward.rows.token = arena_.New<int32_t>(max_rows);
    forward.rows.n_logits = arena_.New<int32_t>(1);
    forward.rows.logits_row = arena_.New<int32_t>(max_rows);
    forward.rows.logits_out = arena_.New<int32_t>(max_rows);
    forward.kv = layers_.data();
    forward.workspace = model_->NewWorkspace(arena_, max_rows, kWorkers);
    forward.dtype = options_.dtype;
    model_->Emit(headless_, forward);
    forward.out.stride = shape.n_vocab + 3;  // a pair's buffers may be wider than the model's vocabulary
    forward.out.n_vocab = shape.n_vocab;
    forward.out.logits = arena_.New<float>(static_cast<size_t>(max_rows) * forward.out.stride);
    model_->Emit(program_, forward);
    forward_ = forward;
    if (!device().is_cuda()) return;
    auto executor = NewExecutor({.device = device()});
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    for (const Program* program : {&program_, &headless_}) {
      const absl::Status prepared = executor_->Prepare(*program);
      EXPECT_TRUE(prepared.ok()) << prepared;
    }
  }
  ForwardRunner(std::shared_ptr<const Model> model, Backend backend, int page_size,
                ActivationDType dtype = ActivationDType::kF32)
      : ForwardRunner(std::move(model), {.backend = backend, .page_size = page_size, .dtype = dtype}) {}

  // Logits of the rows that want them, in their order.
  std::vector<std::vector<float>> Compute(const std::vector<ForwardRow>& rows) {
    EXPECT_LE(rows.size(), static_cast<size_t>(options_.max_rows));
    std::vector<int32_t> slot, position, token, logits_row, logits_out;
    for (const ForwardRow& row : rows) {
      if (row.wants_logits) {
        logits_row.push_back(static_cast<int32_t>(slot.size()));
        logits_out.push_back(OutRow(static_cast<int>(logits_out.size())));
      }
      slot.push_back(row.slot);
      position.push_back(row.position);
      token.push_back(row.token);
    }
    const RowPlan& plan = forward_.rows;
    Put(plan.n_rows, {static_cast<int32_t>(rows.size())});
    Put(plan.n_logits, {static_cast<int32_t>(logits_row.size())});
    Put(plan.slot, slot);
    Put(plan.position, position);
    Put(plan.token, token);
    Put(plan.logits_row, logits_row);
    Put(plan.logits_out, logits_out);
    Run(logits_row.empty() ? headless_ : program_);
    std::vector<std::vector<float>> logits;
    for (const int32_t out : logits_out) {
      const float* row = forward_.out.logits + int64_t{out} * forward_.out.stride;
      std::vector<float>& values = logits.emplace_back(forward_.out.n_vocab);
      const size_t bytes = values.size() * sizeof(float);
      device().is_cuda() ? cuda::Download(device(), values.data(), row, bytes)
                         : static_cast<void>(std::memcpy(values.data(), row, bytes));
    }
    return logits;
  }

  const Program& program() const { return program_; }
  const Program& headless() const { return headless_; }

 private:
  static constexpr int kWorkers = 3;

  Device device() const { return DeviceOf(options_.backend); }
  int32_t OutRow(int i) const { return options_.max_rows - 1 - i; }

  // All NaN: a row that was never written must never be read.
  void* NewCache(DType dtype, size_t n) {
    if (dtype == DType::kBf16) {
      const std::vector<uint16_t> values(n, FloatToBf16(NAN));
      return arena_.Copy(values.data(), n);
    }
    const std::vector<float> values(n, NAN);
    return arena_.Copy(values.data(), n);
  }
  void Put(int32_t* to, const std::vector<int32_t>& values) {
    if (values.empty()) return;
    const size_t bytes = values.size() * sizeof(int32_t);
    device().is_cuda() ? cuda::Upload(device(), to, values.data(), bytes)
                       : static_cast<void>(std::memcpy(to, values.data(), bytes));
  }

  void Run(const Program& program) {
    if (device().is_cuda()) {
      executor_->Enqueue(program);
      const absl::Status status = executor_->WaitFor(0);
      ASSERT_TRUE(status.ok()) << status;
      return;
    }
    n_products_ = 0;
    for (const Step& step : program.steps()) {
      switch (step.op) {
        case Op::kEmbed:
          RunStep<EmbedArgs>(program, step, EmbedReference, EmbedCpu);
          break;
        case Op::kRopeAngles:
          RunStep<RopeAnglesArgs>(program, step, RopeAnglesReference, RopeAnglesCpu);
          break;
        case Op::kLinear:
          RunStep<LinearArgs>(program, step, LinearReference, LinearCpu);
          break;
        case Op::kRopeAppend:
          RunStep<RopeAppendArgs>(program, step, RopeAppendReference, RopeAppendCpu);
          break;
        case Op::kAttention:
          RunStep<AttentionArgs>(program, step, AttentionReference, AttentionCpu);
          break;
        case Op::kSiluGate:
          RunStep<SiluGateArgs>(program, step, SiluGateReference, SiluGateCpu);
          break;
        default:
          FAIL() << "an architecture emitted operation " << static_cast<int>(step.op);
      }
    }
  }

  template <typename Args>
  void RunStep(const Program& program, const Step& step, void (*reference)(const Args&),
               void (*cpu)(const Args&, Worker)) {
    const Args& args = program.args_as<Args>(step);
    if (options_.backend == Backend::kPlain) RunPlain(args);
    if (options_.backend == Backend::kReference) reference(args);
    // Workers do not read what others of the same step write: in turn is as good as at once.
    for (int i = 0; options_.backend == Backend::kCpu && i < kWorkers; ++i) cpu(args, {i, kWorkers});
  }
  template <typename Args>
  void RunPlain(Args args) {
    if constexpr (std::is_same_v<Args, LinearArgs>) {
      if (options_.defect) options_.defect(n_products_, args);
      ++n_products_;
      plain::Run(args, options_.disturbance);
    } else if constexpr (std::is_same_v<Args, RopeAppendArgs>) {
      plain::Run(args, options_.disturbance);
    } else {
      plain::Run(args);
    }
  }

  std::shared_ptr<const Model> model_;
  ForwardRunnerOptions options_;
  Arena arena_;
  std::vector<KvLayer> layers_;
  Forward forward_;
  Program program_;
  Program headless_;
  int n_products_ = 0;
  std::unique_ptr<Executor> executor_;  // last: it ends before what its graphs use is gone
};

// A sequence and the logits after each of its tokens.
struct GoldenSequence {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][n_vocab]
};

// What Hugging Face transformers computed from a golden checkpoint (tests/golden/make_model_golden.py).
inline std::vector<GoldenSequence> ReadGolden(const std::string& name) {
  const std::string path = GoldenFolder(name) + "/expected.safetensors";
  const std::string bytes = ReadBytes(path);
  const auto tensors = ParseSafetensors(std::as_bytes(std::span(bytes)), path);
  EXPECT_TRUE(tensors.ok()) << tensors.status();
  std::vector<GoldenSequence> sequences(tensors->size() / 2);
  for (const Tensor& tensor : *tensors) {
    GoldenSequence& sequence = sequences[tensor.name.back() - '0'];
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

inline constexpr const char* kGoldenCheckpoints[] = {"llama2_mha", "llama3_gqa", "llama_mqa_sharded",
                                                     "qwen3_gqa", "qwen3_fp32"};

}  // namespace tandem

#endif  // TANDEM_TESTS_RUNTIME_MODEL_FORWARD_RUNNER_H_
