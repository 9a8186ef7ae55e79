#include "runtime/model/config.h"

#include <absl/strings/str_cat.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <utility>

#include "runtime/model/json.h"

namespace tandem {
namespace {

using Json = nlohmann::json;

// Sizes past these are damage, not models; under them no product of two overflows.
constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxContext = 1 << 30;
constexpr int64_t kMaxLayers = 1 << 16;
constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

// Keys of one JSON object. Keeps the first error, after which every getter answers with its fallback; null
// counts as absent, as in Python.
class KeyReader {
 public:
  KeyReader(const Json& object, std::string path, std::string prefix = "")
      : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {}

  const absl::Status& status() const { return status_; }

  const Json* Find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  int32_t Int(const char* key, int64_t low, int64_t high) {
    if (Find(key) == nullptr) {
      Fail(key, absl::StrCat("key missing, expected ", IntText(low, high),
                             "; take config.json from the model's source"));
      return 0;
    }
    return IntOr(key, low, high, 0);
  }
  int32_t IntOr(const char* key, int64_t low, int64_t high, int32_t fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= static_cast<uint64_t>(kMaxId)
                                                  : value->is_number_integer();
    if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
      Expected(key, IntText(low, high), *value);
      return fallback;
    }
    return value->get<int32_t>();
  }

  double Number(const char* key, double low, double high) {
    if (Find(key) == nullptr) {
      Fail(key, absl::StrCat("key missing, expected ", NumberText(low, high),
                             "; take config.json from the model's source"));
      return low;
    }
    return NumberOr(key, low, high, low);
  }
  double NumberOr(const char* key, double low, double high, double fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number() || value->get<double>() < low || value->get<double>() > high) {
      Expected(key, NumberText(low, high), *value);
      return fallback;
    }
    return value->get<double>();
  }

  bool BoolOr(const char* key, bool fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) {
      Expected(key, "true or false", *value);
      return fallback;
    }
    return value->get<bool>();
  }

  std::string TextOr(const char* key, std::string fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) {
      Expected(key, "a string", *value);
      return fallback;
    }
    return value->get<std::string>();
  }

  // A token id or a list of them.
  std::vector<int32_t> Ids(const char* key) {
    const Json* value = Find(key);
    if (value == nullptr) return {};
    const Json list = value->is_array() ? *value : Json::array({*value});
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
        Expected(key, "a token id or a list of token ids", *value);
        return {};
      }
      ids.push_back(id.get<int32_t>());
    }
    return ids;
  }

  void Fail(const char* key, const std::string& what) {
    if (status_.ok())
      status_ = absl::FailedPreconditionError(absl::StrCat(path_, ": ", prefix_, key, ": ", what));
  }

 private:
  static std::string IntText(int64_t low, int64_t high) {
    return absl::StrCat("an integer from ", low, " to ", high);
  }
  static std::string NumberText(double low, double high) {
    return absl::StrCat("a number from ", low, " to ", high);
  }
  void Expected(const char* key, const std::string& what, const Json& got) {
    std::string shown = got.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (shown.size() > 60) shown = shown.substr(0, 60) + "...";
    Fail(key, absl::StrCat("expected ", what, ", got ", shown));
  }

  const Json& object_;
  std::string path_;
  std::string prefix_;
  absl::Status status_;
};

absl::StatusOr<Json> ReadJson(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return ParseJsonObject(text, path);
}

// rope_parameters (new), or rope_theta beside rope_scaling (old).
absl::StatusOr<RopeConfig> ReadRope(const Json& json, const std::string& path, int32_t max_context) {
  constexpr double kLargest = 1e12;
  RopeConfig rope;
  KeyReader config(json, path);
  rope.theta = config.NumberOr("rope_theta", 1, kLargest, rope.theta);
  const char* block_name = config.Find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const Json* block = config.Find(block_name);
  if (block != nullptr && !block->is_object()) config.Fail(block_name, "expected an object or null");
  TANDEM_RETURN_IF_ERROR(config.status());
  if (block == nullptr) return rope;

  KeyReader keys(*block, path, absl::StrCat(block_name, "."));
  rope.theta = keys.NumberOr("rope_theta", 1, kLargest, rope.theta);
  const std::string kind = keys.TextOr("rope_type", keys.TextOr("type", "default"));
  if (kind == "linear") {
    rope.kind = RopeKind::kLinear;
    rope.factor = keys.Number("factor", 1, kLargest);
  } else if (kind == "llama3") {
    rope.kind = RopeKind::kLlama3;
    rope.factor = keys.Number("factor", 1, kLargest);
    rope.low_freq_factor = keys.Number("low_freq_factor", 1e-6, kLargest);
    rope.high_freq_factor = keys.Number("high_freq_factor", 1e-6, kLargest);
    rope.original_context = keys.IntOr("original_max_position_embeddings", 1, kMaxContext, max_context);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      keys.Fail("high_freq_factor", "expected more than low_freq_factor");
    }
  } else if (kind != "default") {
    keys.Fail("rope_type", absl::StrCat("unsupported kind of rope ", Quoted(kind),
                                        ", expected default, linear or llama3; choose another model"));
  }
  if (keys.NumberOr("partial_rotary_factor", 0, 1, 1) != 1) {
    keys.Fail("partial_rotary_factor", "unsupported, expected 1; choose another model");
  }
  TANDEM_RETURN_IF_ERROR(keys.status());
  return rope;
}

// What would change the arithmetic and is not computed here.
void RefuseUnsupported(KeyReader& keys, int32_t max_context) {
  if (const Json* quantized = keys.Find("quantization_config")) {
    const std::string method =
        quantized->is_object() ? quantized->value("quant_method", Json("unknown")).dump() : "";
    keys.Fail("quantization_config",
              absl::StrCat("quantised weights (", method,
                           ") are not supported; use the model's bf16, fp16 or fp32 weights"));
  }
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    if (keys.IntOr(key, 0, kMaxDim, 0) > 1) {
      keys.Fail(key, "mixtures of experts are not supported; choose a dense model");
    }
  }
  // A window at least as long as the context hides nothing.
  const bool window_used = keys.BoolOr("use_sliding_window", true);
  if (window_used && keys.IntOr("sliding_window", 0, kMaxContext, max_context) < max_context) {
    keys.Fail("sliding_window",
              absl::StrCat("sliding window attention is not supported, expected null or at least "
                           "max_position_embeddings (",
                           max_context, "); set it to null for full attention, or choose another model"));
  }
  if (const Json* kinds = keys.Find("layer_types"); kinds != nullptr && kinds->is_array()) {
    for (const Json& kind : *kinds) {
      if (kind == "full_attention" || (kind == "sliding_attention" && !window_used)) continue;
      keys.Fail(
          "layer_types",
          absl::StrCat("layers of type ", Quoted(kind.is_string() ? kind.get<std::string>() : kind.dump()),
                       " are not supported, expected full_attention; choose another model"));
    }
  }
  if (const std::string act = keys.TextOr("hidden_act", "silu"); act != "silu" && act != "swish") {
    keys.Fail("hidden_act",
              absl::StrCat("unsupported activation ", Quoted(act), ", expected silu; choose another model"));
  }
  if (keys.NumberOr("partial_rotary_factor", 0, 1, 1) != 1) {
    keys.Fail("partial_rotary_factor", "unsupported, expected 1; choose another model");
  }
}

// Settings of generation_config.json that tandem has no counterpart for, and their neutral values.
constexpr std::pair<const char*, double> kIgnoredSettings[] = {
    {"repetition_penalty", 1}, {"no_repeat_ngram_size", 0}, {"typical_p", 1},
    {"epsilon_cutoff", 0},     {"eta_cutoff", 0},           {"num_beams", 1},
    {"penalty_alpha", 0},
};

}  // namespace

absl::StatusOr<std::string> ReadArchitecture(const std::string& folder) {
  const std::string path = JoinPath(folder, "config.json");
  TANDEM_ASSIGN_OR_RETURN(const Json json, ReadJson(path));
  const auto names = json.find("architectures");
  if (names == json.end() || !names->is_array() || names->empty() || !(*names)[0].is_string()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": architectures: ", names == json.end() ? "key missing, " : "",
        "expected a list with a name, as [\"LlamaForCausalLM\"]; take config.json from the model's source"));
  }
  return (*names)[0].get<std::string>();
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& folder) {
  ModelConfig config;
  config.path = JoinPath(folder, "config.json");
  TANDEM_ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(folder));
  TANDEM_ASSIGN_OR_RETURN(const Json json, ReadJson(config.path));
  KeyReader keys(json, config.path);

  config.n_layers = keys.Int("num_hidden_layers", 1, kMaxLayers);
  config.hidden = keys.Int("hidden_size", 1, kMaxDim);
  config.intermediate = keys.Int("intermediate_size", 1, kMaxDim);
  config.n_heads = keys.Int("num_attention_heads", 1, kMaxDim);
  config.n_kv_heads = keys.IntOr("num_key_value_heads", 1, kMaxDim, config.n_heads);
  config.n_vocab = keys.Int("vocab_size", 1, kMaxVocab);
  config.max_context = keys.Int("max_position_embeddings", 1, kMaxContext);
  config.norm_eps = static_cast<float>(keys.Number("rms_norm_eps", 0, 1));
  config.tied = keys.BoolOr("tie_word_embeddings", false);
  config.attention_bias = keys.BoolOr("attention_bias", false);
  config.mlp_bias = keys.BoolOr("mlp_bias", false);
  config.dtype = keys.TextOr("dtype", keys.TextOr("torch_dtype", ""));
  TANDEM_RETURN_IF_ERROR(keys.status());

  config.head_dim = keys.IntOr("head_dim", 2, kMaxDim, config.hidden / config.n_heads);
  if (keys.Find("head_dim") == nullptr && config.hidden % config.n_heads != 0) {
    keys.Fail("head_dim", absl::StrCat("key missing, and hidden_size ", config.hidden,
                                       " is no multiple of num_attention_heads ", config.n_heads));
  }
  if (config.n_heads % config.n_kv_heads != 0) {
    keys.Fail("num_key_value_heads", absl::StrCat("expected a divisor of num_attention_heads ",
                                                  config.n_heads, ", got ", config.n_kv_heads));
  }
  if (config.head_dim < 2 || config.head_dim % 2 != 0) {
    keys.Fail("head_dim", absl::StrCat("expected an even number (rope turns pairs), got ", config.head_dim));
  }
  if (int64_t{config.n_heads} * config.head_dim > kMaxDim) {
    keys.Fail("num_attention_heads", absl::StrCat("expected num_attention_heads x head_dim <= ", kMaxDim,
                                                  ", got ", config.n_heads, " x ", config.head_dim));
  }
  RefuseUnsupported(keys, config.max_context);
  TANDEM_RETURN_IF_ERROR(keys.status());
  TANDEM_ASSIGN_OR_RETURN(config.rope, ReadRope(json, config.path, config.max_context));
  return config;
}

absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& folder) {
  GenerationDefaults defaults;
  const std::string config_path = JoinPath(folder, "config.json");
  TANDEM_ASSIGN_OR_RETURN(const Json config, ReadJson(config_path));
  KeyReader config_keys(config, config_path);
  defaults.eos_ids = config_keys.Ids("eos_token_id");
  std::vector<int32_t> bos = config_keys.Ids("bos_token_id");
  TANDEM_RETURN_IF_ERROR(config_keys.status());

  const std::string path = JoinPath(folder, "generation_config.json");
  if (FileExists(path)) {
    TANDEM_ASSIGN_OR_RETURN(const Json json, ReadJson(path));
    KeyReader keys(json, path);
    if (keys.Find("eos_token_id") != nullptr) defaults.eos_ids = keys.Ids("eos_token_id");
    if (keys.Find("bos_token_id") != nullptr) bos = keys.Ids("bos_token_id");
    const bool sampled = keys.BoolOr("do_sample", false);
    Sampling sampling;
    sampling.temperature = static_cast<float>(keys.NumberOr("temperature", 0, 1e6, 1));
    sampling.top_k = std::max(0, keys.IntOr("top_k", -1, kMaxId, 0));
    sampling.top_p = static_cast<float>(keys.NumberOr("top_p", 0, 1, 1));
    sampling.min_p = static_cast<float>(keys.NumberOr("min_p", 0, 1, 0));
    if (sampled) defaults.sampling = sampling;
    for (const auto& [key, neutral] : kIgnoredSettings) {
      const Json* value = keys.Find(key);
      if (value != nullptr && value->is_number() && value->get<double>() != neutral) {
        defaults.ignored.push_back(absl::StrCat(key, " = ", value->dump()));
      }
    }
    TANDEM_RETURN_IF_ERROR(keys.status());
  }
  if (!bos.empty()) defaults.bos_id = bos[0];
  return defaults;
}

std::vector<float> InverseFrequencies(const RopeConfig& rope, int32_t head_dim) {
  const auto theta = static_cast<float>(rope.theta);
  const auto factor = static_cast<float>(rope.factor);
  std::vector<float> inv_freq(head_dim / 2);
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    float freq = 1.f / static_cast<float>(std::pow(double{theta}, double{exponent}));
    if (rope.kind == RopeKind::kLinear) freq /= factor;
    if (rope.kind == RopeKind::kLlama3) {
      const auto low = static_cast<float>(rope.low_freq_factor);
      const auto high = static_cast<float>(rope.high_freq_factor);
      const auto context = static_cast<float>(rope.original_context);
      const float wavelength = static_cast<float>(2 * std::numbers::pi) / freq;
      if (wavelength > context / low) {
        freq /= factor;
      } else if (wavelength >= context / high) {
        const float smooth = (context / wavelength - low) / (high - low);
        freq = (1 - smooth) * freq / factor + smooth * freq;
      }
    }
    inv_freq[i] = freq;
  }
  return inv_freq;
}

}  // namespace tandem
