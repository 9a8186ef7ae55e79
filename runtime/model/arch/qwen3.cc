#include "runtime/model/arch/qwen3.h"

#include <utility>

#include "runtime/model/arch/decoder.h"

namespace tandem {
namespace {

class Qwen3 final : public DecoderModel {
 public:
  Qwen3(const ModelConfig& config, GenerationDefaults generation, WeightReader& weights)
      : DecoderModel(config, std::move(generation)) {
    embedding_ = ReadEmbedding(weights);
    for (int32_t i = 0; i < config.n_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      AttentionWeights attention = ReadAttention(weights, layer);
      attention.q_norm = weights.Vector(layer + "self_attn.q_norm.weight", config.head_dim);
      attention.k_norm = weights.Vector(layer + "self_attn.k_norm.weight", config.head_dim);
      layers_.push_back({attention, ReadGatedMlp(weights, layer)});
    }
    head_ = ReadHead(weights, embedding_);
    FinishReading(weights, embedding_);
  }

  void Emit(Program& program, const Forward& forward) const override {
    Steps steps(*this, program, forward);
    steps.Embed(embedding_);
    for (int32_t i = 0; i < config_.n_layers; ++i) {
      if (!steps.has_head() && i == config_.n_layers - 1) return steps.KeysAndValues(layers_[i].attention, i);
      steps.Attention(layers_[i].attention, i);
      steps.GatedMlp(layers_[i].mlp);
    }
    steps.Head(head_);
  }

 private:
  struct Layer {
    AttentionWeights attention;
    GatedMlpWeights mlp;
  };
  View embedding_;
  std::vector<Layer> layers_;
  HeadWeights head_;
};

}  // namespace

std::shared_ptr<const Model> MakeQwen3(const ModelConfig& config, GenerationDefaults generation,
                                       WeightReader& weights) {
  return std::make_shared<const Qwen3>(config, std::move(generation), weights);
}

}  // namespace tandem
