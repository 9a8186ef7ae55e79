#include "runtime/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/model/safetensors.h"
#include "tests/runtime/model/temp_checkpoint.h"

namespace tandem {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kMinimal[] = R"({
  "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
  "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 256, "rms_norm_eps": 1e-05)";

// kMinimal with more keys: `extra` is empty or begins with a comma.
absl::StatusOr<ModelConfig> Parse(const std::string& extra, std::string base = kMinimal) {
  TempCheckpoint checkpoint;
  checkpoint.Write("config.json", base + extra + "}");
  auto config = ReadModelConfig(checkpoint.folder());
  if (config.ok()) return config;
  EXPECT_EQ(config.status().code(), absl::StatusCode::kFailedPrecondition);
  std::string message(config.status().message());
  EXPECT_TRUE(message.starts_with(checkpoint.folder() + "/")) << message;
  return absl::FailedPreconditionError(message.substr(checkpoint.folder().size() + 1));
}

std::string ErrorOf(const std::string& extra) { return std::string(Parse(extra).status().message()); }

TEST(ModelConfig, DefaultsOfWhatIsOptional) {
  const auto config = Parse("");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->n_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_FALSE(config->tied);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->mlp_bias);
  EXPECT_EQ(config->rope.kind, RopeKind::kDefault);
  EXPECT_EQ(config->rope.theta, 10000);
  EXPECT_EQ(config->dtype, "");
}

TEST(ModelConfig, NullIsAbsent) {
  const auto config = Parse(
      R"(, "head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "sliding_window": null,
      "rope_theta": null, "quantization_config": null, "torch_dtype": null)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->n_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
}

TEST(ModelConfig, OldAndNewSpellingsSayTheSame) {
  const auto older =
      Parse(R"(, "rope_theta": 500000.0, "torch_dtype": "bfloat16", "rope_scaling": {"rope_type":
      "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64})");
  const auto newer =
      Parse(R"(, "dtype": "bfloat16", "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0,
      "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64})");
  for (const auto& config : {older, newer}) {
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->dtype, "bfloat16");
    EXPECT_EQ(config->rope.kind, RopeKind::kLlama3);
    EXPECT_EQ(config->rope.theta, 500000);
    EXPECT_EQ(config->rope.factor, 8);
    EXPECT_EQ(config->rope.low_freq_factor, 1);
    EXPECT_EQ(config->rope.high_freq_factor, 4);
    EXPECT_EQ(config->rope.original_context, 64);
  }
  const auto oldest = Parse(R"(, "rope_scaling": {"type": "linear", "factor": 2})");
  ASSERT_TRUE(oldest.ok()) << oldest.status();
  EXPECT_EQ(oldest->rope.kind, RopeKind::kLinear);
  EXPECT_EQ(oldest->rope.factor, 2);
  EXPECT_EQ(oldest->rope.theta, 10000);
}

TEST(ModelConfig, GoldenCheckpoints) {
  const auto config = ReadModelConfig(GoldenFolder("qwen3_gqa"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(config->head_dim, 18);  // hidden / heads is no integer
  EXPECT_EQ(config->n_kv_heads, 2);
  EXPECT_TRUE(config->tied);
  EXPECT_EQ(config->rope.theta, 1e6);
  const auto biased = ReadModelConfig(GoldenFolder("llama_mqa_sharded"));
  ASSERT_TRUE(biased.ok()) << biased.status();
  EXPECT_TRUE(biased->attention_bias);
  EXPECT_TRUE(biased->mlp_bias);
  EXPECT_EQ(biased->n_kv_heads, 1);
}

TEST(ModelConfig, EveryRequiredKeyIsNamed) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    std::string base = kMinimal;
    base.replace(base.find(key), 1, "x");
    const std::string message(Parse("", base).status().message());
    EXPECT_TRUE(message.starts_with("config.json: " + std::string(key) + ": key missing, expected "))
        << message;
    EXPECT_TRUE(message.ends_with("; take config.json from the model's source")) << message;
  }
  std::string base = kMinimal;
  base.replace(base.find("architectures"), 1, "x");
  EXPECT_EQ(
      Parse("", base).status().message(),
      "config.json: architectures: key missing, expected a list with a name, as [\"LlamaForCausalLM\"]; take "
      "config.json from the model's source");
}

TEST(ModelConfig, WrongValuesAreNamed) {
  EXPECT_EQ(ErrorOf(R"(, "hidden_size": "64")"),
            "config.json: hidden_size: expected an integer from 1 to 1048576, got \"64\"");
  EXPECT_EQ(ErrorOf(R"(, "hidden_size": 0)"),
            "config.json: hidden_size: expected an integer from 1 to 1048576, got 0");
  EXPECT_EQ(ErrorOf(R"(, "hidden_size": 18446744073709551615)"),
            "config.json: hidden_size: expected an integer from 1 to 1048576, got 18446744073709551615");
  EXPECT_EQ(ErrorOf(R"(, "hidden_size": 64.5)"),
            "config.json: hidden_size: expected an integer from 1 to 1048576, got 64.5");
  EXPECT_EQ(ErrorOf(R"(, "tie_word_embeddings": 1)"),
            "config.json: tie_word_embeddings: expected true or false, got 1");
  EXPECT_EQ(ErrorOf(R"(, "num_key_value_heads": 3)"),
            "config.json: num_key_value_heads: expected a divisor of num_attention_heads 4, got 3");
  EXPECT_EQ(ErrorOf(R"(, "head_dim": 7)"),
            "config.json: head_dim: expected an even number (rope turns pairs), got 7");
  EXPECT_EQ(ErrorOf(R"(, "num_attention_heads": 5)"),
            "config.json: head_dim: key missing, and hidden_size 64 is no multiple of num_attention_heads 5");
  EXPECT_EQ(
      ErrorOf(R"(, "num_attention_heads": 1048576, "head_dim": 1048576, "num_key_value_heads": 1)"),
      "config.json: num_attention_heads: expected num_attention_heads x head_dim <= 1048576, got 1048576 x "
      "1048576");
  EXPECT_EQ(ErrorOf(R"(, "rope_theta": 1e999)"),
            "config.json: a number in it is out of range; the file is damaged: copy or download it again");
  EXPECT_EQ(ErrorOf(R"(, "rope_scaling": 3)"), "config.json: rope_scaling: expected an object or null");
  EXPECT_EQ(ErrorOf(R"(, "rope_parameters": {"rope_type": "linear"})"),
            "config.json: rope_parameters.factor: key missing, expected a number from 1 to 1e+12; take "
            "config.json from "
            "the model's source");
  EXPECT_EQ(ErrorOf(R"(, "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                    "high_freq_factor": 4})"),
            "config.json: rope_scaling.high_freq_factor: expected more than low_freq_factor");
}

TEST(ModelConfig, WhatIsNotComputedIsRefusedInWords) {
  for (const std::string kind : {"yarn", "dynamic", "longrope"}) {
    EXPECT_EQ(ErrorOf(R"(, "rope_scaling": {"type": ")" + kind + R"(", "factor": 4.0})"),
              "config.json: rope_scaling.rope_type: unsupported kind of rope \"" + kind +
                  "\", expected default, linear or llama3; choose another model");
  }
  EXPECT_EQ(ErrorOf(R"(, "quantization_config": {"quant_method": "gptq", "bits": 4})"),
            "config.json: quantization_config: quantised weights (\"gptq\") are not supported; use the "
            "model's bf16, "
            "fp16 or fp32 weights");
  EXPECT_EQ(ErrorOf(R"(, "num_local_experts": 8)"),
            "config.json: num_local_experts: mixtures of experts are not supported; choose a dense model");
  const std::string window =
      "config.json: sliding_window: sliding window attention is not supported, expected null or at least "
      "max_position_embeddings (256); set it to null for full attention, or choose another model";
  EXPECT_EQ(ErrorOf(R"(, "sliding_window": 255)"), window);
  EXPECT_EQ(ErrorOf(R"(, "sliding_window": 255, "use_sliding_window": true)"), window);
  EXPECT_TRUE(Parse(R"(, "sliding_window": 255, "use_sliding_window": false)").ok());
  EXPECT_TRUE(Parse(R"(, "sliding_window": 256)").ok());  // hides nothing
  EXPECT_EQ(ErrorOf(R"(, "layer_types": ["full_attention", "sliding_attention"])"),
            "config.json: layer_types: layers of type \"sliding_attention\" are not supported, expected "
            "full_attention; choose another model");
  EXPECT_EQ(ErrorOf(R"(, "hidden_act": "gelu")"),
            "config.json: hidden_act: unsupported activation \"gelu\", expected silu; choose another model");
  EXPECT_EQ(
      ErrorOf(R"(, "rope_parameters": {"partial_rotary_factor": 0.5})"),
      "config.json: rope_parameters.partial_rotary_factor: unsupported, expected 1; choose another model");
}

GenerationDefaults Defaults(const std::string& config, const std::string& generation) {
  TempCheckpoint checkpoint;
  checkpoint.Write("config.json", config);
  if (!generation.empty()) checkpoint.Write("generation_config.json", generation);
  const auto defaults = ReadGenerationDefaults(checkpoint.folder());
  EXPECT_TRUE(defaults.ok()) << defaults.status();
  return defaults.value_or(GenerationDefaults());
}

TEST(GenerationDefaults, EndOfTextIds) {
  EXPECT_THAT(Defaults("{}", "").eos_ids, IsEmpty());
  EXPECT_EQ(Defaults("{}", "").bos_id, std::nullopt);
  const GenerationDefaults own = Defaults(R"({"eos_token_id": 2, "bos_token_id": 1})", "");
  EXPECT_THAT(own.eos_ids, ElementsAre(2));
  EXPECT_EQ(own.bos_id, 1);
  EXPECT_THAT(Defaults(R"({"eos_token_id": [2, 7]})", R"({"eos_token_id": null})").eos_ids,
              ElementsAre(2, 7));
  const GenerationDefaults over =
      Defaults(R"({"eos_token_id": 2, "bos_token_id": 1})", R"({"eos_token_id": [5, 6], "bos_token_id": 9})");
  EXPECT_THAT(over.eos_ids, ElementsAre(5, 6));
  EXPECT_EQ(over.bos_id, 9);
}

TEST(GenerationDefaults, GreedyUnlessDoSampleIsTrue) {
  EXPECT_EQ(Defaults("{}", R"({"temperature": 0.6, "top_p": 0.9})").sampling.temperature, 0);
  EXPECT_EQ(Defaults("{}", R"({"do_sample": false, "temperature": 0.6})").sampling.temperature, 0);
  const Sampling full =
      Defaults("{}", R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05})")
          .sampling;
  EXPECT_EQ(full.temperature, 0.6f);
  EXPECT_EQ(full.top_k, 20);
  EXPECT_EQ(full.top_p, 0.95f);
  EXPECT_EQ(full.min_p, 0.05f);
  const Sampling bare = Defaults("{}", R"({"do_sample": true, "top_k": -1})").sampling;
  EXPECT_EQ(bare.temperature, 1);
  EXPECT_EQ(bare.top_k, 0);
  EXPECT_EQ(bare.top_p, 1);
  EXPECT_EQ(bare.min_p, 0);
}

TEST(GenerationDefaults, GoldenCheckpoint) {
  const auto defaults = ReadGenerationDefaults(GoldenFolder("llama3_gqa"));
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_ids, ElementsAre(301, 305, 306));
  EXPECT_EQ(defaults->sampling.temperature, 0.6f);
  EXPECT_THAT(defaults->ignored, ElementsAre("repetition_penalty = 1.05"));
}

TEST(GenerationDefaults, Errors) {
  TempCheckpoint checkpoint("llama2_mha");
  const auto error = [&](const std::string& text) {
    checkpoint.Write("generation_config.json", text);
    const absl::Status status = ReadGenerationDefaults(checkpoint.folder()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(status.message()).substr(checkpoint.folder().size() + 1);
  };
  EXPECT_EQ(error(R"({"top_p": 1.5})"),
            "generation_config.json: top_p: expected a number from 0 to 1, got 1.5");
  EXPECT_EQ(error(R"({"eos_token_id": ["a"]})"),
            "generation_config.json: eos_token_id: expected a token id or a list of token ids, got [\"a\"]");
  EXPECT_EQ(error("{\n \"a\" 1}"),
            "generation_config.json:2:6: not valid JSON; the file is damaged: copy or download it again");
  EXPECT_EQ(error("[1]"), "generation_config.json: expected a JSON object, got array");
}

RopeConfig Rope(RopeKind kind, double theta, double factor) {
  return {.kind = kind,
          .theta = theta,
          .factor = factor,
          .low_freq_factor = 1,
          .high_freq_factor = 4,
          .original_context = 8192};
}

// transformers computes in fp32, each of at most five operations rounding by 2^-24 and its power by a few of
// those.
TEST(InverseFrequencies, AsTransformersComputesThem) {
  const std::string path = GoldenFolder("rope.safetensors");
  const std::string bytes = ReadBytes(path);
  const auto golden = ParseSafetensors(std::as_bytes(std::span(bytes)), path);
  ASSERT_TRUE(golden.ok()) << golden.status();
  ASSERT_EQ(golden->size(), 4u);
  for (const Tensor& tensor : *golden) {
    RopeConfig rope = Rope(RopeKind::kDefault, 1e6, 1);
    if (tensor.name == "llama-3.1") rope = Rope(RopeKind::kLlama3, 5e5, 8);
    if (tensor.name == "llama-3.2-1b") rope = Rope(RopeKind::kLlama3, 5e5, 32);
    if (tensor.name == "linear-4") rope = Rope(RopeKind::kLinear, 1e4, 4);
    const auto n = tensor.n_elements();
    const std::vector<float> ours = InverseFrequencies(rope, static_cast<int32_t>(2 * n));
    ASSERT_EQ(ours.size(), static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const float theirs = LoadFloat(tensor.data.data(), DType::kF32, i);
      EXPECT_NEAR(ours[i], theirs, theirs * 8 * std::ldexp(1.f, -24)) << tensor.name << " " << i;
    }
  }
}

}  // namespace
}  // namespace tandem
