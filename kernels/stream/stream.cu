#include "kernels/stream/stream.h"

#include <algorithm>
#include <map>
#include <vector>

#include "kernels/silu_gate/silu_gate.h"
#include "kernels/stream/stream_kernel.cuh"

namespace tandem {

using namespace stream;  // NOLINT: the other half of this file's folder

namespace {

constexpr int kLargestShared = 227 * 1024;
constexpr int kSmallWork = 32 * 1024;
constexpr int kInFlightBytes =
    48 * 1024;  // of a multiprocessor: what hides the latency of memory at its full rate

bool RunsStreams() {
  cudaFuncAttributes attributes;
  return ComputeCapability() >= 90 && DeviceAttribute(cudaDevAttrCooperativeLaunch) != 0 &&
         cudaFuncGetAttributes(&attributes, RunStream) == cudaSuccess && attributes.ptxVersion >= 90;
}

struct WidenArgs {
  View from;
  float* to;
};
__global__ void WidenVector(const __grid_constant__ WidenArgs args) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < args.from.n_cols) args.to[i] = LoadFloat(args.from.data, args.from.dtype, i);
}

// From a program's steps to the kernel's. What a step's pointer stands for changes as steps write it: `buffers_` holds
// where the latest value of a buffer lies.
class Builder {
 public:
  Builder(const Program& program, size_t first) : program_(program), first_(first) {}

  // The number of program steps taken.
  size_t Build() {
    size_t i = first_;
    const Lane lane = program_.steps()[first_].lane;
    while (i < program_.steps().size() && program_.steps()[i].lane == lane) {
      const size_t n = Take(i);
      if (n == 0) break;
      i += n;
    }
    // What steps of this kernel wrote is nowhere else: none that follows may want it.
    if (i < program_.steps().size() && program_.steps()[i].lane == lane) {
      const Op next = program_.steps()[i].op;
      if (next == Op::kLinear || next == Op::kRopeAppend || next == Op::kAttention || next == Op::kSiluGate)
        return 0;
    }
    return i - first_;
  }

  std::vector<StreamStep> steps;
  RowPlan rows;
  AttentionArgs attention_args = {};
  const int32_t* n_rows[2] = {};
  int64_t half_bytes = 0;
  int max_rows = 0;
  int n_layers = 0, n_kv_heads = 0, head_dim = 0;
  std::vector<View> vectors;  // to be widened
  int64_t n_widened = 0;      // values of all

 private:
  struct Buffer {
    Place place;
    bool bf16 = false;
    int residual_step = -1;  // of `steps`: which wrote it, if it is a residual
  };

  Place NewPlace(int64_t bytes) {
    const Place place = {reinterpret_cast<char*>(half_bytes), 1};  // an offset: Finish makes it an address
    half_bytes += (bytes + 127) / 128 * 128;
    return place;
  }
  // Likewise, in values.
  const float* Widen(const View& vector) {
    if (!vector) return nullptr;
    vectors.push_back(vector);
    const int64_t at = n_widened;
    n_widened += (vector.n_cols + 3) / 4 * 4;
    return reinterpret_cast<const float*>(at + 1);
  }
  Buffer Find(const float* data) const {
    const auto found = buffers_.find(data);
    if (found != buffers_.end()) return found->second;
    return {{reinterpret_cast<char*>(const_cast<float*>(data)), 0}, false};
  }

  // Takes the step at i, with the ones that are part of it; 0 if that cannot be done.
  size_t Take(size_t i) {
    const Step& step = program_.steps()[i];
    if (step.op == Op::kLinear) return TakeProduct(program_.args_as<LinearArgs>(step), i);
    if (step.op == Op::kRopeAppend) return TakeAttention(program_.args_as<RopeAppendArgs>(step), i);
    return 0;
  }
  template <typename Args>
  const Args* Next(size_t i) const {
    if (i + 1 >= program_.steps().size()) return nullptr;
    const Step& step = program_.steps()[i + 1];
    return step.op == Args::kOp && step.lane == program_.steps()[i].lane ? &program_.args_as<Args>(step)
                                                                         : nullptr;
  }

  bool CountOf(const int32_t* n, int32_t* count) {
    for (int c = 0; c < 2; ++c) {
      if (n_rows[c] == nullptr) n_rows[c] = n;
      if (n_rows[c] == n) {
        *count = c;
        return true;
      }
    }
    return false;
  }

  size_t TakeProduct(const LinearArgs& args, size_t i) {
    if (args.max_rows > kMaxRows || !strands::CanFollow(args)) return 0;
    const Buffer in = Find(args.in);
    const bool first = in.place.half_bytes == 0;
    if (first ? !args.norm || args.in_dim > kMaxHidden : !in.bf16) return 0;
    if (args.norm && args.in_dim > kMaxHidden) return 0;
    if (in.residual_step >= 0 ? !args.norm : !first && args.norm) return 0;
    StreamStep step = {};
    step.kind = Kind::kProduct;
    Product& product = step.product;
    Tiles& tiles = product.tiles;
    if (!CountOf(args.n_rows, &tiles.count)) return 0;
    product.input = first ? Input::kFirst : Input::kBf16;
    product.in = in.place;
    product.in_stride = args.in_stride;
    product.src = args.src;
    product.dst = args.dst;
    product.scaled = static_cast<bool>(args.norm);
    if (first) product.gain = Widen(args.norm);
    if (in.residual_step >= 0) {
      // One product reads what a residual has become, times its norm.
      Segment& from = steps[in.residual_step].product.segment[0];
      if (from.gain != nullptr) return 0;
      from.gain = Widen(args.norm);
      product.squares = from.squares;
    }
    product.norm_eps = args.norm_eps;
    tiles.in_dim = args.in_dim;
    const SiluGateArgs* gate = Next<SiluGateArgs>(i);
    const bool gated = gate != nullptr && args.n_segments == 2 && args.segment[0].out == gate->gate &&
                       args.segment[1].out == gate->up && !args.segment[0].accumulate &&
                       !args.segment[1].accumulate &&
                       args.segment[0].weight.n_rows == args.segment[1].weight.n_rows;
    const bool residual = args.segment[0].accumulate, logits = args.src != nullptr || args.dst != nullptr;
    tiles.gated = gated;
    tiles.residual = residual;
    product.output = gated      ? Output::kGated
                     : residual ? Output::kResidual
                     : logits   ? Output::kLogits
                                : Output::kF32;
    for (int s = 0; s < kMaxSegments; ++s) {
      tiles.first_group[s] = gated ? 0 : s < args.n_segments ? tiles.n_groups : 1 << 30;
      if (s >= args.n_segments) continue;
      const LinearSegment& from = args.segment[s];
      if (from.accumulate != residual) return 0;
      Segment& to = product.segment[s];
      tiles.weight[s] = static_cast<const uint16_t*>(from.weight.data);
      tiles.n_outputs[s] = static_cast<int32_t>(from.weight.n_rows);
      tiles.n_groups += (tiles.n_outputs[s] + kTileRows - 1) / kTileRows;
      to.out_stride = from.out_stride;
      to.bias = Widen(from.bias);
      const int64_t n = int64_t{args.max_rows} * from.out_stride;
      if (residual) {
        // One chain of sums, whose outputs keep their blocks.
        if (args.n_segments != 1 || logits || tiles.count != 0 || from.weight.n_rows % strands::kSquares != 0)
          return 0;
        if (residual_ != nullptr && (residual_ != from.out || n_residual_ != tiles.n_outputs[0])) return 0;
        if (residual_ == nullptr) {
          const Buffer old = Find(from.out);
          if (old.place.half_bytes != 0) return 0;
          to.old = old.place;
        }
        residual_ = from.out;
        n_residual_ = tiles.n_outputs[0];
      }
      if (product.output == Output::kLogits) {
        to.out = {reinterpret_cast<char*>(from.out), 0};
      } else if (residual) {
        to.out = NewPlace(n * 2);
        to.squares = NewPlace(n / strands::kSquares * 4);
        buffers_[from.out] = {to.out, true, static_cast<int>(steps.size())};
      } else if (!gated) {
        to.out = NewPlace(n * 4);
        buffers_[from.out] = {to.out, false};
      } else if (s == 0) {
        to.out = NewPlace(n * 2);
      }
    }
    if (gated) {
      tiles.n_groups = (tiles.n_outputs[0] + 7) / 8;
      buffers_[gate->gate] = {product.segment[0].out, true};
    }
    max_rows = std::max(max_rows, args.max_rows);
    steps.push_back(step);
    return gated ? 2 : 1;
  }

  size_t TakeAttention(const RopeAppendArgs& rope, size_t i) {
    const AttentionArgs* attention = Next<AttentionArgs>(i);
    if (attention == nullptr || attention->q != rope.q || rope.kv.dtype != DType::kBf16) return 0;
    const int d = rope.kv.head_dim, group = rope.n_heads / rope.kv.n_kv_heads;
    if ((d != 64 && d != 128) || group > packed_attention::kQueries) return 0;
    if (rope.rows.capacity > kMaxRows || rope.kv.page_size % packed_attention::kWarpKeys != 0) return 0;
    const auto alike = [&] {
      const KvLayer& other = attention_args.kv;
      return attention_args.n_heads == attention->n_heads && other.n_kv_heads == rope.kv.n_kv_heads &&
             other.page_table == rope.kv.page_table && other.page_size == rope.kv.page_size;
    };
    if (n_layers > 0 && !alike()) return 0;
    const Buffer q = Find(rope.q), k = Find(rope.k), v = Find(rope.v);
    // Values of an earlier kernel need no waiting, but then the rotation in place would be missed by later ones.
    if (q.place.half_bytes == 0 || k.place.half_bytes == 0 || v.place.half_bytes == 0) return 0;
    int32_t count = 0;
    if (!CountOf(rope.rows.n_rows, &count) || count != 0) return 0;
    rows = rope.rows;
    attention_args = *attention;
    StreamStep step = {};
    step.kind = Kind::kAttention;
    step.attend.attention = *attention;
    step.attend.cos_sin = rope.cos_sin;
    step.attend.q_norm = Widen(rope.q_norm);
    step.attend.k_norm = Widen(rope.k_norm);
    step.attend.norm_eps = rope.norm_eps;
    ++n_layers;
    step.attend.q = q.place;
    step.attend.k = k.place;
    step.attend.v = v.place;
    const int64_t n_queries = int64_t{rope.rows.capacity} * rope.n_heads;
    step.attend.out = NewPlace(n_queries * d * 2);
    step.attend.sums = NewPlace(n_queries * packed_attention::kCluster * d * 4);
    step.attend.stats = NewPlace(n_queries * packed_attention::kCluster * 2 * 4);
    buffers_[attention->out] = {step.attend.out, true};
    n_kv_heads = std::max(n_kv_heads, rope.kv.n_kv_heads);
    head_dim = std::max(head_dim, d);
    steps.push_back(step);
    return 2;
  }

  const Program& program_;
  const size_t first_;
  std::map<const float*, Buffer> buffers_;
  const float* residual_ = nullptr;  // what products add to
  int32_t n_residual_ = 0;
};

}  // namespace

struct StreamKernel::Impl {
  Params params = {};
  int n_blocks = 0;
  int shared_bytes = 0;
  int64_t bytes = 0;
  std::vector<void*> memory;
  std::vector<std::string> step_names;

  ~Impl() {
    for (void* data : memory) cudaFree(data);
  }
  // Null if there is no room. Filled with `byte`.
  template <typename T>
  T* New(int64_t n, int byte) {
    void* data = nullptr;
    const size_t size = std::max<int64_t>(n, 1) * sizeof(T);
    if (cudaMalloc(&data, size) != cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    memory.push_back(data);
    bytes += static_cast<int64_t>(size);
    TANDEM_CUDA_CHECK(cudaMemset(data, byte, size));
    return static_cast<T*>(data);
  }
};

namespace {

// How the block's shared memory is cut: an input of kMaxInDim and less is held whole, a longer one (bf16) only if it is
// small; else it is taken in slabs.
bool CutShared(std::vector<StreamStep>& steps, int max_rows, int head_dim, Params& params, int n_blocks,
               int* shared_bytes) {
  const auto attention_bytes = [&](int n_sums) {
    return 4 * (head_dim == 64 ? packed_attention::FloatsOf<64>(n_sums)
                               : packed_attention::FloatsOf<128>(n_sums));
  };
  int work = std::max(attention_bytes(packed_attention::kSumSlots * packed_attention::kQueries), kSmallWork);
  for (const StreamStep& step : steps) {
    if (step.kind == Kind::kProduct && step.product.tiles.in_dim <= kMaxHidden) {
      work = std::max(work, step.product.tiles.in_dim * max_rows * 2);
    }
  }
  params.work_bytes = (work + 255) / 256 * 256;
  params.n_sums = packed_attention::kSumSlots * packed_attention::kQueries;
  while (attention_bytes(params.n_sums + 1) <= params.work_bytes) ++params.n_sums;
  for (StreamStep& step : steps) {
    if (step.kind != Kind::kProduct) continue;
    Tiles& tiles = step.product.tiles;
    if (tiles.residual && (tiles.n_groups + n_blocks - 1) / n_blocks > kMaxResidual) return false;
    const int n_tiles = (tiles.in_dim + kTileCols - 1) / kTileCols;
    tiles.slab_tiles = n_tiles;
    if (tiles.in_dim * max_rows * 2 <= params.work_bytes) continue;
    tiles.slab_tiles = params.work_bytes / 2 / (max_rows * kTileCols * 2);
    if (tiles.slab_tiles == 0 || (tiles.n_groups + n_blocks - 1) / n_blocks > kMaxHeld) return false;
  }
  const int fixed = params.work_bytes + kFixedBytes;
  params.n_stages = std::min(kMaxStages, (kLargestShared - fixed) / kTileBytes);
  if (params.n_stages < 4) return false;
  params.in_flight = std::clamp(kInFlightBytes / (kTileRows * kTileCols * 2), 1, params.n_stages - 1);
  *shared_bytes = fixed + params.n_stages * kTileBytes;
  return true;
}

}  // namespace

StreamKernel::StreamKernel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StreamKernel::~StreamKernel() = default;
int64_t StreamKernel::device_bytes() const { return impl_->bytes; }

bool StreamKernel::WatchSteps() {
  if (impl_->params.times == nullptr) {
    impl_->params.times = impl_->New<int64_t>(int64_t{impl_->n_blocks} * impl_->params.n_steps * kMarks, 0);
  }
  return impl_->params.times != nullptr;
}
std::vector<int64_t> StreamKernel::StepCycles() const {
  std::vector<int64_t> cycles(static_cast<size_t>(impl_->n_blocks) * impl_->params.n_steps * kMarks);
  TANDEM_CHECK(impl_->params.times != nullptr) << "WatchSteps was not called";
  TANDEM_CUDA_CHECK(cudaMemcpy(cycles.data(), impl_->params.times, cycles.size() * sizeof(int64_t),
                               cudaMemcpyDeviceToHost));
  return cycles;
}
std::vector<std::string> StreamKernel::StepNames() const { return impl_->step_names; }

std::unique_ptr<StreamKernel> StreamKernel::Make(const Program& program, size_t first, size_t* n_steps) {
  if (program.steps()[first].op != Op::kLinear || !RunsStreams()) return nullptr;
  Builder builder(program, first);
  *n_steps = builder.Build();
  if (*n_steps == 0 || builder.n_layers == 0) return nullptr;
  auto impl = std::make_unique<Impl>();
  impl->n_blocks = MultiprocessorCount();
  Params& params = impl->params;
  if (!CutShared(builder.steps, builder.max_rows, builder.head_dim, params, impl->n_blocks,
                 &impl->shared_bytes))
    return nullptr;
  params.half_bytes = builder.half_bytes;
  params.halves = impl->New<char>(2 * builder.half_bytes, 0xff);
  params.turn = impl->New<uint32_t>(2, 0);
  auto* widened = impl->New<float>(builder.n_widened, 0);
  if (impl->memory.size() != 3) return nullptr;

  std::vector<Tiles> tiles;
  const auto place = [&](Place& p) {
    if (p.half_bytes == 0) return;
    p.data = params.halves + reinterpret_cast<int64_t>(p.data);
    p.half_bytes = params.half_bytes;
  };
  const auto find = [&](const float*& p) {
    if (p != nullptr) p = widened + (reinterpret_cast<int64_t>(p) - 1);
  };
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());  // the memory is as New left it
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  int64_t at = 0;
  for (const View& vector : builder.vectors) {
    KernelShape launch = {};
    launch.threads = 256;
    launch.grid = dim3(static_cast<unsigned>((vector.n_cols + launch.threads - 1) / launch.threads));
    LaunchKernel(WidenVector, launch, stream, WidenArgs{vector, widened + at});
    at += (vector.n_cols + 3) / 4 * 4;
  }
  for (StreamStep& step : builder.steps) {
    find(step.product.gain);
    place(step.product.squares);
    find(step.attend.q_norm);
    find(step.attend.k_norm);
    place(step.product.in);
    for (Segment& segment : step.product.segment) {
      find(segment.bias);
      find(segment.gain);
      place(segment.squares);
      place(segment.out);
      place(segment.old);
    }
    for (Place* p : {&step.attend.q, &step.attend.k, &step.attend.v, &step.attend.out, &step.attend.sums,
                     &step.attend.stats}) {
      place(*p);
    }
    if (step.kind == Kind::kProduct) tiles.push_back(step.product.tiles);
  }
  auto* device_steps = impl->New<StreamStep>(static_cast<int64_t>(builder.steps.size()), 0);
  auto* device_tiles = impl->New<Tiles>(static_cast<int64_t>(tiles.size()), 0);
  if (device_steps == nullptr || device_tiles == nullptr) return nullptr;
  TANDEM_CUDA_CHECK(cudaMemcpy(device_steps, builder.steps.data(), builder.steps.size() * sizeof(StreamStep),
                               cudaMemcpyHostToDevice));
  TANDEM_CUDA_CHECK(
      cudaMemcpy(device_tiles, tiles.data(), tiles.size() * sizeof(Tiles), cudaMemcpyHostToDevice));
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  bool step_after_attention = false;
  for (const StreamStep& step : builder.steps) {
    const Product& product = step.product;
    impl->step_names.push_back(step.kind == Kind::kAttention               ? "attention"
                               : product.output == Output::kLogits         ? "head"
                               : product.output == Output::kGated          ? "gate, up"
                               : product.output == Output::kF32            ? "q, k, v"
                               : product.scaled || !product.tiles.residual ? "other"
                               : step_after_attention                      ? "o"
                                                                           : "down");
    step_after_attention = step.kind == Kind::kAttention;
  }
  params.steps = device_steps;
  params.tiles = device_tiles;
  params.n_rows[0] = builder.n_rows[0];
  params.n_rows[1] = builder.n_rows[1] != nullptr ? builder.n_rows[1] : builder.n_rows[0];
  params.rows = builder.rows;
  params.attention = builder.attention_args;
  params.n_steps = static_cast<int32_t>(builder.steps.size());
  params.n_products = static_cast<int32_t>(tiles.size());
  TANDEM_CUDA_CHECK(
      cudaFuncSetAttribute(RunStream, cudaFuncAttributeMaxDynamicSharedMemorySize, impl->shared_bytes));
  return std::unique_ptr<StreamKernel>(new StreamKernel(std::move(impl)));
}

void StreamKernel::Launch(CudaStream stream) const {
  cudaLaunchAttribute cooperative;
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(impl_->n_blocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = impl_->shared_bytes;
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  TANDEM_CUDA_CHECK(cudaLaunchKernelEx(&config, RunStream, impl_->params));
}

}  // namespace tandem
