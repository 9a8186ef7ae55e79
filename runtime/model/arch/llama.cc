#include "runtime/model/arch/llama.h"

#include <utility>

#include "runtime/model/arch/decoder.h"

namespace tandem {
namespace {

class Llama final : public DecoderModel {
 public:
  Llama(const ModelConfig& config, GenerationDefaults generation, WeightReader& weights)
      : DecoderModel(config, std::move(generation)) {
    embedding_ = ReadEmbedding(weights);
    for (int32_t i = 0; i < config.n_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      layers_.push_back({ReadAttention(weights, layer), ReadGatedMlp(weights, layer)});
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

std::shared_ptr<const Model> MakeLlama(const ModelConfig& config, GenerationDefaults generation,
                                       WeightReader& weights) {
  return std::make_shared<const Llama>(config, std::move(generation), weights);
}

}  // namespace tandem
