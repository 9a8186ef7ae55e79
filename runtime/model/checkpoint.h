// A checkpoint folder as a whole: what it holds, without running it, and the reader that architectures take
// their weights from. Reading headers touches no weights: inspecting a model of any size takes milliseconds.
#ifndef TANDEM_RUNTIME_MODEL_CHECKPOINT_H_
#define TANDEM_RUNTIME_MODEL_CHECKPOINT_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/core/view.h"
#include "runtime/model/config.h"
#include "runtime/model/model.h"
#include "runtime/model/safetensors.h"

namespace tandem {

// WeightReader: hands an architecture its tensors, checked against the shapes that the config asks for. It
// keeps the first error (see status()), after which every view is empty, so that an architecture reads as a
// list. Where the weights are not on `device` already, the views are of copies there.
class WeightReader {
 public:
  WeightReader(std::shared_ptr<const Safetensors> weights, const ModelConfig& config,
               const std::string& folder, Device device = {});

  View Matrix(const std::string& name, int64_t n_rows, int64_t n_cols);  // stored as [n_rows, n_cols]
  View Vector(const std::string& name, int64_t n);                       // stored as [n]; a view of [1, n]

  const absl::Status& status() const { return status_; }
  const std::shared_ptr<const Safetensors>& weights() const { return weights_; }
  const std::set<const Tensor*>& used() const { return used_; }
  Device device() const { return copies_->device(); }
  // What holds the views' data, beside weights(). A model keeps both.
  const std::shared_ptr<Arena>& copies() const { return copies_; }

 private:
  View Read(const std::string& name, const std::vector<int64_t>& shape);

  std::shared_ptr<const Safetensors> weights_;
  std::string folder_;
  std::string config_path_;
  std::set<const Tensor*> used_;
  std::shared_ptr<Arena> copies_;
  std::map<const Tensor*, const void*> copy_of_;
  absl::Status status_;
};

struct TensorInfo {
  std::string name;
  std::string dtype;  // as the file spells it
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  bool used = false;  // by the architecture; others are ignored
};

struct CheckpointInfo {
  ModelShape shape;
  GenerationDefaults generation;
  std::string config_dtype;         // as config.json states it; "" if it does not
  std::vector<std::string> files;   // the safetensors files' paths
  std::vector<TensorInfo> tensors;  // sorted by name
  int64_t total_bytes = 0;          // of all tensors
};

// Reads config.json, generation_config.json and the headers of the weights. Errors as LoadModel.
absl::StatusOr<CheckpointInfo> InspectCheckpoint(const std::string& folder);

// kFailedPrecondition, naming file, tensor and element, if a weight is NaN or infinite. Reads every weight
// once.
absl::Status CheckWeightsFinite(const std::string& folder);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_CHECKPOINT_H_
