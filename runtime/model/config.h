// ModelConfig: what config.json says about a decoder-only transformer, in its old and its new spellings,
// checked. What tandem does not compute is refused in words here: quantised weights, sliding windows,
// mixtures of experts, other kinds of rope. Plain values; any thread.
#ifndef TANDEM_RUNTIME_MODEL_CONFIG_H_
#define TANDEM_RUNTIME_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/model/model.h"

namespace tandem {

enum class RopeKind : int32_t { kDefault, kLinear, kLlama3 };

// rope_parameters, or rope_theta and rope_scaling.
struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000;
  double factor = 1;           // kLinear, kLlama3
  double low_freq_factor = 1;  // kLlama3
  double high_freq_factor = 4;
  int32_t original_context = 0;
};

struct ModelConfig {
  std::string path;          // of config.json, for errors
  std::string architecture;  // architectures[0]
  std::string dtype;         // dtype or torch_dtype as stated, "" if absent; the weights' own dtypes count
  int32_t n_layers = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;  // n_heads if absent
  int32_t head_dim = 0;    // hidden / n_heads if absent
  int32_t n_vocab = 0;
  int32_t max_context = 0;
  float norm_eps = 0;
  bool tied = false;            // tie_word_embeddings
  bool attention_bias = false;  // of q, k, v and o
  bool mlp_bias = false;        // of gate, up and down
  RopeConfig rope;

  int32_t q_dim() const { return n_heads * head_dim; }
  int32_t kv_dim() const { return n_kv_heads * head_dim; }
};

// config.json's architectures[0]. Errors of all three: kNotFound, or kFailedPrecondition "PATH: key: expected
// ...".
absl::StatusOr<std::string> ReadArchitecture(const std::string& folder);

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& folder);

// From generation_config.json, which may be absent, and config.json.
absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& folder);

// One frequency per pair of dimensions, [head_dim / 2], with the rounding points of Hugging Face's
// modeling_rope_utils.py (fp32 throughout). llama3: Meta's long-wave scaling; linear: frequencies / factor.
std::vector<float> InverseFrequencies(const RopeConfig& rope, int32_t head_dim);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_CONFIG_H_
