#include "runtime/pair.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "runtime/cascade/cascade_config.h"
#include "runtime/config_keys.h"
#include "runtime/core/cuda.h"
#include "runtime/memory_plan.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/config.h"
#include "runtime/rule_config.h"

namespace tandem {
namespace {

std::string ShortName(const std::string& folder) {
  const std::filesystem::path path = folder;
  const std::string parent = path.parent_path().filename().string();
  return parent.empty() ? path.filename().string() : absl::StrCat(parent, "/", path.filename().string());
}

std::string DescribeModel(const ModelSpec& spec) {
  const ModelShape& shape = spec.model->shape();
  return absl::StrCat(ShortName(spec.name), ", ", FormatParameters(shape.n_parameters), " parameters, ",
                      Name(shape.weight_dtype));
}

ActivationDType ActivationOf(const ModelChoice& choice) {
  return choice.dtype == "bf16" ? ActivationDType::kBf16 : ActivationDType::kF32;
}

bool IsSameFolder(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || std::filesystem::equivalent(a, b, error);
}

// The device of one side, which is there.
absl::StatusOr<Device> DeviceOf(const char* side, const ModelChoice& choice) {
  const absl::StatusOr<Device> device = ParseDevice(choice.device);
  const absl::Status status = device.ok() ? cuda::Check(*device) : device.status();
  if (status.ok()) return *device;
  return absl::Status(status.code(), absl::StrCat(side, ".device: ", status.message()));
}

absl::StatusOr<PlannedModel> PlannedFor(const ModelChoice& choice) {
  TANDEM_ASSIGN_OR_RETURN(const CheckpointInfo info, InspectCheckpoint(choice.model.text));
  PlannedModel planned{.name = choice.model.text, .shape = info.shape};
  for (const TensorInfo& tensor : info.tensors)
    planned.weight_bytes += tensor.used ? DeviceBytes(tensor.bytes) : 0;
  planned.cache_dtype = ActivationOf(choice) == ActivationDType::kBf16 ? DType::kBf16 : DType::kF32;
  return planned;
}

// That a CUDA device has the memory, before anything is loaded.
absl::Status CheckMemory(const Config& config, Device device) {
  if (!device.is_cuda()) return absl::OkStatus();
  const EngineOptions options = MakeEngineOptions(config);
  PlannedEngine engine{.run = {.n_slots = options.n_slots,
                               .gamma = options.token_cascade ? 1 : options.gamma,
                               .page_size = options.page_size,
                               .prefill_chunk = options.prefill_chunk,
                               .cache_tokens = options.cache_tokens,
                               .max_context = options.max_context,
                               .stream_kernels = options.stream_kernels}};
  TANDEM_ASSIGN_OR_RETURN(PlannedModel target, PlannedFor(config.target));
  engine.models.push_back(std::move(target));
  std::vector<PlannedEngine> engines;
  if (config.draft_kind == DraftKind::kModel) {
    TANDEM_ASSIGN_OR_RETURN(PlannedModel draft, PlannedFor(config.draft));
    if (IsSameFolder(config.target.model.text, config.draft.model.text)) draft.weight_bytes = 0;
    if (config.cascade.is_query()) {  // the draft alone has an engine, and its weights are there once
      engines.push_back({{draft}, engine.run});
      engines[0].run.gamma = 0;
      draft.weight_bytes = 0;
    }
    if (engines.empty() || engine.run.gamma > 0) engine.models.push_back(std::move(draft));
  }
  engines.push_back(std::move(engine));
  return CheckFits(PlanMemory(engines), device, cuda::Memory(device).free);
}

// Null if the folder has no tokenizer.json.
absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/tokenizer.json");
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nullptr;
  return Tokenizer::Load(path);
}

std::string Spelled(const Vocabulary& side, int32_t id) {
  const std::optional<std::string_view> token = side.tokenizer->token(id);
  return token ? absl::StrCat("\"", std::string(*token), "\"") : "nothing";
}

absl::Status CheckTables(const Vocabulary& target, const Vocabulary& draft, int32_t n_compared) {
  int32_t n_different = 0;
  std::vector<std::string> first;
  for (int32_t id = 0; id < n_compared; ++id) {
    const std::optional<std::string_view> ours = target.tokenizer->token(id);
    const std::optional<std::string_view> theirs = draft.tokenizer->token(id);
    if (!ours || !theirs || *ours == *theirs) continue;
    if (++n_different > 3) continue;
    first.push_back(absl::StrCat("id ", id, " is ", Spelled(target, id), " and ", Spelled(draft, id)));
  }
  if (n_different == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "vocabulary mismatch: ", FormatCount(n_different), " of ", FormatCount(n_compared),
      " token ids differ between ", target.folder, " and ", draft.folder, ": ", absl::StrJoin(first, ", "),
      n_different > 3 ? ", ..." : "", "; a pair must share its tokenizer"));
}

// What decides: "opt(alpha=0.2), token verification, gamma 5".
std::string DescribeRule(const Config& config) {
  const bool token = config.cascade.is_token();
  std::vector<std::string> parameters;
  for (const auto& [name, parameter] : token ? config.cascade.parameters : config.rule.parameters) {
    parameters.push_back(absl::StrCat(name, "=", ShortestNumber(parameter.value)));
  }
  const std::string rule =
      absl::StrCat(token ? config.cascade.rule : config.rule.name,
                   parameters.empty() ? "" : absl::StrCat("(", absl::StrJoin(parameters, ", "), ")"));
  if (token) return absl::StrCat(rule, ", tested on the draft's law");
  const SpeculationConfig& speculation = config.speculation;
  if (config.cascade.is_query() && speculation.gamma == 0) return "redone by the target alone";
  return absl::StrCat(rule, ", ", config.rule.verification, " verification, gamma ", speculation.gamma,
                      speculation.schedule == "fixed" ? "" : ", heuristic",
                      speculation.draft_confidence_min > 0
                          ? absl::StrCat(", stop under ", ShortestNumber(speculation.draft_confidence_min))
                          : "",
                      config.cascade.is_query() ? ", where it is redone" : "");
}

}  // namespace

absl::StatusOr<int32_t> SharedVocabulary(const Vocabulary& target, const Vocabulary& draft,
                                         std::vector<std::string>* warnings) {
  if (target.tokenizer == nullptr || draft.tokenizer == nullptr) {
    const Vocabulary& lacking = target.tokenizer == nullptr ? target : draft;
    if (target.n_rows != draft.n_rows) {
      return absl::FailedPreconditionError(
          absl::StrCat("vocabulary mismatch: ", lacking.folder,
                       " has no tokenizer.json to compare, and vocab_size differs: ", target.n_rows, " in ",
                       target.folder, ", ", draft.n_rows, " in ", draft.folder));
    }
    warnings->push_back(
        absl::StrCat(lacking.folder,
                     " has no tokenizer.json: that the pair shares its vocabulary is not checked, only "
                     "that vocab_size is equal"));
    return target.tokenizer == nullptr ? target.n_rows : std::min(target.n_rows, target.tokenizer->n_ids());
  }
  const int32_t n_target = std::min(target.n_rows, target.tokenizer->n_ids());
  const int32_t n_draft = std::min(draft.n_rows, draft.tokenizer->n_ids());
  TANDEM_RETURN_IF_ERROR(CheckTables(target, draft, std::min(n_target, n_draft)));
  if (n_target > draft.n_rows) {
    return absl::FailedPreconditionError(
        absl::StrCat("vocabulary mismatch: ", target.folder, " has ", FormatCount(n_target), " tokens, and ",
                     draft.folder, " has rows for ", FormatCount(draft.n_rows), ": id ", draft.n_rows, " is ",
                     Spelled(target, draft.n_rows), " and nothing; a pair must share its tokenizer"));
  }
  if (n_target > n_draft) {
    warnings->push_back(absl::StrCat("the draft's tokenizer lacks the target's tokens from id ", n_draft,
                                     " (", Spelled(target, n_draft),
                                     ") on; it was not trained to propose them"));
  }
  return n_target;
}

absl::StatusOr<GenerationDefaults> ApplyGenerationDefaults(Config* config) {
  const std::string& folder = config->target.model.text;
  TANDEM_ASSIGN_OR_RETURN(const GenerationDefaults defaults, ReadGenerationDefaults(folder));
  const Where where{"generation_config.json"};
  const auto apply = [&](const char* key, auto* field, auto value) {
    if (config->origins.contains(key) || *field == value) return;
    *field = value;
    config->origins[key] = where;
  };
  apply("sampling.temperature", &config->sampling.temperature,
        ShortestDecimal(defaults.sampling.temperature));
  apply("sampling.top_k", &config->sampling.top_k, defaults.sampling.top_k);
  apply("sampling.top_p", &config->sampling.top_p, ShortestDecimal(defaults.sampling.top_p));
  apply("sampling.min_p", &config->sampling.min_p, ShortestDecimal(defaults.sampling.min_p));
  TANDEM_RETURN_IF_ERROR(CheckLossless(*config));
  return defaults;
}

absl::StatusOr<Pair> LoadPair(const Config& config, const GenerationDefaults& defaults) {
  Pair pair;
  const std::string& target = config.target.model.text;
  const std::string& draft = config.draft.model.text;
  TANDEM_ASSIGN_OR_RETURN(const Device device, DeviceOf("target", config.target));
  pair.eos_ids = defaults.eos_ids;
  if (!defaults.ignored.empty()) {
    pair.warnings.push_back(absl::StrCat(target,
                                         "/generation_config.json: ignored, with no counterpart here: ",
                                         absl::StrJoin(defaults.ignored, ", ")));
  }
  TANDEM_ASSIGN_OR_RETURN(pair.tokenizer, LoadTokenizer(target));
  if (config.draft_kind == DraftKind::kModel) {
    TANDEM_ASSIGN_OR_RETURN(const Device other, DeviceOf("draft", config.draft));
    if (other != device) {
      return absl::InvalidArgumentError(absl::StrCat("draft.device: expected the target's, ", Name(device),
                                                     ", got ", Name(other), "; both run on one device"));
    }
  }
  TANDEM_RETURN_IF_ERROR(CheckMemory(config, device));
  TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<const Model> model, LoadModel(target, device));
  pair.spec.target = {model, ActivationOf(config.target), target};
  pair.spec.tokenizer = pair.tokenizer.get();
  const Vocabulary target_side = {pair.tokenizer.get(), model->shape().n_vocab, target};
  pair.spec.n_vocab =
      pair.tokenizer == nullptr ? target_side.n_rows : std::min(target_side.n_rows, pair.tokenizer->n_ids());
  if (config.draft_kind == DraftKind::kNgram) pair.spec.ngram = NgramSpec{config.ngram.min, config.ngram.max};
  if (config.draft_kind == DraftKind::kModel) {
    if (IsSameFolder(target, draft)) {
      pair.spec.draft = {model, ActivationOf(config.draft), draft};
    } else {
      TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer, LoadTokenizer(draft));
      TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<const Model> draft_model, LoadModel(draft, device));
      const Vocabulary draft_side = {tokenizer.get(), draft_model->shape().n_vocab, draft};
      TANDEM_ASSIGN_OR_RETURN(pair.spec.n_vocab, SharedVocabulary(target_side, draft_side, &pair.warnings));
      pair.spec.draft = {std::move(draft_model), ActivationOf(config.draft), draft};
    }
  }
  return pair;
}

absl::StatusOr<std::vector<Request>> MakeRequests(const Config& config, const Pair& pair) {
  const std::string no_tokenizer = absl::StrCat(config.target.model.text, " has no tokenizer.json");
  if (pair.tokenizer == nullptr && !config.sampling.stop.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(config.origins.at("sampling.stop").Text(),
                                                   ": sampling.stop: stop strings need a tokenizer, and ",
                                                   no_tokenizer, "; use sampling.stop_token_ids"));
  }
  std::vector<int32_t> stop_ids = config.sampling.stop_token_ids;
  if (!config.sampling.ignore_eos) stop_ids.insert(stop_ids.end(), pair.eos_ids.begin(), pair.eos_ids.end());
  std::sort(stop_ids.begin(), stop_ids.end());
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  if (stop_ids.size() > kMaxStopIds) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.stop_token_ids: expected at most ", kMaxStopIds,
                                                   " ids, the model's ends of text included, got ",
                                                   stop_ids.size()));
  }
  std::vector<Request> requests;
  for (const Prompt& prompt : config.prompts.prompts) {
    Request request;
    request.id = prompt.id;
    request.category = prompt.category;
    if (prompt.token_ids) {
      request.prompt = *prompt.token_ids;
    } else if (pair.tokenizer == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(prompt.where.Text(), ": prompt ", prompt.id,
                                                     ": a text needs a tokenizer, and ", no_tokenizer,
                                                     "; give prompt_token_ids"));
    } else {
      absl::StatusOr<std::vector<int32_t>> ids = pair.tokenizer->Encode(*prompt.text);
      if (!ids.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(prompt.where.Text(), ": prompt ", prompt.id, ": ", ids.status().message()));
      }
      request.prompt = *std::move(ids);
    }
    if (request.prompt.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(prompt.where.Text(), ": prompt ", prompt.id,
                                                     ": expected at least one token, got none"));
    }
    for (const int32_t id : request.prompt) {
      if (id < pair.spec.n_vocab) continue;
      return absl::InvalidArgumentError(absl::StrCat(prompt.where.Text(), ": prompt ", prompt.id,
                                                     ": token id ", id, " in the prompt; expected 0 to ",
                                                     pair.spec.n_vocab - 1));
    }
    const SamplingConfig& sampling = config.sampling;
    request.sampling = {static_cast<float>(sampling.temperature), sampling.top_k,
                        static_cast<float>(sampling.top_p), static_cast<float>(sampling.min_p)};
    request.seed = prompt.seed.value_or(sampling.seed);
    request.max_new_tokens = prompt.max_new_tokens.value_or(sampling.max_new_tokens);
    request.stop_ids = stop_ids;
    request.stop_strings = sampling.stop;
    requests.push_back(std::move(request));
  }
  return requests;
}

EngineOptions MakeEngineOptions(const Config& config) {
  EngineOptions options;
  options.n_slots = config.execution.batch;
  options.gamma = config.draft_kind == DraftKind::kNone ? 0 : config.speculation.gamma;
  options.schedule =
      config.speculation.schedule == "heuristic" ? GammaSchedule::kHeuristic : GammaSchedule::kFixed;
  options.token_cascade = config.cascade.is_token();
  options.confidence_min = static_cast<float>(config.speculation.draft_confidence_min);
  options.max_context = config.cache.max_context;
  options.page_size = config.cache.page_size;
  options.cache_tokens = config.cache.tokens;
  options.prefill_chunk = config.execution.prefill_chunk;
  options.rounds_ahead = config.execution.rounds_ahead;
  options.check_steps = config.execution.check_steps;
  options.stream_kernels = config.execution.stream_kernels;
  options.streams = config.execution.streams == "threaded" ? StreamMode::kThreaded : StreamMode::kInline;
  options.n_threads = config.execution.threads;
  if (options.n_threads == 0) options.n_threads = std::max(1u, std::thread::hardware_concurrency());
  return options;
}

ReportHeader DescribeRun(const Config& config, const Pair& pair, const Policy& policy) {
  ReportHeader header;
  header.target = DescribeModel(pair.spec.target);
  if (pair.spec.draft) header.draft = DescribeModel(*pair.spec.draft);
  if (pair.spec.ngram) {
    header.draft = absl::StrCat("n-gram lookup, the last ", pair.spec.ngram->min, " to ",
                                pair.spec.ngram->max, " tokens");
  }
  header.cascade = DescribeCascade(config);
  header.rule = DescribeRule(config);
  const bool greedy = config.sampling.temperature == 0;
  switch (config.cascade.mode == "none" ? policy.info().guarantee : Guarantee::kLossy) {
    case Guarantee::kExact:
      header.guarantee = "exact";
      header.guarantee_text =
          greedy ? "exact: the output is the target's" : "exact: the output law is the target's";
      break;
    case Guarantee::kExactAtZero:
      header.guarantee = "exact_at_zero";
      header.guarantee_text = greedy ? "exact at temperature 0: the output is the target's"
                                     : "lossy at this temperature, exact at 0";
      break;
    case Guarantee::kLossy:
      header.guarantee = "lossy";
      header.guarantee_text =
          config.cascade.is_token()   ? "lossy: a token's law is the draft's, or where it defers the target's"
          : config.cascade.is_query() ? "lossy: an answer is the draft's, or where it is redone the target's"
                                      : "lossy: the output law is the rule's, not the target's";
      break;
  }
  if (config.cascade.mode == "none") header.bonus = config.rule.bonus;
  header.dtype = config.target.dtype;
  if (pair.spec.draft && config.draft.dtype != config.target.dtype) {
    absl::StrAppend(&header.dtype, " (draft: ", config.draft.dtype, ")");
  }
  const Device device = pair.spec.target.model->device();
  if (device.is_cuda()) header.device = cuda::Describe(device);
  header.cpu = CpuName();
  header.n_threads = MakeEngineOptions(config).n_threads;
  return header;
}

}  // namespace tandem
