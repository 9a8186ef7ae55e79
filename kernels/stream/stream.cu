#include "kernels/stream/stream.h"

#include <algorithm>
#include <vector>

#include "kernels/stream/stream_kernel.cuh"
#include "kernels/stream/stream_plan.h"

namespace tandem {

using namespace stream;  // NOLINT: the other half of this file's folder

namespace {

constexpr int kLargestShared = 227 * 1024;
constexpr int kSmallWork = 32 * 1024;
constexpr int kInFlightBytes =
    64 * 1024;  // of a multiprocessor: what hides the latency of memory at its full rate

struct WidenArgs {
  View from;
  float* to;
};
__global__ void WidenVector(const __grid_constant__ WidenArgs args) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < args.from.n_cols) args.to[i] = LoadFloat(args.from.data, args.from.dtype, i);
}

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

// How the block's shared memory is cut: an input of kMaxHidden and less is held whole, a longer one is taken in slabs, so that
// its first columns can be used while the last ones are computed.
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
  // The ring begins behind it.
  params.work_bytes =
      (kFixedBytes + work + kTileAlignment - 1) / kTileAlignment * kTileAlignment - kFixedBytes;
  params.n_sums = packed_attention::kSumSlots * packed_attention::kQueries;
  while (attention_bytes(params.n_sums + 1) <= params.work_bytes) ++params.n_sums;
  for (StreamStep& step : steps) {
    if (step.kind != Kind::kProduct) continue;
    Tiles& tiles = step.product.tiles;
    if (tiles.residual && (tiles.n_groups + n_blocks - 1) / n_blocks > kMaxResidual) return false;
    const int n_tiles = (tiles.in_dim + kTileCols - 1) / kTileCols;
    tiles.order = Order::kGroups;
    const bool held = (tiles.n_groups + n_blocks - 1) / n_blocks <= kMaxHeld;
    const bool fits = tiles.in_dim * max_rows * 2 <= params.work_bytes;
    // Attention's output comes all at once.
    if (fits && tiles.in_dim == kMaxHidden && step.product.input == Input::kBf16 && step.product.scaled) {
      tiles.order = Order::kHalves;
      tiles.slab_tiles = n_tiles / 2;
    }
    if (fits && (tiles.in_dim <= kMaxHidden || !held)) continue;
    tiles.order = Order::kSlabs;
    tiles.slab_tiles = std::min(params.work_bytes / 2 / (max_rows * kTileCols * 2), (n_tiles + 1) / 2);
    if (tiles.slab_tiles == 0 || !held) return false;
  }
  const int fixed = params.work_bytes + kFixedBytes;
  params.n_stages = std::min(kMaxStages, (kLargestShared - fixed) / kTileBytes);
  if (params.n_stages < 4) return false;
  params.in_flight = std::clamp(kInFlightBytes / kTileBytes, 1, params.n_stages - 1);
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

bool StreamKernel::RunsHere() {
  cudaFuncAttributes attributes;
  return ComputeCapability() >= 90 && cudaFuncGetAttributes(&attributes, RunStream) == cudaSuccess &&
         attributes.ptxVersion >= 90;
}

std::unique_ptr<StreamKernel> StreamKernel::Make(const Program& program, size_t first, size_t* n_steps) {
  StreamPlan plan;
  *n_steps = RunsHere() ? PlanStream(program, first, &plan) : 0;
  if (*n_steps == 0) return nullptr;
  auto impl = std::make_unique<Impl>();
  impl->n_blocks = MultiprocessorCount();
  Params& params = impl->params;
  if (!CutShared(plan.steps, plan.max_rows, plan.head_dim, params, impl->n_blocks, &impl->shared_bytes))
    return nullptr;
  params.half_bytes = plan.half_bytes;
  params.halves = impl->New<char>(2 * plan.half_bytes, 0xff);
  params.turn = impl->New<uint32_t>(2, 0);
  auto* widened = impl->New<float>(plan.n_widened, 0);
  if (impl->memory.size() != 3) return nullptr;

  std::vector<Tiles> tiles;
  static_assert(sizeof(CUtensorMap) == kMapBytes);
  std::vector<CUtensorMap> maps;
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
  for (const View& vector : plan.vectors) {
    KernelShape launch = {};
    launch.threads = 256;
    launch.grid = dim3(static_cast<unsigned>((vector.n_cols + launch.threads - 1) / launch.threads));
    LaunchKernel(WidenVector, launch, stream, WidenArgs{vector, widened + at});
    at += (vector.n_cols + 3) / 4 * 4;
  }
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  for (StreamStep& step : plan.steps) {
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
    if (step.kind != Kind::kProduct) continue;
    tiles.push_back(step.product.tiles);
    for (int s = 0; s < kMaxSegments; ++s) {
      const uint16_t* weight = step.product.segment[s].weight;
      if (weight != nullptr && !MakeWeightMap(weight, tiles.back().n_outputs[s], tiles.back().in_dim,
                                              kTileRows / 2, kTileCols / kMapCols, &maps.emplace_back()))
        return nullptr;
      if (weight == nullptr) maps.emplace_back(maps.back());  // of no segment
    }
  }
  auto* device_steps = impl->New<StreamStep>(static_cast<int64_t>(plan.steps.size()), 0);
  auto* device_tiles = impl->New<Tiles>(static_cast<int64_t>(tiles.size()), 0);
  // To 128 bytes, as New allocates.
  auto* device_maps = impl->New<CUtensorMap>(static_cast<int64_t>(maps.size()), 0);
  if (device_steps == nullptr || device_tiles == nullptr || device_maps == nullptr) return nullptr;
  TANDEM_CUDA_CHECK(cudaMemcpy(device_steps, plan.steps.data(), plan.steps.size() * sizeof(StreamStep),
                               cudaMemcpyHostToDevice));
  TANDEM_CUDA_CHECK(
      cudaMemcpy(device_tiles, tiles.data(), tiles.size() * sizeof(Tiles), cudaMemcpyHostToDevice));
  TANDEM_CUDA_CHECK(
      cudaMemcpy(device_maps, maps.data(), maps.size() * sizeof(CUtensorMap), cudaMemcpyHostToDevice));
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  bool step_after_attention = false;
  for (const StreamStep& step : plan.steps) {
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
  params.maps = reinterpret_cast<const char*>(device_maps);
  params.n_rows[0] = plan.n_rows[0];
  params.n_rows[1] = plan.n_rows[1] != nullptr ? plan.n_rows[1] : plan.n_rows[0];
  params.rows = plan.rows;
  params.attention = plan.attention;
  params.group = plan.attention.n_heads / plan.attention.kv.n_kv_heads;
  params.n_steps = static_cast<int32_t>(plan.steps.size());
  params.n_products = static_cast<int32_t>(tiles.size());
  // Of the function, not of this kernel: others may need more.
  TANDEM_CUDA_CHECK(
      cudaFuncSetAttribute(RunStream, cudaFuncAttributeMaxDynamicSharedMemorySize, kLargestShared));
  return std::unique_ptr<StreamKernel>(new StreamKernel(std::move(impl)));
}

void StreamKernel::Launch(CudaStream stream) const {
  KernelShape shape = {};
  shape.grid = dim3(impl_->n_blocks);
  shape.threads = kThreads;
  shape.shared_bytes = impl_->shared_bytes;
  shape.overlap = true;
  LaunchKernel(RunStream, shape, stream, impl_->params);
}

}  // namespace tandem
