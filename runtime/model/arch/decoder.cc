#include "runtime/model/arch/decoder.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "kernels/attention/attention.h"
#include "kernels/embed/embed.h"
#include "kernels/linear/linear.h"
#include "kernels/rope/rope.h"
#include "kernels/silu_gate/silu_gate.h"
#include "runtime/core/check.h"

namespace tandem {
namespace {

// All rows of the forward, input and outputs row by row; the caller adds norm and segments.
LinearArgs LinearOf(const Forward& forward, const float* in, int32_t in_dim) {
  LinearArgs args = {};
  args.in = in;
  args.in_stride = in_dim;
  args.in_dim = in_dim;
  args.round_bf16 = forward.dtype == ActivationDType::kBf16;
  args.n_rows = forward.rows.n_rows;
  args.max_rows = forward.rows.capacity;
  args.scratch = forward.workspace.scratch;
  return args;
}

void AddSegment(LinearArgs& args, View weight, View bias, float* out, bool accumulate = false) {
  args.segment[args.n_segments++] = {weight, bias, out, weight.n_rows, accumulate};
}

}  // namespace

DecoderModel::DecoderModel(const ModelConfig& config, GenerationDefaults generation) : config_(config) {
  generation_ = std::move(generation);
  shape_.architecture = config.architecture;
  shape_.n_layers = config.n_layers;
  shape_.hidden = config.hidden;
  shape_.intermediate = config.intermediate;
  shape_.n_heads = config.n_heads;
  shape_.n_kv_heads = config.n_kv_heads;
  shape_.head_dim = config.head_dim;
  shape_.n_vocab = config.n_vocab;
  shape_.max_context = config.max_context;
}

View DecoderModel::ReadEmbedding(WeightReader& weights) const {
  return weights.Matrix("model.embed_tokens.weight", config_.n_vocab, config_.hidden);
}

AttentionWeights DecoderModel::ReadAttention(WeightReader& weights, const std::string& layer) const {
  const std::string attention = layer + "self_attn.";
  const int64_t hidden = config_.hidden;
  const int64_t q_dim = config_.q_dim();
  const int64_t kv_dim = config_.kv_dim();
  AttentionWeights read;
  read.norm = weights.Vector(layer + "input_layernorm.weight", hidden);
  read.q = weights.Matrix(attention + "q_proj.weight", q_dim, hidden);
  read.k = weights.Matrix(attention + "k_proj.weight", kv_dim, hidden);
  read.v = weights.Matrix(attention + "v_proj.weight", kv_dim, hidden);
  read.o = weights.Matrix(attention + "o_proj.weight", hidden, q_dim);
  if (config_.attention_bias) {
    read.q_bias = weights.Vector(attention + "q_proj.bias", q_dim);
    read.k_bias = weights.Vector(attention + "k_proj.bias", kv_dim);
    read.v_bias = weights.Vector(attention + "v_proj.bias", kv_dim);
    read.o_bias = weights.Vector(attention + "o_proj.bias", hidden);
  }
  return read;
}

GatedMlpWeights DecoderModel::ReadGatedMlp(WeightReader& weights, const std::string& layer) const {
  const std::string mlp = layer + "mlp.";
  const int64_t hidden = config_.hidden;
  const int64_t intermediate = config_.intermediate;
  GatedMlpWeights read;
  read.norm = weights.Vector(layer + "post_attention_layernorm.weight", hidden);
  read.gate = weights.Matrix(mlp + "gate_proj.weight", intermediate, hidden);
  read.up = weights.Matrix(mlp + "up_proj.weight", intermediate, hidden);
  read.down = weights.Matrix(mlp + "down_proj.weight", hidden, intermediate);
  if (config_.mlp_bias) {
    read.gate_bias = weights.Vector(mlp + "gate_proj.bias", intermediate);
    read.up_bias = weights.Vector(mlp + "up_proj.bias", intermediate);
    read.down_bias = weights.Vector(mlp + "down_proj.bias", hidden);
  }
  return read;
}

HeadWeights DecoderModel::ReadHead(WeightReader& weights, View embedding) const {
  HeadWeights read;
  read.norm = weights.Vector("model.norm.weight", config_.hidden);
  read.head = config_.tied ? embedding : weights.Matrix("lm_head.weight", config_.n_vocab, config_.hidden);
  return read;
}

void DecoderModel::FinishReading(const WeightReader& weights, View embedding) {
  weights_ = weights.weights();
  copies_ = weights.copies();
  device_ = weights.device();
  const std::vector<float> inv_freq = InverseFrequencies(config_.rope, config_.head_dim);
  inv_freq_ = copies_->Copy(inv_freq.data(), inv_freq.size());
  int64_t bytes_of[3] = {0, 0, 0};
  for (const Tensor* tensor : weights.used()) {
    shape_.n_parameters += tensor->n_elements();
    shape_.weight_bytes += static_cast<int64_t>(tensor->data.size());
    bytes_of[static_cast<int>(*tensor->dtype)] += static_cast<int64_t>(tensor->data.size());
  }
  if (!config_.tied) shape_.weight_bytes -= static_cast<int64_t>(embedding.bytes());
  shape_.weight_dtype = static_cast<DType>(std::max_element(bytes_of, bytes_of + 3) - bytes_of);
}

std::vector<int64_t> WorkspaceSizes(const ModelShape& shape, int32_t max_rows, int32_t n_workers) {
  const int64_t rows = max_rows, q_dim = int64_t{shape.n_heads} * shape.head_dim,
                kv_dim = int64_t{shape.n_kv_heads} * shape.head_dim;
  int64_t scratch = 0;  // of one worker, for the widest product
  for (const int64_t in_dim : {int64_t{shape.hidden}, q_dim, int64_t{shape.intermediate}}) {
    scratch = std::max(scratch, LinearScratch(max_rows, static_cast<int32_t>(in_dim)));
  }
  std::vector<int64_t> sizes;
  for (const int64_t n :
       {rows * shape.hidden, rows * q_dim, rows * kv_dim, rows * kv_dim, rows * q_dim,
        rows * shape.intermediate, rows * shape.intermediate, rows * shape.head_dim, scratch * n_workers}) {
    sizes.push_back(n * static_cast<int64_t>(sizeof(float)));
  }
  return sizes;
}

Workspace DecoderModel::NewWorkspace(Arena& arena, int32_t max_rows, int32_t n_workers) const {
  Workspace workspace;
  workspace.max_rows = max_rows;
  workspace.n_workers = n_workers;
  const std::vector<int64_t> sizes = WorkspaceSizes(shape_, max_rows, n_workers);
  float** const buffers[] = {&workspace.x,  &workspace.q,         &workspace.k,
                             &workspace.v,  &workspace.attention, &workspace.gate,
                             &workspace.up, &workspace.cos_sin,   &workspace.scratch};
  TANDEM_CHECK(sizes.size() == std::size(buffers));
  for (size_t i = 0; i < sizes.size(); ++i)
    *buffers[i] = arena.New<float>(static_cast<size_t>(sizes[i]) / sizeof(float));
  return workspace;
}

DecoderModel::Steps::Steps(const DecoderModel& model, Program& program, const Forward& forward)
    : model_(model), program_(program), forward_(forward) {
  TANDEM_CHECK(forward.rows.capacity <= forward.workspace.max_rows)
      << forward.rows.capacity << " rows planned, " << forward.workspace.max_rows << " in the workspace";
}

void DecoderModel::Steps::Embed(View table) {
  program_.Add(EmbedArgs{table, forward_.rows, forward_.workspace.x});
  program_.Add(
      RopeAnglesArgs{forward_.rows, model_.inv_freq_, model_.config_.head_dim, forward_.workspace.cos_sin});
}

void DecoderModel::Steps::KeysAndValues(const AttentionWeights& weights, int32_t layer) {
  const Workspace& space = forward_.workspace;
  LinearArgs qkv = LinearOf(forward_, space.x, model_.config_.hidden);
  qkv.norm = weights.norm;
  qkv.norm_eps = model_.config_.norm_eps;
  AddSegment(qkv, weights.q, weights.q_bias, space.q);
  AddSegment(qkv, weights.k, weights.k_bias, space.k);
  AddSegment(qkv, weights.v, weights.v_bias, space.v);
  program_.Add(qkv);

  RopeAppendArgs append = {};
  append.rows = forward_.rows;
  append.q = space.q;
  append.k = space.k;
  append.v = space.v;
  append.q_norm = weights.q_norm;
  append.k_norm = weights.k_norm;
  append.norm_eps = model_.config_.norm_eps;
  append.cos_sin = space.cos_sin;
  append.n_heads = model_.config_.n_heads;
  append.kv = forward_.kv[layer];
  program_.Add(append);
}

void DecoderModel::Steps::Attention(const AttentionWeights& weights, int32_t layer) {
  const Workspace& space = forward_.workspace;
  KeysAndValues(weights, layer);
  AttentionArgs attention = {};
  attention.rows = forward_.rows;
  attention.q = space.q;
  attention.kv = forward_.kv[layer];
  attention.n_heads = model_.config_.n_heads;
  attention.scale = 1 / std::sqrt(static_cast<float>(model_.config_.head_dim));
  attention.out = space.attention;
  program_.Add(attention);

  LinearArgs o = LinearOf(forward_, space.attention, model_.config_.q_dim());
  o.only_reader = true;
  AddSegment(o, weights.o, weights.o_bias, space.x, /*accumulate=*/true);
  program_.Add(o);
}

void DecoderModel::Steps::GatedMlp(const GatedMlpWeights& weights) {
  const Workspace& space = forward_.workspace;
  LinearArgs gate_up = LinearOf(forward_, space.x, model_.config_.hidden);
  gate_up.norm = weights.norm;
  gate_up.norm_eps = model_.config_.norm_eps;
  AddSegment(gate_up, weights.gate, weights.gate_bias, space.gate);
  AddSegment(gate_up, weights.up, weights.up_bias, space.up);
  program_.Add(gate_up);

  program_.Add(SiluGateArgs{forward_.rows.n_rows, model_.config_.intermediate, space.gate, space.up});

  LinearArgs down = LinearOf(forward_, space.gate, model_.config_.intermediate);
  down.only_reader = true;
  AddSegment(down, weights.down, weights.down_bias, space.x, /*accumulate=*/true);
  program_.Add(down);
}

void DecoderModel::Steps::Head(const HeadWeights& weights) {
  if (!has_head()) return;
  LinearArgs head = LinearOf(forward_, forward_.workspace.x, model_.config_.hidden);
  head.norm = weights.norm;
  head.norm_eps = model_.config_.norm_eps;
  head.n_rows = forward_.rows.n_logits;
  head.src = forward_.rows.logits_row;
  head.dst = forward_.rows.logits_out;
  AddSegment(head, weights.head, {}, forward_.out.logits);
  head.segment[0].out_stride = forward_.out.stride;
  program_.Add(head);
}

}  // namespace tandem
