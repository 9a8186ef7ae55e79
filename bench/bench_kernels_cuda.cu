// Kernels on a GPU: how fast memory can be read, every product of some models, and whole forwards as one graph, step by
// step and as one stream kernel, with random weights. Each beside its floor: bytes over the read rate of the same run. And
// the steps of a prefill, each alone, with what it moves and computes.
//
//   build/bench_kernels_cuda [read] [products] [forwards] [prefill] [8B] [1B] [0.6B] [ROWS]... [context=N]
//
// All of a kind if none is named; 1,024 keys for the last row of a forward; 2,048 rows of a prefill, which begins its sequence.
//
// Times are medians over repetitions; every repetition reads weights that the cache does not hold.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/cuda.cuh"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_library.h"
#include "kernels/rope/rope.h"
#include "kernels/silu_gate/silu_gate.h"
#include "kernels/stream/stream.h"
#include "runtime/core/program.h"
#include "runtime/read_rate.h"
#include "runtime/steps.h"
#include "tests/kernels/cases.h"

namespace tandem {
namespace {

constexpr StackCase kModels[] = {
    {"8B", 32, 4096, 32, 8, 128, 14336, 128256},
    {"1B", 16, 2048, 32, 8, 64, 8192, 128256},
    {"0.6B", 28, 1024, 16, 8, 128, 3072, 151936},
};
constexpr int kRows[] = {1, 2, 5, 8, 16, 32, 64};
constexpr int kPrefillRows = 2048;
constexpr int kPageSize = 16;
constexpr int kRepetitions = 9;

// Pairs of bf16 values of either sign between 2^-6 and 2^-5: finite, and no zeros, with which chips run faster.
__global__ void FillPairs(uint32_t* data, size_t n) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n; i += stride) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(i >> 32);
    h = (h ^ h >> 15) * 2246822519u;
    h ^= h >> 13;
    data[i] = (h & 0x807f807fu) | 0x3c803c80u;
  }
}
__global__ void FillFloats(float* data, size_t n, float size) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n; i += stride) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u;
    h = (h ^ h >> 15) * 2246822519u;
    h ^= h >> 13;
    data[i] = size * (static_cast<float>(h) * 0x1p-31f - 1);
  }
}

class Memory {
 public:
  ~Memory() {
    for (void* p : all_) cudaFree(p);
  }
  template <typename T>
  T* New(size_t n) {
    void* p = nullptr;
    TANDEM_CUDA_CHECK(cudaMalloc(&p, n * sizeof(T)));
    TANDEM_CUDA_CHECK(cudaMemset(p, 0, n * sizeof(T)));
    all_.push_back(p);
    return static_cast<T*>(p);
  }
  template <typename T>
  T* New(const std::vector<T>& from) {
    T* p = New<T>(from.size());
    TANDEM_CUDA_CHECK(cudaMemcpy(p, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
  }
  float* Random(size_t n) {
    float* p = New<float>(n);
    FillFloats<<<256, 256>>>(p, n, 1);
    return p;
  }

 private:
  std::vector<void*> all_;
};

// What to measure: all if empty.
struct Only {
  std::vector<std::string> models;
  std::vector<int> rows;
  int context = 1024;

  bool Has(const char* model) const {
    return models.empty() || std::find(models.begin(), models.end(), model) != models.end();
  }
  bool Has(int n) const { return rows.empty() || std::find(rows.begin(), rows.end(), n) != rows.end(); }
};

class Bench {
 public:
  explicit Bench(const Only& only) : only_(only) {
    TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    TANDEM_CUDA_CHECK(cudaEventCreate(&begin_));
    TANDEM_CUDA_CHECK(cudaEventCreate(&end_));
    cudaDeviceProp properties;
    TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
    n_multiprocessors_ = properties.multiProcessorCount;
    weights_ = memory_.New<uint16_t>(kWeightBytes / 2);
    FillPairs<<<2048, 256>>>(reinterpret_cast<uint32_t*>(weights_), kWeightBytes / 4);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    library_ = LinearLibrary::Make();
    TANDEM_CHECK(library_ != nullptr) << "cuBLAS does not start";
    std::printf("%s, %d multiprocessors, %.1f GiB\n", properties.name, n_multiprocessors_,
                static_cast<double>(properties.totalGlobalMem) / (1 << 30));
    ReadRate();
  }

  void Products() {
    std::printf("\n| product | out x in | rows | us | GB/s | x floor |\n|---|---|--:|--:|--:|--:|\n");
    for (const StackCase& model : kModels) {
      if (!only_.Has(model.name)) continue;
      for (Kind kind : {kQkv, kO, kGateUp, kDown, kHead}) {
        for (int rows : kRows) {
          if (only_.Has(rows)) Product(model, kind, rows);
        }
      }
    }
  }

  void Forwards() {
    std::printf("\n| forward, context %d | rows | as | ms | GB/s | x floor |\n|---|--:|---|--:|--:|--:|\n",
                only_.context);
    for (int rows : kRows) {
      for (const StackCase& model : kModels) {
        if (only_.Has(model.name) && only_.Has(rows)) Forward(model, rows);
      }
    }
  }

  void Prefills() {
    const std::vector<int> all_rows = only_.rows.empty() ? std::vector<int>{kPrefillRows} : only_.rows;
    for (const int rows : all_rows) {
      for (const StackCase& model : kModels) {
        if (only_.Has(model.name)) Prefill(model, rows);
      }
    }
  }

 private:
  static constexpr size_t kWeightBytes = size_t{17} << 30;
  enum Kind { kQkv, kO, kGateUp, kDown, kHead };

  // Median milliseconds of what `record` puts into a graph.
  template <typename Record>
  float Time(Record record) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    TANDEM_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    record();
    TANDEM_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
    TANDEM_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> times;
    for (int i = -2; i < kRepetitions; ++i) {
      TANDEM_CUDA_CHECK(cudaEventRecord(begin_, stream_));
      TANDEM_CUDA_CHECK(cudaGraphLaunch(exec, stream_));
      TANDEM_CUDA_CHECK(cudaEventRecord(end_, stream_));
      TANDEM_CUDA_CHECK(cudaEventSynchronize(end_));
      float ms = 0;
      TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms, begin_, end_));
      if (i >= 0) times.push_back(ms);
    }
    TANDEM_CUDA_CHECK(cudaGraphExecDestroy(exec));
    TANDEM_CUDA_CHECK(cudaGraphDestroy(graph));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  void ReadRate() {
    rate_ = ReadRateCuda({.cuda_index = 0}, weights_, int64_t{8} << 30);
    std::printf("read rate %.0f GB/s\n", rate_ * 1e-9);
  }

  View Weight(int64_t out, int64_t in) {
    const size_t n = static_cast<size_t>(out * in);
    if (used_ + n > kWeightBytes / 2) used_ = 0;
    const View view = {weights_ + used_, DType::kBf16, out, in};
    used_ += n;
    return view;
  }

  // Buffers for a forward of up to `rows` rows of one sequence that ends at the context.
  struct Space {
    int32_t *n_rows, *slot, *position, *pages, *row;
    float *x, *q, *k, *v, *attention, *gate, *up, *cos_sin, *logits, *scratch;
    View norm, head_norm;
    int max_pages;
  };
  Space NewSpace(Memory& memory, const StackCase& m, int rows, int context) {
    Space s = {};
    s.n_rows = memory.New<int32_t>(std::vector<int32_t>{rows});
    s.slot = memory.New<int32_t>(rows);
    std::vector<int32_t> position(rows), pages((context + kPageSize - 1) / kPageSize);
    for (int i = 0; i < rows; ++i) position[i] = context - rows + i;
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i * 7 % pages.size());
    s.max_pages = static_cast<int>(pages.size());
    s.position = memory.New(position);
    std::vector<int32_t> row(rows);
    for (int i = 0; i < rows; ++i) row[i] = i;
    s.row = memory.New(row);
    s.pages = memory.New(pages);
    const size_t r = rows, q_dim = m.n_heads * m.head_dim, kv_dim = m.n_kv_heads * m.head_dim;
    s.x = memory.Random(r * m.hidden);
    s.q = memory.Random(r * q_dim);
    s.k = memory.Random(r * kv_dim);
    s.v = memory.Random(r * kv_dim);
    s.attention = memory.Random(r * q_dim);
    s.gate = memory.Random(r * m.intermediate);
    s.up = memory.Random(r * m.intermediate);
    // One angle for all, so that what is rotated again and again keeps its size.
    std::vector<float> cos_sin(r * m.head_dim);
    for (size_t i = 0; i < cos_sin.size(); ++i)
      cos_sin[i] = i % m.head_dim < static_cast<size_t>(m.head_dim) / 2 ? 0.8f : 0.6f;
    s.cos_sin = memory.New(cos_sin);
    s.logits = memory.New<float>(r * m.n_vocab);
    s.scratch =
        memory.New<float>(LinearScratch(rows, std::max(m.hidden, std::max<int>(q_dim, m.intermediate))));
    s.norm = {memory.New(std::vector<uint16_t>(m.hidden, 0x3f80)), DType::kBf16, 1, m.hidden};
    s.head_norm = {memory.New(std::vector<uint16_t>(m.head_dim, 0x3f80)), DType::kBf16, 1, m.head_dim};
    return s;
  }

  LinearArgs ArgsOf(const StackCase& m, const Space& s, Kind kind, int rows, size_t& bytes) {
    const int q_dim = m.n_heads * m.head_dim, kv_dim = m.n_kv_heads * m.head_dim;
    LinearArgs args = {};
    args.round_bf16 = true;
    args.norm_eps = 1e-5f;
    args.scratch = s.scratch;
    args.n_rows = s.n_rows;
    args.max_rows = rows;
    args.in_dim = kind == kO ? q_dim : kind == kDown ? m.intermediate : m.hidden;
    args.in = kind == kO ? s.attention : kind == kDown ? s.gate : s.x;
    args.in_stride = args.in_dim;
    if (kind != kO && kind != kDown) args.norm = s.norm;
    args.only_reader = kind == kO || kind == kDown;
    const auto add = [&](int out, float* to, bool accumulate) {
      const View weight = Weight(out, args.in_dim);
      bytes += weight.bytes();
      args.segment[args.n_segments++] = {weight, {}, to, out, accumulate};
    };
    switch (kind) {
      case kQkv:
        add(q_dim, s.q, false);
        add(kv_dim, s.k, false);
        add(kv_dim, s.v, false);
        break;
      case kO:
      case kDown:
        add(m.hidden, s.x, true);
        break;
      case kGateUp:
        add(m.intermediate, s.gate, false);
        add(m.intermediate, s.up, false);
        break;
      case kHead:
        args.src = args.dst = s.row;
        add(m.n_vocab, s.logits, false);
        break;
    }
    return args;
  }

  void Product(const StackCase& model, Kind kind, int rows) {
    constexpr const char* kNames[] = {"qkv", "o", "gate+up", "down", "head"};
    Memory memory;
    const Space space = NewSpace(memory, model, rows, only_.context);
    size_t one = 0, bytes = 0;
    used_ = 0;
    ArgsOf(model, space, kind, rows, one);
    const int count = static_cast<int>(std::min<size_t>(64, (size_t{8} << 30) / one));
    int64_t out = 0, in = 0;
    const float ms = Time([&] {
      used_ = 0;
      bytes = 0;
      for (int i = 0; i < count; ++i) {
        const LinearArgs args = ArgsOf(model, space, kind, rows, bytes);
        LinearCuda(args, stream_);
        in = args.in_dim;
      }
    });
    out = static_cast<int64_t>(one / 2) / in;
    std::printf("| %s %s | %lld x %lld | %d | %.2f | %.0f | %.3f |\n", model.name, kNames[kind],
                static_cast<long long>(out), static_cast<long long>(in), rows, ms * 1e3 / count,
                bytes / ms * 1e-6, ms * 1e-3 * rate_ / bytes);
    std::fflush(stdout);
  }

  void Forward(const StackCase& m, int rows) {
    Memory memory;
    const Space s = NewSpace(memory, m, rows, only_.context);
    size_t bytes = 0;
    Program program = LayersProgram(memory, m, s, rows, bytes);
    program.Add(ArgsOf(m, s, kHead, rows, bytes));
    Print(m, rows, "steps", bytes, Time([&] { LaunchSteps(program, 0, nullptr); }));
    size_t n_steps = 0;
    const auto kernel = StreamKernel::Make(program, 0, &n_steps);
    if (kernel == nullptr) return;
    Print(m, rows, "stream", bytes, Time([&] {
            kernel->Launch(stream_);
            LaunchSteps(program, n_steps, nullptr);
          }));
    PrintSteps(*kernel);
  }

  // What a block spends on a kind of step, waiting included: means over blocks and layers.
  void PrintSteps(StreamKernel& kernel) {
    if (!kernel.WatchSteps()) return;
    kernel.Launch(stream_);
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const std::vector<int64_t> cycles = kernel.StepCycles();
    const std::vector<std::string> names = kernel.StepNames();
    const double mhz = DeviceAttribute(cudaDevAttrClockRate) * 1e-3;
    const size_t n = names.size(), n_blocks = cycles.size() / n / 4;
    struct Sums {
      double part[3] = {}, whole = 0;
      int n = 0, n_whole = 0;
    };
    std::map<std::string, Sums> sums;
    for (size_t s = 0; s < n; ++s) {
      Sums& sum = sums[names[s]];
      for (size_t b = 0; b < n_blocks; ++b) {
        const int64_t* at = &cycles[(b * n + s) * 4];
        sum.whole += static_cast<double>(at[3] - at[0]);
        ++sum.n_whole;
        if (at[1] == 0 || at[2] == 0) continue;
        for (int i = 0; i < 3; ++i) sum.part[i] += static_cast<double>(at[i + 1] - at[i]);
        ++sum.n;
      }
    }
    std::printf("    us at %.0f MHz (input, sums, end):", mhz);
    for (const auto& [name, sum] : sums) {
      std::printf("  %s %.2f", name.c_str(), sum.whole / sum.n_whole / mhz);
      if (sum.n > 0) {
        std::printf(" (%.2f %.2f %.2f)", sum.part[0] / sum.n / mhz, sum.part[1] / sum.n / mhz,
                    sum.part[2] / sum.n / mhz);
      }
    }
    std::printf("\n");
  }

  // What a step of a layer moves, if everything is read and written once, and computes.
  struct Work {
    const char* name;
    double bytes, flops;
  };
  static constexpr int kLayerSteps = 7;  // of LayersProgram

  static std::vector<Work> WorkOf(const StackCase& m, double rows) {
    const double q = m.n_heads * m.head_dim, kv = m.n_kv_heads * m.head_dim, hidden = m.hidden,
                 wide = m.intermediate;
    // fp32 rows of x, q, k, v, gate, up; bf16 weights, caches and inputs that the step before has rounded. A query sees half
    // of the rows on average.
    return {{"q, k, v", 4 * rows * (hidden + q + 2 * kv) + 2 * hidden * (q + 2 * kv),
             2 * rows * hidden * (q + 2 * kv)},
            {"rope, append", 8 * rows * (q + kv) + 4 * rows * kv + 4 * rows * kv, 0},
            {"attention", 4 * rows * q + 4 * rows * kv + 2 * rows * q, 4 * rows * q * (rows + 1) / 2},
            {"o", 2 * rows * q + 2 * q * hidden + 8 * rows * hidden, 2 * rows * q * hidden},
            {"gate, up", 4 * rows * (hidden + 2 * wide) + 4 * hidden * wide, 4 * rows * hidden * wide},
            {"silu_gate", 10 * rows * wide, 0},
            {"down", 2 * rows * wide + 2 * wide * hidden + 8 * rows * hidden, 2 * rows * wide * hidden}};
  }

  // A step alone is the same step of all layers, one after the other: weights come from memory, and what a step works on,
  // where it is no more than some 30 MB, from the second-level cache, as it does behind the step that wrote it.
  void Prefill(const StackCase& m, int rows) {
    Memory memory;
    const Space s = NewSpace(memory, m, rows, rows);
    size_t bytes = 0;
    const Program program = LayersProgram(memory, m, s, rows, bytes);
    std::printf(
        "\n| %s, prefill of %d rows | us | MB | GB/s | TFLOP/s | its matrix products alone, us | TFLOP/s | "
        "ms of %d "
        "layers |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
        m.name, rows, m.n_layers);
    const std::vector<Work> works = WorkOf(m, rows);
    TANDEM_CHECK(works.size() == kLayerSteps && program.steps().size() == works.size() * m.n_layers);
    double sum_ms = 0, product_flops = 0;
    for (size_t i = 0; i < works.size(); ++i) {
      const Work& work = works[i];
      const bool is_product = program.steps()[i].op == Op::kLinear;
      const auto each_layer = [&](auto launch) {
        return Time([&] {
          for (size_t step = i; step < program.steps().size(); step += works.size())
            launch(program.steps()[step]);
        });
      };
      const double ms = each_layer([&](const Step& step) { Launch(program, step, library_.get()); });
      const double us = ms * 1e3 / m.n_layers;
      std::printf("| %s | %.1f | %.0f | %.0f | ", work.name, us, work.bytes * 1e-6, work.bytes / us * 1e-3);
      std::printf(work.flops > 0 ? "%.0f | " : " | ", work.flops / us * 1e-6);
      if (is_product) {
        const double alone =
            each_layer([&](const Step& step) { Multiply(program.args_as<LinearArgs>(step)); });
        const double alone_us = alone * 1e3 / m.n_layers;
        std::printf("%.1f | %.0f | ", alone_us, work.flops / alone_us * 1e-6);
        product_flops += work.flops * m.n_layers;
      } else {
        std::printf(" | | ");
      }
      std::printf("%.3f |\n", ms);
      sum_ms += ms;
    }
    const double whole = Time([&] { LaunchSteps(program, 0, library_.get()); });
    std::printf("sum of the steps alone %.2f ms; as one graph %.2f ms, products of %.0f TFLOP/s\n", sum_ms,
                whole, product_flops / whole * 1e-9);
    std::fflush(stdout);
  }

  // The library's part of a product.
  void Multiply(const LinearArgs& args) {
    for (int s = 0; s < args.n_segments; ++s) {
      const LinearSegment& segment = args.segment[s];
      library_->Multiply(segment.weight, args.scratch, args.max_rows, segment.out, segment.out_stride,
                         segment.accumulate, stream_);
    }
  }

  Program LayersProgram(Memory& memory, const StackCase& m, const Space& s, int rows, size_t& bytes) {
    const size_t cache = size_t{kPageSize} * s.max_pages * m.n_kv_heads * m.head_dim;
    RowPlan plan = {};
    plan.capacity = rows;
    plan.n_rows = s.n_rows;
    plan.slot = s.slot;
    plan.position = s.position;
    Program program;
    used_ = 0;
    for (int layer = 0; layer < m.n_layers; ++layer) {
      KvLayer kv;
      for (void** side : {&kv.k, &kv.v}) {
        *side = memory.New<uint16_t>(cache);
        FillPairs<<<256, 256>>>(static_cast<uint32_t*>(*side), cache / 2);
      }
      kv.dtype = DType::kBf16;
      kv.page_size = kPageSize;
      kv.n_kv_heads = m.n_kv_heads;
      kv.head_dim = m.head_dim;
      kv.page_table = s.pages;
      kv.max_pages = s.max_pages;
      bytes += 2 * cache * 2;
      program.Add(ArgsOf(m, s, kQkv, rows, bytes));
      RopeAppendArgs rope = {};
      rope.rows = plan;
      rope.q = s.q;
      rope.k = s.k;
      rope.v = s.v;
      if (std::strcmp(m.name, "0.6B") == 0) rope.q_norm = rope.k_norm = s.head_norm;
      rope.norm_eps = 1e-6f;
      rope.cos_sin = s.cos_sin;
      rope.n_heads = m.n_heads;
      rope.kv = kv;
      program.Add(rope);
      AttentionArgs attention = {};
      attention.rows = plan;
      attention.q = s.q;
      attention.kv = kv;
      attention.n_heads = m.n_heads;
      attention.scale = 1 / std::sqrt(static_cast<float>(m.head_dim));
      attention.out = s.attention;
      program.Add(attention);
      program.Add(ArgsOf(m, s, kO, rows, bytes));
      program.Add(ArgsOf(m, s, kGateUp, rows, bytes));
      program.Add(SiluGateArgs{s.n_rows, m.intermediate, s.gate, s.up});
      program.Add(ArgsOf(m, s, kDown, rows, bytes));
    }
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    return program;
  }

  void Launch(const Program& program, const Step& step, LinearLibrary* library) {
    const absl::Status launched = LaunchCudaStep(program, step, library, stream_);
    TANDEM_CHECK(launched.ok()) << launched;
  }
  void LaunchSteps(const Program& program, size_t first, LinearLibrary* library) {
    for (size_t i = first; i < program.steps().size(); ++i) Launch(program, program.steps()[i], library);
  }

  void Print(const StackCase& m, int rows, const char* as, size_t bytes, float ms) {
    std::printf("| %s | %d | %s | %.3f | %.0f | %.3f |\n", m.name, rows, as, ms, bytes / ms * 1e-6,
                ms * 1e-3 * rate_ / bytes);
    std::fflush(stdout);
  }

  const Only only_;
  Memory memory_;
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
  int n_multiprocessors_ = 0;
  uint16_t* weights_ = nullptr;
  size_t used_ = 0;
  double rate_ = 0;  // bytes per second
  std::unique_ptr<LinearLibrary> library_;
};

int Main(int argc, char** argv) {
  std::vector<std::string> parts;
  Only only;
  const auto is_number = [](const std::string& word) {
    return !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
  };
  const std::string context = "context=";
  for (const std::string& word : std::vector<std::string>(argv + 1, argv + argc)) {
    if (word == "read" || word == "products" || word == "forwards" || word == "prefill") {
      parts.push_back(word);
    } else if (word.starts_with(context) && is_number(word.substr(context.size()))) {
      only.context = std::stoi(word.substr(context.size()));
    } else if (is_number(word)) {
      only.rows.push_back(std::stoi(word));
    } else if (std::any_of(std::begin(kModels), std::end(kModels),
                           [&](const StackCase& m) { return m.name == word; })) {
      only.models.push_back(word);
    } else {
      std::fprintf(
          stderr, "usage: %s [read] [products] [forwards] [prefill] [8B] [1B] [0.6B] [ROWS]... [context=N]\n",
          argv[0]);
      return 2;
    }
  }
  const auto wants = [&](const char* what) {
    return parts.empty() || std::find(parts.begin(), parts.end(), what) != parts.end();
  };
  Bench bench(only);
  if (wants("products")) bench.Products();
  if (wants("forwards")) bench.Forwards();
  if (wants("prefill")) bench.Prefills();
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::Main(argc, argv); }
