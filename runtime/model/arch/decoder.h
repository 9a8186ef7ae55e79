// What decoder-only transformers of Llama's line have in common: attention with rope over a KV cache, a gated
// MLP, RMS norms before both. An architecture's file reads its weights through these structs and lists its
// blocks in order; the steps of a block are here once. Nothing here names a device.
#ifndef TANDEM_RUNTIME_MODEL_ARCH_DECODER_H_
#define TANDEM_RUNTIME_MODEL_ARCH_DECODER_H_

#include <memory>
#include <string>
#include <vector>

#include "runtime/core/view.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"

namespace tandem {

struct AttentionWeights {
  View norm;                            // [1, hidden]
  View q, k, v;                         // [q_dim, hidden], [kv_dim, hidden], [kv_dim, hidden]
  View o;                               // [hidden, q_dim]
  View q_bias, k_bias, v_bias, o_bias;  // optional
  View q_norm, k_norm;                  // [1, head_dim], optional: RMS norm of each head before the rotation
};

struct GatedMlpWeights {
  View norm;                           // [1, hidden]
  View gate, up;                       // [intermediate, hidden]
  View down;                           // [hidden, intermediate]
  View gate_bias, up_bias, down_bias;  // optional
};

struct HeadWeights {
  View norm;  // [1, hidden]
  View head;  // [n_vocab, hidden]; the embedding table if tied
};

class DecoderModel : public Model {
 public:
  Workspace NewWorkspace(Arena& arena, int32_t max_rows, int32_t n_workers) const override;

 protected:
  DecoderModel(const ModelConfig& config, GenerationDefaults generation);

  // Tensors under Hugging Face's names; `layer` is as "model.layers.0.".
  View ReadEmbedding(WeightReader& weights) const;
  AttentionWeights ReadAttention(WeightReader& weights, const std::string& layer) const;
  GatedMlpWeights ReadGatedMlp(WeightReader& weights, const std::string& layer) const;
  HeadWeights ReadHead(WeightReader& weights, View embedding) const;
  // The last call of a constructor: fills in the shape from what was read and holds the mapped weights.
  void FinishReading(const WeightReader& weights, View embedding);

  // Appends the steps of one forward, block by block, in the order of the calls.
  class Steps {
   public:
    Steps(const DecoderModel& model, Program& program, const Forward& forward);
    // A forward without a head is there for its K and V: its last layer ends at KeysAndValues.
    bool has_head() const { return forward_.out.logits != nullptr; }
    void Embed(View table);
    void KeysAndValues(const AttentionWeights& weights, int32_t layer);
    void Attention(const AttentionWeights& weights, int32_t layer);  // KeysAndValues first
    void GatedMlp(const GatedMlpWeights& weights);
    void Head(const HeadWeights& weights);

   private:
    const DecoderModel& model_;
    Program& program_;
    const Forward& forward_;
  };

  ModelConfig config_;

 private:
  const float* inv_freq_ = nullptr;  // [head_dim / 2]
  std::shared_ptr<const Safetensors> weights_;
  std::shared_ptr<Arena> copies_;  // of what steps read: inv_freq; on a CUDA device the weights
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ARCH_DECODER_H_
