// Model: one checkpoint's weights and what a forward of it looks like. Const after loading and shared: a self-draft
// loads once. It owns no cache and no workspace (ModelRunner does). Its weights are on one device, and it runs there;
// what it emits is the same for any.
//
// An architecture is one file in runtime/model/arch: it reads the config, checks and views the weights, and emits the
// steps of a forward. Thread-compatible.
#ifndef TANDEM_RUNTIME_MODEL_MODEL_H_
#define TANDEM_RUNTIME_MODEL_MODEL_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/buffer.h"
#include "runtime/core/kv.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/core/status.h"

namespace tandem {

// The sizes that caches, plans and reports need.
struct ModelShape {
  std::string architecture;  // as config.json names it
  int32_t n_layers = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;  // of the MLP
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t n_vocab = 0;      // rows of the head
  int32_t max_context = 0;  // max_position_embeddings
  int64_t n_parameters = 0;
  int64_t weight_bytes = 0;  // as stored, read once per forward (the embedding table apart if it is not tied)
  DType weight_dtype = DType::kF32;  // of most weights
};

// What config.json and generation_config.json say about generating. A request's own settings come before these.
struct GenerationDefaults {
  Sampling sampling;             // greedy unless do_sample is true; a setting that is absent is off
  std::vector<int32_t> eos_ids;  // generation_config.json's, or else config.json's
  std::optional<int32_t> bos_id;
  std::vector<std::string>
      ignored;  // settings with no counterpart here, "repetition_penalty = 1.1": to warn about
};

// What products read: fp32 inputs (the reference), or inputs rounded to bf16, with a cache to match.
enum class ActivationDType : int32_t { kF32, kBf16 };

// Activations of one forward; allocated by the model, owned by the runner, reused by every forward of it.
struct Workspace {
  int32_t max_rows = 0;
  int32_t n_workers = 0;
  float* x = nullptr;          // [max_rows, hidden] the residual stream
  float* q = nullptr;          // [max_rows, n_heads * head_dim]
  float* k = nullptr;          // [max_rows, n_kv_heads * head_dim]
  float* v = nullptr;          // [max_rows, n_kv_heads * head_dim]
  float* attention = nullptr;  // [max_rows, n_heads * head_dim]
  float* gate = nullptr;       // [max_rows, intermediate]
  float* up = nullptr;         // [max_rows, intermediate]
  float* cos_sin = nullptr;    // [max_rows, head_dim]
  float* scratch = nullptr;    // per worker, as LinearArgs::scratch
};

// The bytes of a decoder's workspace, as its NewWorkspace allocates them one by one.
std::vector<int64_t> WorkspaceSizes(const ModelShape& shape, int32_t max_rows, int32_t n_workers);

// One forward to emit: which rows, on which caches, and where its logits go.
struct Forward {
  RowPlan rows;
  const KvLayer* kv = nullptr;  // [n_layers]
  Workspace workspace;
  ActivationDType dtype = ActivationDType::kF32;
  LawBuffer out;  // out.logits null: no head (prefill)
};

class Model {
 public:
  virtual ~Model() = default;

  const ModelShape& shape() const { return shape_; }
  const GenerationDefaults& generation() const { return generation_; }
  Device device() const { return device_; }
  virtual Workspace NewWorkspace(Arena& arena, int32_t max_rows, int32_t n_workers) const = 0;
  // Appends the steps of a forward, from embed to logits, at the program's current lane and phase. Plan, advance and
  // law steps are the caller's.
  virtual void Emit(Program& program, const Forward& forward) const = 0;

 protected:
  ModelShape shape_;
  GenerationDefaults generation_;
  Device device_;
};

// Loads the checkpoint in `folder` (config.json and safetensors, as Hugging Face writes them); its weights are mapped on
// the CPU and copied to a CUDA device, whose memory must hold them (runtime/memory_plan.h looks before). Errors name the
// file, the key or tensor, what was expected and the cure; kUnavailable: there is no such device.
absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& folder, Device device = {});

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_MODEL_H_
