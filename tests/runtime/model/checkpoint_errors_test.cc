// What a checkpoint that cannot run is told: the text of every error, and that damage never crashes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "runtime/model/checkpoint.h"
#include "runtime/model/model.h"
#include "tests/runtime/model/temp_checkpoint.h"

namespace tandem {
namespace {

// The error's text with the folder's path shortened to DIR.
std::string Shorten(const absl::Status& status, const std::string& folder) {
  std::string message(status.message());
  for (size_t at; (at = message.find(folder)) != std::string::npos;)
    message.replace(at, folder.size(), "DIR");
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

std::string LoadError(const TempCheckpoint& checkpoint,
                      absl::StatusCode code = absl::StatusCode::kFailedPrecondition) {
  const absl::Status status = LoadModel(checkpoint.folder()).status();
  EXPECT_EQ(status.code(), code) << status;
  return Shorten(status, checkpoint.folder());
}

TEST(CheckpointErrors, MissingFolderAndFiles) {
  const absl::Status missing = LoadModel("/no/such/folder").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.message(),
            "/no/such/folder: no such folder, expected a Hugging Face checkpoint; check the path");
  TempCheckpoint checkpoint("llama2_mha");
  const absl::Status file = LoadModel(checkpoint.path("config.json")).status();
  EXPECT_EQ(
      Shorten(file, checkpoint.folder()),
      "DIR/config.json: expected a folder with config.json and *.safetensors, got a file; name the folder");
  checkpoint.Remove("config.json");
  EXPECT_EQ(LoadError(checkpoint, absl::StatusCode::kNotFound),
            "DIR/config.json: no such file; check the folder's path");
  TempCheckpoint weightless("llama2_mha");
  weightless.Remove("model.safetensors");
  EXPECT_EQ(LoadError(weightless, absl::StatusCode::kNotFound),
            "DIR: no weights, expected model.safetensors or model.safetensors.index.json; download or copy "
            "the whole "
            "folder");
}

TEST(CheckpointErrors, UnsupportedArchitectureListsTheSupported) {
  TempCheckpoint checkpoint;
  checkpoint.Write("config.json", R"({"architectures": ["MixtralForCausalLM"]})");
  EXPECT_EQ(
      LoadError(checkpoint),
      "DIR/config.json: architectures: unsupported architecture \"MixtralForCausalLM\", expected one of: "
      "LlamaForCausalLM, Qwen3ForCausalLM; choose another model");
}

TEST(CheckpointErrors, MissingKey) {
  TempCheckpoint checkpoint("llama2_mha");
  checkpoint.Replace("config.json", "\"hidden_size\"", "\"hidden_sizes\"");
  EXPECT_EQ(LoadError(checkpoint),
            "DIR/config.json: hidden_size: key missing, expected an integer from 1 to 1048576; take "
            "config.json from "
            "the model's source");
}

TEST(CheckpointErrors, MalformedConfig) {
  TempCheckpoint checkpoint("llama2_mha");
  checkpoint.Write("config.json", checkpoint.Read("config.json").substr(0, 40));
  EXPECT_EQ(LoadError(checkpoint),
            "DIR/config.json:3:18: not valid JSON (it ends too early); the file is damaged: copy or download "
            "it again");
  checkpoint.Write("config.json", "");
  EXPECT_EQ(LoadError(checkpoint),
            "DIR/config.json:1:1: not valid JSON (it ends too early); the file is damaged: copy or download "
            "it again");
}

TEST(CheckpointErrors, DamagedWeights) {
  TempCheckpoint checkpoint("llama2_mha");
  const std::string whole = checkpoint.Read("model.safetensors");
  checkpoint.Write("model.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_THAT(LoadError(checkpoint),
              testing::MatchesRegex(
                  "DIR/model.safetensors: tensor \"model.norm.weight\": its data ends at byte [0-9]+ "
                  "but the file holds only [0-9]+ bytes of data: truncated; the file is damaged: "
                  "copy or download it again"));
  checkpoint.Write("model.safetensors", whole + "x");
  EXPECT_EQ(LoadError(checkpoint),
            "DIR/model.safetensors: oversized: 1 bytes follow the last tensor, expected none; the file is "
            "damaged: copy "
            "or download it again");
}

TEST(CheckpointErrors, ShapesThatTheConfigDoesNotAskFor) {
  const std::string apart = "; weights and config.json do not belong together";
  TempCheckpoint checkpoint("llama3_gqa");
  checkpoint.Replace("config.json", "\"intermediate_size\": 90", "\"intermediate_size\": 91");
  EXPECT_EQ(
      LoadError(checkpoint),
      "DIR/model.safetensors: tensor \"model.layers.0.mlp.gate_proj.weight\": expected shape [91, 76] by "
      "DIR/config.json, got [90, 76]" +
          apart);
  TempCheckpoint deeper("llama3_gqa");
  deeper.Replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  EXPECT_EQ(LoadError(deeper),
            "DIR: tensor \"model.layers.2.input_layernorm.weight\" is missing from the weights, expected "
            "shape [76] by "
            "DIR/config.json" +
                apart + ", or the download is incomplete");
  TempCheckpoint untied("llama3_gqa");
  untied.Replace("config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  EXPECT_EQ(LoadError(untied),
            "DIR: tensor \"lm_head.weight\" is missing from the weights, expected shape [307, 76] by "
            "DIR/config.json" +
                apart + ", or the download is incomplete");
  TempCheckpoint qwen("qwen3_gqa");
  qwen.Replace("model.safetensors", "model.layers.1.self_attn.q_norm", "model.layers.1.self_attn.p_norm");
  EXPECT_EQ(LoadError(qwen),
            "DIR: tensor \"model.layers.1.self_attn.q_norm.weight\" is missing from the weights, expected "
            "shape [18] "
            "by DIR/config.json" +
                apart + ", or the download is incomplete");
}

TEST(CheckpointErrors, DtypesThatAreNotComputedWith) {
  TempCheckpoint checkpoint("llama2_mha");
  std::string file = checkpoint.Read("model.safetensors");
  // The same bytes as 16-bit integers.
  const size_t at = file.find("\"dtype\":\"BF16\"", file.find("\"model.norm.weight\""));
  file.replace(at, 14, "\"dtype\":\"I16\" ");
  checkpoint.Write("model.safetensors", file);
  EXPECT_EQ(LoadError(checkpoint),
            "DIR/model.safetensors: tensor \"model.norm.weight\": expected dtype BF16, F16 or F32, got I16; "
            "use the "
            "model's bf16, fp16 or fp32 weights");
}

// Adds a tensor at the end of a file.
std::string WithTensor(const std::string& file, const std::string& name, const std::string& dtype,
                       const std::string& shape, const std::string& data) {
  std::string header = HeaderOf(file);
  const std::string old_data = file.substr(8 + header.size());
  header.erase(header.rfind('}'));
  header += ",\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
            std::to_string(old_data.size()) + "," + std::to_string(old_data.size() + data.size()) + "]}}";
  return SafetensorsFile(header, old_data + data);
}

TEST(Checkpoint, UnknownTensorsAreIgnored) {
  TempCheckpoint checkpoint("llama2_mha");
  std::string file = checkpoint.Read("model.safetensors");
  file = WithTensor(file, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[1]",
                    std::string(4, '\xff'));  // NaN
  file = WithTensor(file, "step", "I64", "[]", std::string(8, '\0'));
  checkpoint.Write("model.safetensors", file);
  EXPECT_TRUE(LoadModel(checkpoint.folder()).ok()) << LoadModel(checkpoint.folder()).status();
  EXPECT_TRUE(CheckWeightsFinite(checkpoint.folder()).ok()) << CheckWeightsFinite(checkpoint.folder());
}

TEST(Checkpoint, Inspection) {
  const std::string folder = GoldenFolder("llama2_mha");
  const auto info = InspectCheckpoint(folder);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->shape.architecture, "LlamaForCausalLM");
  EXPECT_EQ(info->shape.n_layers, 3);
  EXPECT_EQ(info->shape.hidden, 60);
  EXPECT_EQ(info->shape.n_heads, 3);
  EXPECT_EQ(info->shape.n_kv_heads, 3);
  EXPECT_EQ(info->shape.head_dim, 20);
  EXPECT_EQ(info->shape.n_vocab, 131);
  EXPECT_EQ(info->shape.max_context, 128);
  EXPECT_EQ(info->shape.weight_dtype, DType::kBf16);
  const int64_t per_layer = 4 * 60 * 60 + 3 * 60 * 85 + 2 * 60;
  EXPECT_EQ(info->shape.n_parameters, 3 * per_layer + 60 + 2 * 131 * 60);
  EXPECT_EQ(info->total_bytes, 2 * info->shape.n_parameters);
  EXPECT_EQ(info->shape.weight_bytes, info->total_bytes - 2 * 131 * 60);  // of the table one row is read
  EXPECT_EQ(info->config_dtype, "bfloat16");
  EXPECT_EQ(info->tensors.size(), 3u * 9 + 3);
  EXPECT_EQ(info->tensors[0].name, "lm_head.weight");
  EXPECT_EQ(info->tensors[0].dtype, "BF16");
  EXPECT_THAT(info->tensors[0].shape, testing::ElementsAre(131, 60));
  EXPECT_EQ(info->tensors[0].bytes, 2 * 131 * 60);
  EXPECT_TRUE(info->tensors[0].used);
  EXPECT_THAT(info->generation.eos_ids, testing::ElementsAre(2));
  const auto tied = InspectCheckpoint(GoldenFolder("llama3_gqa"));
  ASSERT_TRUE(tied.ok()) << tied.status();
  EXPECT_EQ(tied->shape.weight_bytes, tied->total_bytes);
}

// Overwrites element `i` of a tensor of `element` bytes.
void Poke(const TempCheckpoint& checkpoint, const std::string& file, const std::string& tensor,
          size_t element, size_t i, const std::string& bits) {
  std::string bytes = checkpoint.Read(file);
  const auto tensors = ParseSafetensors(std::as_bytes(std::span(bytes)), file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  size_t at = 0;
  for (const Tensor& t : *tensors) {
    if (t.name == tensor) at = reinterpret_cast<const char*>(t.data.data()) - bytes.data() + i * element;
  }
  ASSERT_NE(at, 0u);
  checkpoint.Write(file, bytes.replace(at, element, bits));
}

TEST(CheckpointErrors, NonFiniteWeightsAreFound) {
  for (const char* name : {"llama2_mha", "llama3_gqa", "llama_mqa_sharded", "qwen3_gqa", "qwen3_fp32"}) {
    EXPECT_TRUE(CheckWeightsFinite(GoldenFolder(name)).ok());
  }
  const std::string cure = ", expected finite weights; download the checkpoint again or use another";
  const auto error = [](const TempCheckpoint& checkpoint) {
    const absl::Status status = CheckWeightsFinite(checkpoint.folder());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return Shorten(status, checkpoint.folder());
  };
  TempCheckpoint bf16("llama2_mha");
  Poke(bf16, "model.safetensors", "model.layers.1.mlp.down_proj.weight", 2, 5099, "\xc0\x7f");
  EXPECT_EQ(error(bf16),
            "DIR/model.safetensors: tensor \"model.layers.1.mlp.down_proj.weight\": element 5099 of [60, 85] "
            "is NaN" +
                cure);
  TempCheckpoint fp16("llama_mqa_sharded");
  Poke(fp16, "model-00001-of-00004.safetensors", "model.embed_tokens.weight", 2, 0,
       std::string("\x00\xfc", 2));
  EXPECT_EQ(
      error(fp16),
      "DIR/model-00001-of-00004.safetensors: tensor \"model.embed_tokens.weight\": element 0 of [97, 70] is "
      "infinite" +
          cure);
  TempCheckpoint fp32("qwen3_fp32");
  Poke(fp32, "model.safetensors", "model.norm.weight", 4, 35, std::string("\x00\x00\x80\x7f", 4));
  EXPECT_EQ(error(fp32),
            "DIR/model.safetensors: tensor \"model.norm.weight\": element 35 of [36] is infinite" + cure);
}

// A byte of config.json replaced, or the file cut: an error or a model, never a crash.
TEST(CheckpointErrors, DamagedConfigsNeverCrash) {
  TempCheckpoint checkpoint("qwen3_fp32");
  const std::string whole = checkpoint.Read("config.json");
  for (size_t length = 0; length < whole.rfind('}'); ++length) {
    checkpoint.Write("config.json", whole.substr(0, length));
    EXPECT_FALSE(LoadModel(checkpoint.folder()).ok()) << length;
  }
  std::mt19937 random(11);
  int n_loaded = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    std::string damaged = whole;
    damaged[random() % damaged.size()] =
        random() % 2 == 0 ? "0123456789[]{},:\"-.e"[random() % 20] : static_cast<char>(random());
    checkpoint.Write("config.json", damaged);
    const auto model = LoadModel(checkpoint.folder());
    if (model.ok()) {
      ++n_loaded;
    } else {
      EXPECT_EQ(model.status().message().find('\n'), absl::string_view::npos) << model.status();
    }
  }
  EXPECT_GT(n_loaded, 0);
}

}  // namespace
}  // namespace tandem
