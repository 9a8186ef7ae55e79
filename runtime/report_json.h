// The report as JSON: the shape that README.md describes, metrics by the table in metrics_help.h.
#ifndef TANDEM_RUNTIME_REPORT_JSON_H_
#define TANDEM_RUNTIME_REPORT_JSON_H_

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "runtime/config.h"
#include "runtime/core/status.h"
#include "runtime/report.h"

namespace tandem {

using OrderedJson = nlohmann::ordered_json;

// A number with six significant digits: more would be noise. Null if it is not finite.
OrderedJson RoundedJson(double value);

// How a configuration's paths are written: resolved, or as it gives them.
enum class PathForm { kAbsolute, kGiven };
// Every resolved key, nested as in YAML.
OrderedJson ConfigJson(const Config& config, PathForm paths = PathForm::kAbsolute);

// Every metric; `of_run`: also those of a whole run.
OrderedJson MetricsJson(const Measured& measured, bool of_run);

// `has_text`: there is a tokenizer; "text" is null otherwise.
OrderedJson RequestJson(const RequestResult& result, bool has_text);

// What ran: models, rule, guarantee, machine, as the text report's first lines.
OrderedJson HeaderJson(const ReportHeader& header);

// {"version", "config", "run", "requests", "total"}.
OrderedJson RunJson(const Config& config, const ReportHeader& header,
                    std::span<const RequestResult* const> results, const Measured& total, bool has_text);

// "stop", "length", "cancelled", "error", or "none" of an unfinished request.
const char* Name(FinishReason reason);
// "target", "draft", "replaced", "bonus".
const char* Name(Origin origin);

// JSON for a person to read: objects on lines of their own, arrays of numbers on one.
std::string PrettyJson(const OrderedJson& json);

// Writes to a temporary file beside `path` and renames it: the file is there whole or not at all. "-": to
// stdout.
absl::Status WriteJson(const OrderedJson& json, const std::string& path);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_REPORT_JSON_H_
