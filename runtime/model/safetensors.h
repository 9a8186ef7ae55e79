// Safetensors: the weights of a checkpoint folder, mapped and not copied. One file or shards with an index.
//
// A file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, and
// the data: https://github.com/huggingface/safetensors, "Format". Everything a header says is checked before
// a byte of data is believed: offsets inside the file, no overlap, no hole, bytes = shape x dtype, names
// once. Data is not aligned.
//
// Const after opening and shared by the models that view it; any thread may read it.
#ifndef TANDEM_RUNTIME_MODEL_SAFETENSORS_H_
#define TANDEM_RUNTIME_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/device.h"
#include "runtime/core/status.h"
#include "runtime/core/view.h"

namespace tandem {

struct Tensor {
  std::string name;
  std::string dtype_name;      // as the header spells it
  std::optional<DType> dtype;  // nothing: one that tandem does not compute with
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
  int32_t file = 0;  // index into Safetensors::files()

  int64_t n_elements() const;
};

// The tensors of one file's bytes, sorted by offset; `path` is for errors alone. kFailedPrecondition if the
// header and the file do not agree. Tensor::data points into `bytes`.
absl::StatusOr<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                     const std::string& path);

class Safetensors {
 public:
  // model.safetensors of `folder`, or the shards that model.safetensors.index.json names.
  // kNotFound: neither is there, or a shard is missing. kFailedPrecondition: a damaged file or index.
  static absl::StatusOr<std::shared_ptr<const Safetensors>> Open(const std::string& folder);
  // Tensors that are in memory of `device` already; `owner` keeps their data. `name` stands where a path would, in
  // errors.
  static std::shared_ptr<const Safetensors> Hold(const std::string& name, std::vector<Tensor> tensors,
                                                 std::shared_ptr<const void> owner, Device device = {});
  ~Safetensors();
  Safetensors(const Safetensors&) = delete;
  Safetensors& operator=(const Safetensors&) = delete;

  const Tensor* Find(std::string_view name) const;  // null if there is none
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  const std::vector<std::string>& files() const { return files_; }  // paths
  Device device() const { return device_; }                         // where the data lies

 private:
  class Mapping;
  Safetensors();
  absl::Status Add(const std::string& path);

  std::vector<std::string> files_;
  std::vector<Mapping> mappings_;
  std::shared_ptr<const void> owner_;
  Device device_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// "[3, 5]"
std::string ShapeText(std::span<const int64_t> shape);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_SAFETENSORS_H_
