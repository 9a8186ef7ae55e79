#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <filesystem>
#include <map>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/config_keys.h"
#include "runtime/model/cache.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/tokenizer.h"
#include "runtime/report.h"

namespace tandem {
namespace {

std::string Shape(const ModelShape& shape) {
  return absl::StrCat(
      shape.architecture, ": ", shape.n_layers, " layers, hidden ", FormatCount(shape.hidden), ", ",
      shape.n_heads, " heads of ", shape.head_dim,
      shape.n_kv_heads == shape.n_heads ? "" : absl::StrCat(" on ", shape.n_kv_heads, " of keys and values"),
      "\nvocabulary ", FormatCount(shape.n_vocab), ", context ", FormatCount(shape.max_context), " tokens");
}

std::string Weights(const CheckpointInfo& info) {
  std::map<std::string, int64_t> bytes;
  std::vector<std::string> unused;
  for (const TensorInfo& tensor : info.tensors) {
    bytes[tensor.dtype] += tensor.bytes;
    if (!tensor.used) unused.push_back(tensor.name);
  }
  std::vector<std::string> parts;
  for (const auto& [dtype, n] : bytes) parts.push_back(absl::StrCat(FormatBytes(n), " of ", dtype));
  std::string text = absl::StrCat(
      FormatParameters(info.shape.n_parameters), " parameters; ", info.tensors.size(), " tensors in ",
      info.files.size(), info.files.size() == 1 ? " file: " : " files: ", absl::StrJoin(parts, ", "));
  if (!unused.empty()) {
    const size_t n_shown = std::min<size_t>(unused.size(), 3);
    absl::StrAppend(&text, "\nnot used: ", absl::StrJoin(unused.begin(), unused.begin() + n_shown, ", "),
                    unused.size() > n_shown ? absl::StrCat(" and ", unused.size() - n_shown, " more") : "");
  }
  return text;
}

std::string Generation(const GenerationDefaults& defaults) {
  const Sampling& sampling = defaults.sampling;
  std::vector<std::string> parts;
  if (sampling.greedy()) {
    parts.push_back("greedy");
  } else {
    parts.push_back(absl::StrCat("temperature ", ShortestNumber(ShortestDecimal(sampling.temperature))));
    if (sampling.top_k > 0) parts.push_back(absl::StrCat("top_k ", sampling.top_k));
    if (sampling.top_p < 1)
      parts.push_back(absl::StrCat("top_p ", ShortestNumber(ShortestDecimal(sampling.top_p))));
    if (sampling.min_p > 0)
      parts.push_back(absl::StrCat("min_p ", ShortestNumber(ShortestDecimal(sampling.min_p))));
  }
  std::string text = absl::StrCat(absl::StrJoin(parts, ", "), "; ",
                                  defaults.eos_ids.empty() ? "no end of text" : "end of text is token ",
                                  absl::StrJoin(defaults.eos_ids, ", "));
  if (!defaults.ignored.empty()) absl::StrAppend(&text, "\nignored: ", absl::StrJoin(defaults.ignored, ", "));
  return text;
}

std::string MemoryPlan(const ModelShape& shape) {
  const int64_t fp32 = PagedCache::BytesPerToken(shape, DType::kF32);
  const int64_t bf16 = PagedCache::BytesPerToken(shape, DType::kBf16);
  return absl::StrCat("weights ", FormatBytes(shape.weight_bytes),
                      " read for every forward, mapped from the files\n", "cache ", FormatBytes(fp32),
                      " per token in fp32, ", FormatBytes(bf16), " in bf16; a full context ",
                      FormatBytes(fp32 * shape.max_context), " or ", FormatBytes(bf16 * shape.max_context));
}

}  // namespace

int RunInfo(const Args& args) {
  std::string folder = args.operand(0);
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  const absl::StatusOr<CheckpointInfo> info = InspectCheckpoint(folder);
  if (!info.ok()) return Fail(info.status(), kExitModel);
  std::string text = ReportLine("checkpoint", folder, false) +
                     ReportLine("model", Shape(info->shape), false) +
                     ReportLine("weights", Weights(*info), false);
  const std::string tokenizer_path = absl::StrCat(folder, "/tokenizer.json");
  std::error_code error;
  if (std::filesystem::exists(tokenizer_path, error)) {
    const absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(tokenizer_path);
    if (!tokenizer.ok()) return Fail(tokenizer.status(), kExitModel);
    text += ReportLine("tokenizer", absl::StrCat(FormatCount((*tokenizer)->n_ids()), " token ids"), false);
  } else {
    text += ReportLine("tokenizer", "none: prompts as token ids only", false);
  }
  text += ReportLine("generation", Generation(info->generation), false);
  text += ReportLine("memory", MemoryPlan(info->shape), false);
  if (args.Has("--check-weights")) {
    if (const absl::Status finite = CheckWeightsFinite(folder); !finite.ok()) return Fail(finite, kExitModel);
    text += ReportLine("checked", "every weight is finite", false);
  }
  return Print(text).ok() ? kExitOk : kExitFailure;
}

}  // namespace tandem
