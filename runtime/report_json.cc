#include "runtime/report_json.h"

#include <absl/strings/str_cat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/config_keys.h"
#include "runtime/metrics_help.h"
#include "runtime/sweep_config.h"
#include "runtime/version.h"

namespace tandem {
namespace {

struct JsonOfMetric {
  OrderedJson operator()(std::monostate) const { return nullptr; }
  OrderedJson operator()(int64_t value) const { return value; }
  OrderedJson operator()(double value) const { return RoundedJson(value); }
  OrderedJson operator()(const std::vector<int64_t>& values) const { return values; }
  OrderedJson operator()(const std::vector<double>& values) const {
    OrderedJson list = OrderedJson::array();
    for (const double value : values) list.push_back(RoundedJson(value));
    return list;
  }
};

OrderedJson PromptsJson(const PromptConfig& config, PathForm paths) {
  if (!config.file.text.empty())
    return {{"file", paths == PathForm::kGiven ? config.file.given : config.file.text}};
  OrderedJson list = OrderedJson::array();
  for (const Prompt& prompt : config.prompts) {
    OrderedJson item = {{"id", prompt.id}};
    if (!prompt.category.empty()) item["category"] = prompt.category;
    if (prompt.max_new_tokens) item["max_new_tokens"] = *prompt.max_new_tokens;
    if (prompt.seed) item["seed"] = *prompt.seed;
    if (prompt.text) item["prompt"] = *prompt.text;
    if (prompt.token_ids) item["prompt_token_ids"] = *prompt.token_ids;
    list.push_back(std::move(item));
  }
  return list;
}

struct JsonOfField {
  PathForm paths;

  template <typename T>
  OrderedJson operator()(const T* value) const {
    return *value;
  }
  OrderedJson operator()(const Path* value) const {
    if (value->text.empty()) return nullptr;
    return paths == PathForm::kGiven ? value->given : value->text;
  }
  OrderedJson operator()(const PromptConfig* value) const { return PromptsJson(*value, paths); }
  OrderedJson operator()(const std::vector<RuleGrid>* value) const {
    OrderedJson list = OrderedJson::array();
    for (const RuleGrid& grid : *value) list.push_back(YamlValue(grid));
    return list;
  }
};

// json["a"]["b"] of "a.b".
OrderedJson& At(OrderedJson& json, const std::string& path) {
  const size_t dot = path.find('.');
  if (dot == std::string::npos) return json[path];
  return At(json[path.substr(0, dot)], path.substr(dot + 1));
}

bool IsFlat(const OrderedJson& json) {
  return std::none_of(json.begin(), json.end(), [](const OrderedJson& item) { return item.is_structured(); });
}

void Pretty(const OrderedJson& json, int indent, std::string* out) {
  if (!json.is_structured() || json.empty() || (json.is_array() && IsFlat(json))) {
    *out += json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    return;
  }
  const std::string line = "\n" + std::string(indent + 2, ' ');
  *out += json.is_object() ? '{' : '[';
  bool first = true;
  for (const auto& [key, value] : json.items()) {
    absl::StrAppend(out, first ? "" : ",", line);
    if (json.is_object()) absl::StrAppend(out, OrderedJson(key).dump(), ": ");
    Pretty(value, indent + 2, out);
    first = false;
  }
  *out += "\n" + std::string(indent, ' ');
  *out += json.is_object() ? '}' : ']';
}

}  // namespace

OrderedJson RoundedJson(double value) {
  if (!std::isfinite(value)) return nullptr;
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return std::strtod(text, nullptr);
}

OrderedJson ConfigJson(const Config& config, PathForm paths) {
  OrderedJson json;
  json["file"] = config.file.text;
  for (const ConfigKey& key : ConfigKeys()) {
    if (!IsInUse(key, config)) continue;
    At(json, key.path) = std::visit([&](const auto* field) { return JsonOfField{paths}(field); },
                                    key.field(const_cast<Config&>(config)));
    if (const auto* parameters = ParametersAfter(key, config)) {
      const std::string section(key.path, std::strchr(key.path, '.'));
      for (const auto& [name, parameter] : *parameters) json[section][name] = parameter.value;
    }
  }
  if (config.draft_kind == DraftKind::kNone) json["draft"] = nullptr;
  return json;
}

OrderedJson MetricsJson(const Measured& measured, bool of_run) {
  OrderedJson json = OrderedJson::object();
  for (const Metric& metric : Metrics()) {
    if (metric.of_run && !of_run) continue;
    At(json, metric.name) = std::visit(JsonOfMetric(), metric.value(measured));
  }
  return json;
}

OrderedJson RequestJson(const RequestResult& result, bool has_text) {
  OrderedJson origin = OrderedJson::array();
  for (const Origin one : result.origin) origin.push_back(Name(one));
  OrderedJson json;
  json["id"] = result.request.id;
  if (!result.request.category.empty()) json["category"] = result.request.category;
  json["prompt_token_ids"] = result.request.prompt;
  json["token_ids"] = result.token_ids;
  json["text"] = has_text ? OrderedJson(result.text) : OrderedJson(nullptr);
  json["finish_reason"] = Name(result.finish);
  json["origin"] = std::move(origin);
  if (!result.stages.empty()) {
    OrderedJson& stages = json["stages"] = OrderedJson::array();
    for (const StageResult& stage : result.stages) {
      stages.push_back({{"model", stage.model},
                        {"num_tokens", stage.num_tokens},
                        {"latency_ms", RoundedJson((stage.finished_ns - stage.admitted_ns) * 1e-6)}});
    }
  }
  json["metrics"] = MetricsJson(Measure(result), false);
  return json;
}

OrderedJson HeaderJson(const ReportHeader& header) {
  OrderedJson json;
  json["target"] = header.target;
  json["draft"] = header.draft.empty() ? OrderedJson(nullptr) : OrderedJson(header.draft);
  json["cascade"] = header.cascade.empty() ? OrderedJson(nullptr) : OrderedJson(header.cascade);
  json["rule"] = header.rule;
  json["guarantee"] = header.guarantee;
  json["guarantee_text"] = header.guarantee_text;
  json["bonus"] = header.bonus.empty() ? OrderedJson(nullptr) : OrderedJson(header.bonus);
  json["dtype"] = header.dtype;
  if (!header.device.empty()) json["device"] = header.device;
  json["cpu"] = header.cpu;
  json["threads"] = header.n_threads;
  return json;
}

OrderedJson RunJson(const Config& config, const ReportHeader& header,
                    std::span<const RequestResult* const> results, const Measured& total, bool has_text) {
  OrderedJson requests = OrderedJson::array();
  for (const RequestResult* result : results) requests.push_back(RequestJson(*result, has_text));
  OrderedJson json;
  json["version"] = kVersion;
  json["config"] = ConfigJson(config);
  json["run"] = HeaderJson(header);
  json["requests"] = std::move(requests);
  json["total"] = MetricsJson(total, true);
  return json;
}

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kFault:
      return "error";
  }
  return "none";
}

const char* Name(Origin origin) {
  switch (origin) {
    case Origin::kTarget:
      return "target";
    case Origin::kDraft:
      return "draft";
    case Origin::kReplaced:
      return "replaced";
    case Origin::kBonus:
      return "bonus";
  }
  return "target";
}

std::string PrettyJson(const OrderedJson& json) {
  std::string text;
  Pretty(json, 0, &text);
  return text + "\n";
}

absl::Status WriteJson(const OrderedJson& json, const std::string& path) {
  const std::string text = PrettyJson(json);
  if (path == "-") {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
      return absl::UnknownError(absl::StrCat("stdout: cannot write: ", std::strerror(errno)));
    }
    return absl::OkStatus();
  }
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  std::FILE* file = std::fopen(temporary.c_str(), "w");
  if (file == nullptr)
    return absl::UnknownError(absl::StrCat(path, ": cannot write: ", std::strerror(errno)));
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(errno);
    std::remove(temporary.c_str());
    return absl::UnknownError(absl::StrCat(path, ": cannot write: ", why));
  }
  return absl::OkStatus();
}

}  // namespace tandem
