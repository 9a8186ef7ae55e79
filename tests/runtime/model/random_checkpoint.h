// Checkpoints with random weights, as make_model_golden.py makes them, of the sizes that a device's fast kernels take (the
// golden checkpoints' sizes are odd on purpose): hidden a multiple of 32, heads of 64 or 128, matrices in bf16.
#ifndef TANDEM_TESTS_RUNTIME_MODEL_RANDOM_CHECKPOINT_H_
#define TANDEM_TESTS_RUNTIME_MODEL_RANDOM_CHECKPOINT_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/core/view.h"
#include "tests/runtime/model/temp_checkpoint.h"

namespace tandem {

struct RandomCheckpoint {
  const char* name;
  bool is_qwen3;  // with norms of q and k; else Llama
  int n_vocab, hidden, intermediate, n_layers, n_heads, n_kv_heads, head_dim;
  bool tied;
  uint64_t seed;
};

inline constexpr RandomCheckpoint kAlignedLlama = {"llama_aligned", false, 323, 128, 192, 3, 4, 2, 64,
                                                   false,           21};
inline constexpr RandomCheckpoint kAlignedQwen3 = {
    "qwen3_aligned", true, 201, 192, 320, 2, 4, 2, 128, true, 22};

// config.json and model.safetensors into the folder.
inline void WriteCheckpoint(const RandomCheckpoint& shape, const TempCheckpoint& to) {
  const nlohmann::ordered_json config = {
      {"architectures", {shape.is_qwen3 ? "Qwen3ForCausalLM" : "LlamaForCausalLM"}},
      {"model_type", shape.is_qwen3 ? "qwen3" : "llama"},
      {"dtype", "bfloat16"},
      {"hidden_act", "silu"},
      {"vocab_size", shape.n_vocab},
      {"hidden_size", shape.hidden},
      {"intermediate_size", shape.intermediate},
      {"num_hidden_layers", shape.n_layers},
      {"num_attention_heads", shape.n_heads},
      {"num_key_value_heads", shape.n_kv_heads},
      {"head_dim", shape.head_dim},
      {"max_position_embeddings", 128},
      {"rms_norm_eps", 1e-5},
      {"tie_word_embeddings", shape.tied},
      {"attention_bias", false},
      {"eos_token_id", 2},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}};
  to.Write("config.json", config.dump());

  nlohmann::ordered_json header;
  std::string data;
  std::mt19937_64 rng(shape.seed);
  std::normal_distribution<double> normal(0, 1);
  const auto add = [&](const std::string& name, std::vector<int> dims, double mean, double deviation) {
    int64_t n = 1;
    for (const int dim : dims) n *= dim;
    const size_t begin = data.size();
    for (int64_t i = 0; i < n; ++i) {
      const uint16_t bits = FloatToBf16(static_cast<float>(mean + deviation * normal(rng)));
      data.push_back(static_cast<char>(bits & 0xff));
      data.push_back(static_cast<char>(bits >> 8));
    }
    header[name] = {{"dtype", "BF16"}, {"shape", dims}, {"data_offsets", {begin, data.size()}}};
  };
  const auto norm = [&](const std::string& name, int n) { add(name + ".weight", {n}, 1, 0.3); };
  const auto matrix = [&](const std::string& name, int n_out, int n_in, double size) {
    add(name + ".weight", {n_out, n_in}, 0, size / std::sqrt(n_in));
  };
  const int q_dim = shape.n_heads * shape.head_dim, kv_dim = shape.n_kv_heads * shape.head_dim;
  add("model.embed_tokens.weight", {shape.n_vocab, shape.hidden}, 0,
      shape.tied ? 2.5 / std::sqrt(shape.hidden) : 1);
  for (int i = 0; i < shape.n_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm", shape.hidden);
    matrix(layer + "self_attn.q_proj", q_dim, shape.hidden, 1.8);
    matrix(layer + "self_attn.k_proj", kv_dim, shape.hidden, 1.8);
    matrix(layer + "self_attn.v_proj", kv_dim, shape.hidden, 1.2);
    matrix(layer + "self_attn.o_proj", shape.hidden, q_dim, 1.2);
    if (shape.is_qwen3) {
      norm(layer + "self_attn.q_norm", shape.head_dim);
      norm(layer + "self_attn.k_norm", shape.head_dim);
    }
    norm(layer + "post_attention_layernorm", shape.hidden);
    matrix(layer + "mlp.gate_proj", shape.intermediate, shape.hidden, 1.2);
    matrix(layer + "mlp.up_proj", shape.intermediate, shape.hidden, 1.2);
    matrix(layer + "mlp.down_proj", shape.hidden, shape.intermediate, 1.2);
  }
  norm("model.norm", shape.hidden);
  if (!shape.tied) matrix("lm_head", shape.n_vocab, shape.hidden, 2.5);
  // Spaces, so that tensors begin at multiples of 64 bytes, mapped too.
  std::string text = header.dump();
  text.append(63 - (8 + text.size() + 63) % 64, ' ');
  to.Write("model.safetensors", SafetensorsFile(text, data));
}

// The folder of a checkpoint by its name: a random one, written into `random`, or a golden one.
inline std::string FolderOf(const std::string& name, const TempCheckpoint& random) {
  for (const RandomCheckpoint& shape : {kAlignedLlama, kAlignedQwen3}) {
    if (name != shape.name) continue;
    WriteCheckpoint(shape, random);
    return random.folder();
  }
  return GoldenFolder(name);
}

}  // namespace tandem

#endif  // TANDEM_TESTS_RUNTIME_MODEL_RANDOM_CHECKPOINT_H_
