#include "runtime/model/checkpoint.h"

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "runtime/core/cuda.h"
#include "runtime/model/arch/registry.h"
#include "runtime/model/json.h"

namespace tandem {

WeightReader::WeightReader(std::shared_ptr<const Safetensors> weights, const ModelConfig& config,
                           const std::string& folder, Device device)
    : weights_(std::move(weights)),
      folder_(folder),
      config_path_(config.path),
      copies_(std::make_shared<Arena>(device)) {}

View WeightReader::Matrix(const std::string& name, int64_t n_rows, int64_t n_cols) {
  View view = Read(name, {n_rows, n_cols});
  view.n_rows = n_rows;
  view.n_cols = n_cols;
  return view;
}

View WeightReader::Vector(const std::string& name, int64_t n) {
  View view = Read(name, {n});
  view.n_rows = 1;
  view.n_cols = n;
  return view;
}

View WeightReader::Read(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok()) return {};
  const Tensor* tensor = weights_->Find(name);
  if (tensor == nullptr) {
    status_ = absl::FailedPreconditionError(
        absl::StrCat(folder_, ": tensor ", Quoted(name), " is missing from the weights, expected shape ",
                     ShapeText(shape), " by ", config_path_,
                     "; weights and config.json do not belong together, or the download is incomplete"));
    return {};
  }
  const std::string& path = weights_->files()[tensor->file];
  if (tensor->shape != shape) {
    status_ = absl::FailedPreconditionError(absl::StrCat(
        path, ": tensor ", Quoted(name), ": expected shape ", ShapeText(shape), " by ", config_path_,
        ", got ", ShapeText(tensor->shape), "; weights and config.json do not belong together"));
    return {};
  }
  if (!tensor->dtype) {
    status_ = absl::FailedPreconditionError(
        absl::StrCat(path, ": tensor ", Quoted(name), ": expected dtype BF16, F16 or F32, got ",
                     tensor->dtype_name, "; use the model's bf16, fp16 or fp32 weights"));
    return {};
  }
  used_.insert(tensor);
  const void* data = tensor->data.data();
  if (device() != weights_->device()) {
    const void*& copy = copy_of_[tensor];
    if (copy == nullptr) copy = copies_->Copy(tensor->data.data(), tensor->data.size());
    data = copy;
  }
  return {.data = data, .dtype = *tensor->dtype};
}

namespace {

struct Loaded {
  ModelConfig config;
  std::shared_ptr<const Safetensors> weights;
  std::set<const Tensor*> used;
  std::shared_ptr<const Model> model;
};

absl::StatusOr<Loaded> Load(const std::string& folder, Device device = {}) {
  struct stat info = {};
  if (::stat(folder.c_str(), &info) != 0) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no such folder, expected a Hugging Face checkpoint; check the path"));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::NotFoundError(absl::StrCat(
        folder, ": expected a folder with config.json and *.safetensors, got a file; name the folder"));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string name, ReadArchitecture(folder));
  TANDEM_ASSIGN_OR_RETURN(const Architecture* architecture,
                          FindArchitecture(name, JoinPath(folder, "config.json")));
  Loaded loaded;
  TANDEM_ASSIGN_OR_RETURN(loaded.config, ReadModelConfig(folder));
  TANDEM_ASSIGN_OR_RETURN(GenerationDefaults generation, ReadGenerationDefaults(folder));
  TANDEM_ASSIGN_OR_RETURN(loaded.weights, Safetensors::Open(folder));
  WeightReader reader(loaded.weights, loaded.config, folder, device);
  loaded.model = architecture->make(loaded.config, std::move(generation), reader);
  TANDEM_RETURN_IF_ERROR(reader.status());
  loaded.used = reader.used();
  return loaded;
}

// Index of the first NaN or infinity, or -1. The exponent's bits are all ones in those and in no other value.
template <typename Bits>
int64_t FirstNonFinite(std::span<const std::byte> data, Bits exponent) {
  constexpr size_t kBlock = 4096;  // long enough to vectorise, short enough to look at again
  const size_t n = data.size() / sizeof(Bits);
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t end = std::min(begin + kBlock, n);
    const auto at = [&](size_t i) {
      Bits bits;
      std::memcpy(&bits, data.data() + i * sizeof(Bits), sizeof(Bits));
      return static_cast<Bits>(bits & exponent) == exponent;
    };
    bool any = false;
    for (size_t i = begin; i < end; ++i) any |= at(i);
    if (!any) continue;
    for (size_t i = begin; i < end; ++i) {
      if (at(i)) return static_cast<int64_t>(i);
    }
  }
  return -1;
}

int64_t FirstNonFinite(const Tensor& tensor) {
  switch (*tensor.dtype) {
    case DType::kF32:
      return FirstNonFinite<uint32_t>(tensor.data, 0x7f800000u);
    case DType::kBf16:
      return FirstNonFinite<uint16_t>(tensor.data, 0x7f80u);
    case DType::kF16:
      return FirstNonFinite<uint16_t>(tensor.data, 0x7c00u);
  }
  return -1;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& folder, Device device) {
  TANDEM_RETURN_IF_ERROR(cuda::Check(device));
  TANDEM_ASSIGN_OR_RETURN(Loaded loaded, Load(folder, device));
  return std::move(loaded.model);
}

absl::StatusOr<CheckpointInfo> InspectCheckpoint(const std::string& folder) {
  TANDEM_ASSIGN_OR_RETURN(const Loaded loaded, Load(folder));
  CheckpointInfo info;
  info.shape = loaded.model->shape();
  info.generation = loaded.model->generation();
  info.config_dtype = loaded.config.dtype;
  info.files = loaded.weights->files();
  for (const auto& [name, tensor] : loaded.weights->tensors()) {
    const auto bytes = static_cast<int64_t>(tensor.data.size());
    info.tensors.push_back({name, tensor.dtype_name, tensor.shape, bytes, loaded.used.contains(&tensor)});
    info.total_bytes += bytes;
  }
  return info;
}

absl::Status CheckWeightsFinite(const std::string& folder) {
  TANDEM_ASSIGN_OR_RETURN(const Loaded loaded, Load(folder));
  for (const auto& [name, tensor] : loaded.weights->tensors()) {
    if (!loaded.used.contains(&tensor)) continue;
    const int64_t i = FirstNonFinite(tensor);
    if (i < 0) continue;
    const float value = LoadFloat(tensor.data.data(), *tensor.dtype, i);
    return absl::FailedPreconditionError(
        absl::StrCat(loaded.weights->files()[tensor.file], ": tensor ", Quoted(name), ": element ", i, " of ",
                     ShapeText(tensor.shape), " is ", std::isnan(value) ? "NaN" : "infinite",
                     ", expected finite weights; download the checkpoint again or use another"));
  }
  return absl::OkStatus();
}

}  // namespace tandem
