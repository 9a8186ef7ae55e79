#include "runtime/model/safetensors.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "runtime/model/json.h"

namespace tandem {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::string_view kAgain = "; the file is damaged: copy or download it again";

struct FormatDType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};

constexpr FormatDType kFormatDTypes[] = {
    {"F32", 32, DType::kF32},
    {"BF16", 16, DType::kBf16},
    {"F16", 16, DType::kF16},
    {"F64", 64, {}},
    {"I64", 64, {}},
    {"U64", 64, {}},
    {"C64", 64, {}},
    {"I32", 32, {}},
    {"U32", 32, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
};

absl::Status Damaged(const std::string& path, std::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(path, ": ", std::string(what), std::string(kAgain)));
}

absl::Status BadTensor(const std::string& path, const std::string& name, std::string_view what) {
  return Damaged(path, absl::StrCat("tensor ", Quoted(name), ": ", std::string(what)));
}

bool AreNaturals(const Json& value) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_number_unsigned(); });
}

// Bytes of `shape` elements of `bits` each; nothing if they do not fit 63 bits or end inside a byte.
std::optional<uint64_t> ShapeBytes(const std::vector<int64_t>& shape, int bits) {
  int64_t total = bits;
  for (int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(total, extent, &total)) return std::nullopt;
  }
  if (total % 8 != 0) return std::nullopt;
  return static_cast<uint64_t>(total) / 8;
}

// One header entry; `data` is what follows the header.
absl::StatusOr<Tensor> ParseEntry(const std::string& name, const Json& entry, std::span<const std::byte> data,
                                  const std::string& path) {
  if (!entry.is_object())
    return BadTensor(path, name, "expected an object with dtype, shape and data_offsets");
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) return BadTensor(path, name, "dtype: expected a string");
  if (shape == entry.end() || !AreNaturals(*shape)) {
    return BadTensor(path, name, "shape: expected an array of integers from 0");
  }
  if (offsets == entry.end() || !AreNaturals(*offsets) || offsets->size() != 2) {
    return BadTensor(path, name, "data_offsets: expected two integers from 0");
  }

  Tensor tensor;
  tensor.name = name;
  tensor.dtype_name = dtype->get<std::string>();
  const auto* format =
      std::find_if(std::begin(kFormatDTypes), std::end(kFormatDTypes),
                   [&](const FormatDType& known) { return known.name == tensor.dtype_name; });
  if (format == std::end(kFormatDTypes)) {
    return BadTensor(path, name,
                     absl::StrCat("dtype ", Quoted(tensor.dtype_name), " is not one of safetensors'"));
  }
  tensor.dtype = format->dtype;
  for (const Json& extent : *shape) tensor.shape.push_back(static_cast<int64_t>(extent.get<uint64_t>()));

  const uint64_t begin = (*offsets)[0].get<uint64_t>();
  const uint64_t end = (*offsets)[1].get<uint64_t>();
  if (begin > end) {
    return BadTensor(path, name,
                     absl::StrCat("data_offsets: expected begin <= end, got ", begin, " and ", end));
  }
  if (end > data.size()) {
    return BadTensor(path, name,
                     absl::StrCat("its data ends at byte ", end, " but the file holds only ", data.size(),
                                  " bytes of data: truncated"));
  }
  const std::optional<uint64_t> bytes = ShapeBytes(tensor.shape, format->bits);
  if (bytes != end - begin) {
    return BadTensor(
        path, name,
        absl::StrCat("shape ", ShapeText(tensor.shape), " of ", tensor.dtype_name, " needs ",
                     bytes ? absl::StrCat(*bytes) : "too many", " bytes, data_offsets give ", end - begin));
  }
  tensor.data = data.subspan(begin, end - begin);
  return tensor;
}

// The tensors, sorted by offset, must cover the data exactly.
absl::Status CheckTiling(const std::vector<Tensor>& tensors, std::span<const std::byte> data,
                         const std::string& path) {
  const std::byte* next = data.data();
  std::string before = "the start of the data";
  for (const Tensor& tensor : tensors) {
    const ptrdiff_t gap = tensor.data.data() - next;
    if (gap < 0) {
      return BadTensor(path, tensor.name, absl::StrCat("its data overlaps ", before, " by ", -gap, " bytes"));
    }
    if (gap > 0) {
      return BadTensor(path, tensor.name, absl::StrCat(gap, " unused bytes lie between it and ", before));
    }
    next = tensor.data.data() + tensor.data.size();
    before = absl::StrCat("tensor ", Quoted(tensor.name));
  }
  const size_t used = next - data.data();
  if (used != data.size()) {
    return Damaged(path, absl::StrCat("oversized: ", data.size() - used,
                                      " bytes follow the last tensor, expected none"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ShapeText(std::span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape.begin(), shape.end(), ", "), "]");
}

int64_t Tensor::n_elements() const {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  return n;
}

absl::StatusOr<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                     const std::string& path) {
  if (bytes.size() < kLengthBytes) {
    return Damaged(path,
                   absl::StrCat("truncated: ", bytes.size(), " bytes, a safetensors file has at least 8"));
  }
  uint64_t length = 0;
  for (uint64_t i = 0; i < kLengthBytes; ++i) length |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (length > kMaxHeaderBytes) {
    return Damaged(path, absl::StrCat("not a safetensors file: a header of ", length,
                                      " bytes, expected at most ", kMaxHeaderBytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    return Damaged(path, absl::StrCat("truncated: a header of ", length, " bytes, but only ",
                                      bytes.size() - kLengthBytes, " bytes follow"));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!absl::StartsWith({header.data(), header.size()}, "{")) {
    return Damaged(path, "not a safetensors file: the header does not begin with '{'");
  }
  TANDEM_ASSIGN_OR_RETURN(const Json json,
                          ParseJsonObject(header, absl::StrCat(path, " (header)"), DuplicateKeys::kRefused));

  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + length);
  std::vector<Tensor> tensors;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    TANDEM_ASSIGN_OR_RETURN(Tensor tensor, ParseEntry(name, entry, data, path));
    tensors.push_back(std::move(tensor));
  }
  // An empty tensor shares its offset with the one that follows it and goes first.
  std::stable_sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
    return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
  });
  TANDEM_RETURN_IF_ERROR(CheckTiling(tensors, data, path));
  return tensors;
}

class Safetensors::Mapping {
 public:
  static absl::StatusOr<Mapping> Open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      const int error = errno;
      const std::string message = absl::StrCat(path, ": cannot be opened: ", std::strerror(error));
      return error == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
    }
    struct stat info = {};
    const bool is_file = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    const size_t bytes = is_file ? static_cast<size_t>(info.st_size) : 0;
    void* data = bytes == 0 ? nullptr : ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    if (!is_file) return absl::FailedPreconditionError(absl::StrCat(path, ": expected a file"));
    if (data == MAP_FAILED) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be mapped: ", std::strerror(error)));
    }
    return Mapping(data, bytes);
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), bytes_}; }

 private:
  Mapping(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  void* data_;
  size_t bytes_;
};

Safetensors::Safetensors() = default;
Safetensors::~Safetensors() = default;

absl::Status Safetensors::Add(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Open(path));
  TANDEM_ASSIGN_OR_RETURN(std::vector<Tensor> tensors, ParseSafetensors(mapping.bytes(), path));
  const int32_t file = static_cast<int32_t>(files_.size());
  files_.push_back(path);
  mappings_.push_back(std::move(mapping));
  for (Tensor& tensor : tensors) {
    tensor.file = file;
    const auto [there, is_new] = tensors_.try_emplace(tensor.name, tensor);
    if (!is_new) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": tensor ", Quoted(tensor.name), " is in ",
                                                        files_[there->second.file],
                                                        " too, expected in one shard; remove one of them"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Safetensors>> Safetensors::Open(const std::string& folder) {
  std::shared_ptr<Safetensors> weights(new Safetensors);
  const std::string single = JoinPath(folder, "model.safetensors");
  if (FileExists(single)) {
    TANDEM_RETURN_IF_ERROR(weights->Add(single));
    return weights;
  }
  const std::string index_path = JoinPath(folder, "model.safetensors.index.json");
  if (!FileExists(index_path)) {
    const bool pickled = FileExists(JoinPath(folder, "pytorch_model.bin")) ||
                         FileExists(JoinPath(folder, "pytorch_model.bin.index.json"));
    return absl::NotFoundError(absl::StrCat(
        folder, ": no weights, expected model.safetensors or model.safetensors.index.json; ",
        pickled ? "pytorch_model.bin is not read: save the model again with safe_serialization=True"
                : "download or copy the whole folder"));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(index_path));
  TANDEM_ASSIGN_OR_RETURN(const Json index, ParseJsonObject(text, index_path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(index_path, ": weight_map: expected an object of tensor names and files"));
  }
  std::set<std::string> shards;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      return absl::FailedPreconditionError(absl::StrCat(index_path, ": weight_map: ", Quoted(name),
                                                        ": expected the name of a file in the folder"));
    }
    shards.insert(file.get<std::string>());
  }
  for (const std::string& shard : shards) {
    const std::string path = JoinPath(folder, shard);
    if (!FileExists(path)) {
      return absl::NotFoundError(absl::StrCat(path, ": no such file, but ", index_path,
                                              " names it; download or copy the missing shard"));
    }
    TANDEM_RETURN_IF_ERROR(weights->Add(path));
  }
  for (const auto& [name, file] : map->items()) {
    const Tensor* tensor = weights->Find(name);
    const std::string path = JoinPath(folder, file.get<std::string>());
    if (tensor == nullptr || weights->files_[tensor->file] != path) {
      return absl::FailedPreconditionError(absl::StrCat(index_path, ": weight_map: ", Quoted(name),
                                                        " is not in ", path,
                                                        "; index and shards do not belong together"));
    }
  }
  return weights;
}

std::shared_ptr<const Safetensors> Safetensors::Hold(const std::string& name, std::vector<Tensor> tensors,
                                                     std::shared_ptr<const void> owner, Device device) {
  std::shared_ptr<Safetensors> weights(new Safetensors);
  weights->files_.push_back(name);
  weights->owner_ = std::move(owner);
  weights->device_ = device;
  for (Tensor& tensor : tensors) {
    std::string tensor_name = tensor.name;
    weights->tensors_.emplace(std::move(tensor_name), std::move(tensor));
  }
  return weights;
}

const Tensor* Safetensors::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace tandem
