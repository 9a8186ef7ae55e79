// The stream kernel against the kernels of its steps: logits and caches must have the same bits. What it takes of a program
// and what it refuses is in stream_plan_test.cc.
#include "kernels/stream/stream.h"

#include <gtest/gtest.h>
#ifdef TANDEM_CUDA
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/rope/rope.h"
#include "kernels/silu_gate/silu_gate.h"
#include "runtime/steps.h"
#include "tests/kernels/backend.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

#ifdef TANDEM_CUDA

struct Shape {
  const char* name;
  int n_layers, hidden, n_heads, n_kv_heads, head_dim, intermediate, n_vocab;
  bool qk_norm, bias;
};
// Odd sizes (in_dims that are no multiple of a tile, a vocabulary that is none of a group), group sizes 1 to 8, a `down`
// whose input is taken in slabs, by one group of a block and by two.
constexpr Shape kShapes[] = {
    {"heads of 64", 3, 256, 4, 2, 64, 448, 307, false, false},
    {"heads of 128, Qwen3's norms", 2, 512, 8, 1, 128, 1408, 1000, true, false},
    {"biases, one head a group", 2, 320, 3, 3, 64, 192, 640, false, true},
    {"slabs", 2, 320, 4, 2, 64, 9280, 512, false, false},
    {"slabs, two groups a block", 1, 4096, 2, 1, 128, 4672, 336, false, false},
};

struct Run {
  int slot, n_rows, last;
};
using Runs = std::vector<Run>;
const Runs kRuns[] = {
    {{0, 1, 0}},
    {{1, 1, 700}},
    {{0, 2, 1023}},
    {{2, 5, 1026}},
    {{3, 8, 131}},
    {{0, 1, 12}, {1, 2, 300}, {2, 1, 1150}, {3, 3, 2100}},
    {},
    {{0, 1, 16}, {1, 1, 15}, {2, 1, 127}, {3, 1, 128}, {4, 1, 1024}, {5, 1, 3}, {6, 1, 40}, {7, 1, 2047}},
};
constexpr int kSlots = 8, kPageSize = 16, kPages = 2112 / kPageSize, kMaxRows = 8;

class Forward {
 public:
  explicit Forward(const Shape& shape) : shape_(shape), random_(7) {
    const int q_dim = shape.n_heads * shape.head_dim, kv_dim = shape.n_kv_heads * shape.head_dim;
    x_ = New(kMaxRows * shape.hidden);
    q_ = New(kMaxRows * q_dim), k_ = New(kMaxRows * kv_dim), v_ = New(kMaxRows * kv_dim);
    attention_ = New(kMaxRows * q_dim);
    gate_ = New(kMaxRows * shape.intermediate), up_ = New(kMaxRows * shape.intermediate);
    cos_sin_ = New(kMaxRows * shape.head_dim);
    logits_ = New(kMaxRows * shape.n_vocab);
    scratch_ =
        New(static_cast<int>(LinearScratch(kMaxRows, std::max({shape.hidden, q_dim, shape.intermediate}))));
    std::vector<int32_t> pages(kSlots * kPages);
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i * 5 % pages.size());
    pages_ = Inputs(pages);
    const std::vector<int32_t> rows(kMaxRows);
    for (int32_t** to : {&n_rows_, &slot_, &position_, &n_logits_, &logits_row_, &logits_out_})
      *to = Inputs(rows);
    const size_t cache = static_cast<size_t>(kSlots) * kPages * kPageSize * kv_dim;
    for (int layer = 0; layer < 2 * shape.n_layers; ++layer) {
      caches_.push_back(std::make_unique<DeviceBytes>(cache * 2));
      cache_bits_.push_back(Bf16(static_cast<int64_t>(cache), 1.f));
    }
    Record(q_dim, kv_dim);
  }

  const Program& program() const { return program_; }

  struct Result {
    std::vector<float> logits;
    std::vector<std::vector<uint16_t>> caches;
    friend bool operator==(const Result& a, const Result& b) {
      return a.logits.size() == b.logits.size() &&
             std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * 4) == 0 && a.caches == b.caches;
    }
  };

  // With logits of every second row of the forward, from the last on.
  template <typename Launch>
  Result Of(const Runs& runs, uint32_t seed, Launch launch) {
    std::vector<int32_t> slot(kMaxRows, -1), position(kMaxRows), row(kMaxRows), out(kMaxRows);
    int32_t n = 0, n_logits = 0;
    for (const Run& run : runs) {
      for (int i = 0; i < run.n_rows; ++i, ++n) {
        slot[n] = run.slot;
        position[n] = run.last - run.n_rows + 1 + i;
      }
    }
    for (int32_t r = n - 1; r >= 0; r -= 2, ++n_logits) {
      row[n_logits] = r;
      out[n_logits] = kMaxRows - 1 - n_logits;
    }
    Upload(slot_, slot), Upload(position_, position), Upload(logits_row_, row), Upload(logits_out_, out);
    Upload(n_rows_, std::vector<int32_t>{n}), Upload(n_logits_, std::vector<int32_t>{n_logits});
    random_.seed(seed);
    UploadFloats(x_, kMaxRows * shape_.hidden, 1.5f);
    UploadFloats(cos_sin_, kMaxRows * shape_.head_dim, 1.f);
    Upload(logits_, std::vector<float>(kMaxRows * shape_.n_vocab, -7.f));
    for (size_t i = 0; i < caches_.size(); ++i) Upload(caches_[i]->data(), cache_bits_[i]);
    launch(program_);
    Result result;
    result.logits.resize(kMaxRows * shape_.n_vocab);
    cuda::Download(kTestGpu, result.logits.data(), logits_, result.logits.size() * 4);
    for (size_t i = 0; i < caches_.size(); ++i) {
      result.caches.emplace_back(cache_bits_[i].size());
      cuda::Download(kTestGpu, result.caches[i].data(), caches_[i]->data(), result.caches[i].size() * 2);
    }
    return result;
  }

 private:
  float* New(int n) {
    memory_.push_back(std::make_unique<DeviceBytes>(static_cast<size_t>(n) * 4));
    return reinterpret_cast<float*>(memory_.back()->data());
  }
  template <typename T>
  T* Inputs(const std::vector<T>& from) {
    return inputs_.Copy(from.data(), from.size());
  }
  template <typename T>
  static void Upload(void* to, const std::vector<T>& from) {
    cuda::Upload(kTestGpu, to, from.data(), from.size() * sizeof(T));
  }
  void UploadFloats(float* to, int n, float size) {
    std::vector<float> values(n);
    std::uniform_real_distribution<float> uniform(-size, size);
    for (float& v : values) v = uniform(random_);
    Upload(to, values);
  }
  std::vector<uint16_t> Bf16(int64_t n, float size) {
    std::vector<uint16_t> values(n);
    for (uint16_t& v : values) v = FloatToBf16(size * (static_cast<float>(random_() >> 8) * 0x1p-23f - 1));
    return values;
  }
  View Weight(int64_t out, int64_t in) {
    const std::vector<uint16_t> bits = Bf16(out * in, 1.7f / std::sqrt(static_cast<float>(in)));
    return {Inputs(bits), DType::kBf16, out, in};
  }
  View Vector(int64_t n) { return {Inputs(Bf16(n, 1.f)), DType::kBf16, 1, n}; }

  LinearArgs Product(const float* in, int in_dim, bool norm) {
    LinearArgs args = {};
    args.in = in;
    args.in_stride = args.in_dim = in_dim;
    if (norm) args.norm = Vector(in_dim);
    args.norm_eps = 1e-5f;
    args.round_bf16 = true;
    args.n_rows = n_rows_;
    args.max_rows = kMaxRows;
    args.scratch = scratch_;
    return args;
  }
  void Add(LinearArgs& args, int out_dim, float* out, bool accumulate = false) {
    args.segment[args.n_segments++] = {Weight(out_dim, args.in_dim), shape_.bias ? Vector(out_dim) : View{},
                                       out, out_dim, accumulate};
  }

  void Record(int q_dim, int kv_dim) {
    RowPlan rows = {};
    rows.capacity = kMaxRows;
    rows.n_rows = n_rows_, rows.slot = slot_, rows.position = position_;
    for (int layer = 0; layer < shape_.n_layers; ++layer) {
      LinearArgs qkv = Product(x_, shape_.hidden, true);
      Add(qkv, q_dim, q_), Add(qkv, kv_dim, k_), Add(qkv, kv_dim, v_);
      program_.Add(qkv);
      RopeAppendArgs rope = {};
      rope.rows = rows;
      rope.q = q_, rope.k = k_, rope.v = v_;
      if (shape_.qk_norm) rope.q_norm = Vector(shape_.head_dim), rope.k_norm = Vector(shape_.head_dim);
      rope.norm_eps = 1e-6f;
      rope.cos_sin = cos_sin_;
      rope.n_heads = shape_.n_heads;
      rope.kv = {caches_[2 * layer]->data(),
                 caches_[2 * layer + 1]->data(),
                 DType::kBf16,
                 kPageSize,
                 shape_.n_kv_heads,
                 shape_.head_dim,
                 pages_,
                 kPages};
      program_.Add(rope);
      program_.Add(AttentionArgs{rows, q_, rope.kv, shape_.n_heads, 0.11f, attention_});
      LinearArgs o = Product(attention_, q_dim, false);
      Add(o, shape_.hidden, x_, true);
      program_.Add(o);
      LinearArgs gate_up = Product(x_, shape_.hidden, true);
      Add(gate_up, shape_.intermediate, gate_), Add(gate_up, shape_.intermediate, up_);
      program_.Add(gate_up);
      program_.Add(SiluGateArgs{n_rows_, shape_.intermediate, gate_, up_});
      LinearArgs down = Product(gate_, shape_.intermediate, false);
      Add(down, shape_.hidden, x_, true);
      program_.Add(down);
    }
    LinearArgs head = Product(x_, shape_.hidden, true);
    head.n_rows = n_logits_;
    head.src = logits_row_, head.dst = logits_out_;
    Add(head, shape_.n_vocab, logits_);
    program_.Add(head);
  }

  const Shape shape_;
  std::mt19937 random_;
  DeviceInputs inputs_;
  std::vector<std::unique_ptr<DeviceBytes>> memory_, caches_;
  std::vector<std::vector<uint16_t>> cache_bits_;
  float *x_, *q_, *k_, *v_, *attention_, *gate_, *up_, *cos_sin_, *logits_, *scratch_;
  int32_t *pages_, *n_rows_, *slot_, *position_, *n_logits_, *logits_row_, *logits_out_;
  Program program_;
};

void LaunchSteps(const Program& program) {
  for (const Step& step : program.steps()) {
    const absl::Status launched = LaunchCudaStep(program, step, nullptr, nullptr);
    ASSERT_TRUE(launched.ok()) << launched;
  }
}

// Launched again and again: nothing of one launch may reach the next. All kernels are made before the first is launched:
// nor may one kernel depend on which was made last.
TEST(Stream, HasTheBitsOfItsSteps) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  int major = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, kCudaDevice.cuda_index),
            cudaSuccess);
  if (major < 9) GTEST_SKIP() << "cuda:0 is of compute capability " << major << ".x, the kernel for 9.0 on";
  ASSERT_TRUE(StreamKernel::RunsHere())
      << "no code for cuda:0 in this build: configure it with CMAKE_CUDA_ARCHITECTURES=90a";
  std::vector<std::unique_ptr<Forward>> forwards;
  std::vector<std::unique_ptr<StreamKernel>> kernels;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(shape.name);
    forwards.push_back(std::make_unique<Forward>(shape));
    const Program& program = forwards.back()->program();
    size_t n_steps = 0;
    kernels.push_back(StreamKernel::Make(program, 0, &n_steps));
    ASSERT_NE(kernels.back(), nullptr);
    ASSERT_EQ(n_steps, program.steps().size());
  }
  for (size_t i = 0; i < kernels.size(); ++i) {
    SCOPED_TRACE(kShapes[i].name);
    Forward& forward = *forwards[i];
    const StreamKernel* kernel = kernels[i].get();
    uint32_t seed = 1;
    for (const Runs& runs : kRuns) {
      ++seed;
      const Forward::Result steps = forward.Of(runs, seed, LaunchSteps);
      for (int again = 0; again < 2; ++again) {
        const Forward::Result stream =
            forward.Of(runs, seed, [&](const Program&) { kernel->Launch(nullptr); });
        ASSERT_TRUE(stream == steps) << "run " << seed - 2 << ", launch " << again << ": "
                                     << (stream.caches == steps.caches ? "logits" : "caches") << " differ";
      }
      int n = 0;
      for (float logit : steps.logits) n += logit != -7.f;
      EXPECT_EQ(n > 0, !runs.empty());
    }
  }
}

#else

TEST(Stream, HasTheBitsOfItsSteps) { TANDEM_SKIP_WITHOUT(kCudaDevice); }

#endif

}  // namespace
}  // namespace tandem
