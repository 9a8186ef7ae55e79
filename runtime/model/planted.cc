#include "runtime/model/planted.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <thread>
#include <utility>

#include "runtime/core/buffer.h"
#include "runtime/core/check.h"
#include "runtime/model/arch/registry.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/planted_fill.h"
#include "runtime/model/safetensors.h"

namespace tandem {
namespace {

constexpr PlantedShape kShapes[] = {
    {"llama-8b", "LlamaForCausalLM", 32, 4096, 14336, 32, 8, 128, 128256, 1e-5f, 500000},
    {"llama-3b", "LlamaForCausalLM", 28, 3072, 8192, 24, 8, 128, 128256, 1e-5f, 500000},
    {"llama-1b", "LlamaForCausalLM", 16, 2048, 8192, 32, 8, 64, 128256, 1e-5f, 500000},
    {"qwen3-8b", "Qwen3ForCausalLM", 36, 4096, 12288, 32, 8, 128, 151936, 1e-6f, 1000000},
    {"qwen3-0.6b", "Qwen3ForCausalLM", 28, 1024, 3072, 16, 8, 128, 151936, 1e-6f, 1000000},
    {"llama-tiny", "LlamaForCausalLM", 2, 128, 256, 4, 2, 32, 512, 1e-5f, 10000},
    {"qwen3-tiny", "Qwen3ForCausalLM", 2, 64, 192, 4, 2, 32, 512, 1e-6f, 10000},
};

constexpr int32_t kMaxContext = 8192;
constexpr float kSmall = 0.002f;              // standard deviation of what writes to the residual stream
constexpr float kOther = 0.02f;               // of other weights
constexpr int64_t kBlock = int64_t{1} << 20;  // elements that a thread fills at a time

// Calls fill(begin, end) for blocks of [0, n) on all threads.
template <typename Fill>
void InParallel(int64_t n, int64_t block, Fill fill) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t begin; (begin = next.fetch_add(block)) < n;) fill(begin, std::min(n, begin + block));
  };
  std::vector<std::thread> threads;
  const auto count =
      std::min<int64_t>(std::max(1u, std::thread::hardware_concurrency()), (n + block - 1) / block);
  for (int64_t i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

void Shuffle(std::vector<int32_t>& values, uint64_t seed) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[planted::Bits(seed, i) % i]);
}

ModelConfig ConfigOf(const PlantedShape& shape) {
  ModelConfig config;
  config.path = absl::StrCat("planted ", std::string(shape.name));
  config.architecture = std::string(shape.architecture);
  config.dtype = "bfloat16";
  config.n_layers = shape.n_layers;
  config.hidden = shape.hidden;
  config.intermediate = shape.intermediate;
  config.n_heads = shape.n_heads;
  config.n_kv_heads = shape.n_kv_heads;
  config.head_dim = shape.head_dim;
  config.n_vocab = shape.n_vocab;
  config.max_context = kMaxContext;
  config.norm_eps = shape.norm_eps;
  config.rope.theta = shape.rope_theta;
  return config;
}

// The tensors of a checkpoint, in memory of one device.
class Weights {
 public:
  Weights(const PlantedShape& shape, const std::vector<int32_t>& successor, uint64_t seed, Device device)
      : shape_(shape), seed_(seed), device_(device), memory_(std::make_shared<Arena>(device)) {
    const int64_t hidden = shape.hidden, q = int64_t{shape.n_heads} * shape.head_dim,
                  kv = int64_t{shape.n_kv_heads} * shape.head_dim;
    const uint16_t* embedding = Random("model.embed_tokens.weight", {shape.n_vocab, hidden}, 1);
    for (int32_t i = 0; i < shape.n_layers; ++i) {
      const std::string layer = absl::StrCat("model.layers.", i, ".");
      const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
      Ones(layer + "input_layernorm.weight", hidden);
      Random(attention + "q_proj.weight", {q, hidden}, kOther);
      Random(attention + "k_proj.weight", {kv, hidden}, kOther);
      Random(attention + "v_proj.weight", {kv, hidden}, kOther);
      Random(attention + "o_proj.weight", {hidden, q}, kSmall);
      if (shape.architecture == "Qwen3ForCausalLM") {
        Ones(attention + "q_norm.weight", shape.head_dim);
        Ones(attention + "k_norm.weight", shape.head_dim);
      }
      Ones(layer + "post_attention_layernorm.weight", hidden);
      Random(mlp + "gate_proj.weight", {shape.intermediate, hidden}, kOther);
      Random(mlp + "up_proj.weight", {shape.intermediate, hidden}, kOther);
      Random(mlp + "down_proj.weight", {hidden, shape.intermediate}, kSmall);
    }
    Ones("model.norm.weight", hidden);
    uint16_t* head = New("lm_head.weight", {shape.n_vocab, hidden});
    PlantHead(head, embedding, successor);
  }

  std::shared_ptr<const Safetensors> Take() {
    return Safetensors::Hold(absl::StrCat("planted ", std::string(shape_.name)), std::move(tensors_),
                             std::move(memory_), device_);
  }

 private:
  uint16_t* New(const std::string& name, std::vector<int64_t> shape) {
    const int64_t n = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
    auto* data = memory_->New<uint16_t>(static_cast<size_t>(n));
    Tensor tensor;
    tensor.name = name;
    tensor.dtype_name = "BF16";
    tensor.dtype = DType::kBf16;
    tensor.shape = std::move(shape);
    tensor.data = {reinterpret_cast<const std::byte*>(data), static_cast<size_t>(n) * 2};
    tensors_.push_back(std::move(tensor));
    return data;
  }
  uint16_t* Random(const std::string& name, std::vector<int64_t> shape, float deviation) {
    uint16_t* data = New(name, std::move(shape));
    const uint64_t seed = planted::Bits(seed_, tensors_.size());
    const int64_t n = tensors_.back().n_elements();
    if (device_.is_cuda()) {
      planted::FillRandomCuda(device_, data, n, seed, deviation);
      return data;
    }
    InParallel(n, kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) data[i] = planted::RandomWeight(seed, i, deviation);
    });
    return data;
  }
  void Ones(const std::string& name, int64_t n) {
    uint16_t* data = New(name, {n});
    const uint16_t one = FloatToBf16(1);
    device_.is_cuda() ? planted::FillCuda(device_, data, n, one) : std::fill(data, data + n, one);
  }
  void PlantHead(uint16_t* head, const uint16_t* embedding, const std::vector<int32_t>& successor) {
    const int64_t hidden = shape_.hidden;
    if (device_.is_cuda()) {
      planted::FillHeadCuda(device_, head, embedding, successor.data(), shape_.n_vocab, hidden);
      return;
    }
    InParallel(shape_.n_vocab, std::max<int64_t>(1, kBlock / hidden), [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        uint16_t* row = head + successor[static_cast<size_t>(v)] * hidden;
        for (int64_t k = 0; k < hidden; ++k)
          row[k] = planted::HeadWeight(embedding[v * hidden + k], static_cast<float>(hidden));
      }
    });
  }

  const PlantedShape& shape_;
  const uint64_t seed_;
  const Device device_;
  std::vector<Tensor> tensors_;
  std::shared_ptr<Arena> memory_;
};

}  // namespace

#ifndef TANDEM_CUDA
namespace planted {

void FillRandomCuda(Device, uint16_t*, int64_t, uint64_t, float) {
  TANDEM_CHECK(false) << "no CUDA in this build";
}
void FillCuda(Device, uint16_t*, int64_t, uint16_t) { TANDEM_CHECK(false) << "no CUDA in this build"; }
void FillHeadCuda(Device, uint16_t*, const uint16_t*, const int32_t*, int64_t, int64_t) {
  TANDEM_CHECK(false) << "no CUDA in this build";
}

}  // namespace planted
#endif

std::span<const PlantedShape> PlantedShapes() { return kShapes; }

absl::StatusOr<const PlantedShape*> FindPlantedShape(std::string_view name) {
  std::vector<std::string> names;
  for (const PlantedShape& shape : kShapes) {
    if (shape.name == name) return &shape;
    names.push_back(std::string(shape.name));
  }
  return absl::InvalidArgumentError(absl::StrCat("expected the shape of a planted model, one of ",
                                                 absl::StrJoin(names, ", "), "; got ", std::string(name)));
}

std::vector<int32_t> PlantSuccessors(int32_t n_vocab, uint64_t seed) {
  std::vector<int32_t> successor(static_cast<size_t>(n_vocab));
  std::iota(successor.begin(), successor.end(), 0);
  Shuffle(successor, seed);
  return successor;
}

std::vector<int32_t> PlantAgreement(const std::vector<int32_t>& other, double agreement, uint64_t seed) {
  TANDEM_CHECK(agreement >= 0 && agreement <= 1) << agreement;
  std::vector<int32_t> places(other.size());
  std::iota(places.begin(), places.end(), 0);
  Shuffle(places, seed);
  const auto n_equal = static_cast<size_t>(std::llround(agreement * static_cast<double>(other.size())));
  // The rest pass their successors around in one ring, so none keeps its own.
  std::vector<int32_t> result = other;
  const std::vector<int32_t> ring(places.begin() + static_cast<int64_t>(n_equal), places.end());
  for (size_t i = 0; i < ring.size(); ++i) {
    result[static_cast<size_t>(ring[i])] = other[static_cast<size_t>(ring[(i + 1) % ring.size()])];
  }
  return result;
}

int64_t PlantedBytes(const PlantedShape& shape) {
  const int64_t hidden = shape.hidden, q = int64_t{shape.n_heads} * shape.head_dim,
                kv = int64_t{shape.n_kv_heads} * shape.head_dim;
  const int64_t norms = 2 * hidden + (shape.architecture == "Qwen3ForCausalLM" ? 2 * shape.head_dim : 0);
  const int64_t layer = hidden * (2 * q + 2 * kv + 3 * int64_t{shape.intermediate}) + norms;
  return 2 * (shape.n_layers * layer + 2 * shape.n_vocab * hidden + hidden);
}

std::shared_ptr<const Model> MakePlanted(const PlantedShape& shape, const std::vector<int32_t>& successor,
                                         uint64_t seed, Device device) {
  TANDEM_CHECK(successor.size() == static_cast<size_t>(shape.n_vocab)) << successor.size() << " successors";
  const ModelConfig config = ConfigOf(shape);
  const absl::StatusOr<const Architecture*> architecture = FindArchitecture(config.architecture, config.path);
  TANDEM_CHECK(architecture.ok()) << architecture.status().message();
  WeightReader reader(Weights(shape, successor, seed, device).Take(), config, config.path, device);
  std::shared_ptr<const Model> model = (*architecture)->make(config, GenerationDefaults(), reader);
  TANDEM_CHECK(reader.status().ok()) << reader.status().message();
  return model;
}

}  // namespace tandem
