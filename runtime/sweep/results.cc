#include "runtime/sweep/results.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <sstream>

#include "runtime/metrics_help.h"
#include "runtime/version.h"

namespace tandem {
namespace {

// Metrics of the batched run that are kept, by their names in metrics_help.h.
constexpr const char* kKept[] = {"num_requests",          "num_emitted_tokens",
                                 "target_calls",          "mean_acceptance_length",
                                 "draft_acceptance_rate", "conditional_acceptance_by_position",
                                 "acceptance_histogram",  "deferral_rate"};
constexpr const char* kPhases[] = {"prefill", "draft", "verify", "rule", "settle", "idle"};

OrderedJson LatencyJson(const Figures& figures) {
  OrderedJson json;
  const double own = LatencyPerToken(figures.single);
  const double target = LatencyPerToken(figures.target_single);
  const double own_decode = DecodeLatencyPerToken(figures.single);
  json["num_requests"] = figures.single.num_requests;
  json["ms_per_token"] = RoundedJson(own);
  json["target_ms_per_token"] = RoundedJson(target);
  json["relative"] = RoundedJson(own / target);
  json["relative_decode"] = RoundedJson(own_decode / DecodeLatencyPerToken(figures.target_single));
  OrderedJson phases;
  for (const char* phase : kPhases) {
    phases[phase] = RoundedJson(NumberOf(absl::StrCat("time_ms.", phase), figures.single) /
                                static_cast<double>(figures.single.counts.num_emitted_tokens));
  }
  json["phase_ms_per_token"] = std::move(phases);
  return json;
}

OrderedJson FiguresJson(const Figures& figures) {
  OrderedJson json;
  const OrderedJson metrics = MetricsJson(figures.batched, true);
  for (const char* name : kKept) json[name] = metrics[name];
  json["rejection_rate"] = RoundedJson(RejectionRate(figures.batched.counts));
  json["tokens_per_second"] = metrics["tokens_per_second"];
  json["latency"] = LatencyJson(figures);
  return json;
}

OrderedJson CountsByCategory(const std::vector<Prompt>& prompts) {
  OrderedJson json = OrderedJson::object();
  for (const Prompt& prompt : prompts) json[prompt.category] = json.value(prompt.category, 0) + 1;
  return json;
}

absl::Status BadLine(const std::string& path, int line, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(
      path, ":", line, ": ", what, "; expected a line of a sweep's results. Mend or remove the file"));
}

// Calls take(line, its number) for every whole line.
absl::Status ForEachLine(std::string_view text, const std::string& path,
                         const std::function<void(const OrderedJson&)>& take) {
  int number = 0;
  for (size_t end; (end = text.find('\n')) != std::string_view::npos; text.remove_prefix(end + 1)) {
    ++number;
    const OrderedJson line = OrderedJson::parse(text.begin(), text.begin() + end, nullptr, false);
    if (line.is_discarded()) return BadLine(path, number, "not valid JSON");
    const std::string record = line.is_object() ? line.value("record", "") : "";
    if (record != "sweep" && record != "cell") return BadLine(path, number, "not a sweep's line");
    if (record == "cell" && line.value("key", "").empty()) return BadLine(path, number, "no key");
    take(line);
  }
  return absl::OkStatus();
}

std::string CsvField(const OrderedJson& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  const std::string text = value.get<std::string>();
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

std::string ErrnoText(const std::string& path, const char* what) {
  return absl::StrCat(path, ": ", what, ": ", std::strerror(errno));
}

}  // namespace

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &local);
  return text;
}

OrderedJson CellJson(const Cell& cell, const CellResult& result, const std::string& date) {
  OrderedJson json;
  json["record"] = "cell";
  json["key"] = cell.key;
  json["series"] = cell.series;
  json["label"] = cell.label;
  json["parameter"] = cell.parameter.empty() ? OrderedJson(nullptr) : OrderedJson(cell.parameter);
  json["value"] = cell.value ? OrderedJson(*cell.value) : OrderedJson(nullptr);
  json["temperature"] = cell.temperature;
  json["gamma"] = cell.gamma;
  json["seed"] = cell.seed;
  json["guarantee"] = result.guarantee;
  OrderedJson set = OrderedJson::array();
  for (const Override& one : cell.overrides) set.push_back(absl::StrCat(one.path, "=", one.value));
  json["set"] = std::move(set);
  json["items"] = nullptr;
  json["texts"] = nullptr;
  if (!result.right.empty()) {
    OrderedJson items = FiguresJson(result.items);
    OrderedJson by_category;
    double sum = 0, variance = 0;
    for (const auto& [category, right] : result.right) {
      const double share = static_cast<double>(right.n_right) / static_cast<double>(right.n_items);
      by_category[category] = RoundedJson(share);
      sum += share;
      variance += share * (1 - share) / static_cast<double>(right.n_items);
    }
    // The mean over categories, and its standard error: items are a sample of their category.
    const double n_categories = static_cast<double>(result.right.size());
    items["exact_match"] = RoundedJson(sum / n_categories);
    items["exact_match_se"] = RoundedJson(std::sqrt(variance) / n_categories);
    items["exact_match_by_category"] = std::move(by_category);
    json["items"] = std::move(items);
  }
  if (result.n_log_probs > 0) {
    OrderedJson texts = FiguresJson(result.texts);
    texts["log_prob"] = RoundedJson(result.log_prob_sum / static_cast<double>(result.n_log_probs));
    texts["log_prob_se"] = RoundedJson(SpreadOf(result.log_prob_of_text).sd /
                                       std::sqrt(static_cast<double>(result.log_prob_of_text.size())));
    texts["tv"] = RoundedJson(result.tv_sum / static_cast<double>(result.n_tv));
    texts["num_tv_positions"] = result.n_tv;
    json["texts"] = std::move(texts);
  }
  json["elapsed_s"] = RoundedJson(result.elapsed_s);
  json["date"] = date;
  return json;
}

OrderedJson SweepJson(const Config& config, const ReportHeader& header, const SweepPrompts& prompts,
                      const std::vector<Cell>& cells, const std::string& date) {
  OrderedJson json;
  json["record"] = "sweep";
  json["version"] = kVersion;
  json["date"] = date;
  json["run"] = HeaderJson(header);
  json["config"] = ConfigJson(config, PathForm::kGiven);  // results travel; this machine's folders do not
  // Where the prompts came from and how many were used says enough; they may be many.
  for (const char* key : {"items", "texts"}) {
    if (json["config"]["sweep"][key].is_array())
      json["config"]["sweep"][key] = "written in the configuration";
  }
  json["items"] = CountsByCategory(prompts.items);
  json["texts"] = CountsByCategory(prompts.texts);
  OrderedJson keys = OrderedJson::array();
  for (const Cell& cell : cells) keys.push_back(cell.key);
  json["cells"] = std::move(keys);
  return json;
}

absl::StatusOr<std::unique_ptr<ResultsFile>> ResultsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return absl::NotFoundError(ErrnoText(path, "cannot be opened"));
  std::unique_ptr<ResultsFile> file(new ResultsFile(fd, path));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::UnavailableError(absl::StrCat(
        path, ": another sweep is writing it; wait for it, or choose another folder with --out"));
  }
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  const std::string content = text.str();
  const size_t n_whole = content.rfind('\n') == std::string::npos ? 0 : content.rfind('\n') + 1;
  TANDEM_RETURN_IF_ERROR(ForEachLine(content, path, [&](const OrderedJson& line) {
    if (line["record"] == "cell") file->keys_.insert(line["key"].get<std::string>());
  }));
  if (n_whole < content.size() && ftruncate(fd, static_cast<off_t>(n_whole)) != 0)
    return absl::NotFoundError(ErrnoText(path, "cannot be written"));
  return file;
}

ResultsFile::~ResultsFile() { close(fd_); }

absl::Status ResultsFile::Append(const OrderedJson& line) {
  const std::string text = line.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::UnknownError(ErrnoText(path_, "cannot be written"));
    done += static_cast<size_t>(n);
  }
  if (fsync(fd_) != 0 && errno != EINVAL && errno != EROFS)
    return absl::UnknownError(ErrnoText(path_, "cannot be written"));
  if (line["record"] == "cell") keys_.insert(line["key"].get<std::string>());
  return absl::OkStatus();
}

absl::StatusOr<SweepResults> ParseResults(std::string_view text, const std::string& path) {
  SweepResults results;
  std::map<std::string, OrderedJson> by_key;
  TANDEM_RETURN_IF_ERROR(ForEachLine(text, path, [&](const OrderedJson& line) {
    if (line["record"] == "sweep") {
      results.sweep = line;
    } else {
      by_key.emplace(line["key"].get<std::string>(), line);
    }
  }));
  if (results.sweep.is_null())
    return absl::InvalidArgumentError(absl::StrCat(path, ": no sweep in it; tandem sweep writes such files"));
  for (const OrderedJson& key : results.sweep["cells"]) {
    ++results.n_planned;
    const auto found = by_key.find(key.get<std::string>());
    if (found != by_key.end()) results.cells.push_back(found->second);
  }
  return results;
}

absl::StatusOr<SweepResults> ReadResults(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  if (stream) text << stream.rdbuf();
  if (!stream) return absl::NotFoundError(absl::StrCat(path, ": no such file, or it cannot be read"));
  return ParseResults(text.str(), path);
}

std::string ResultsCsv(const SweepResults& results) {
  static constexpr const char* kCell[] = {"key",         "series", "label", "parameter", "value",
                                          "temperature", "gamma",  "seed",  "guarantee"};
  static constexpr const char* kBoth[] = {"num_requests", "num_emitted_tokens", "mean_acceptance_length",
                                          "rejection_rate", "deferral_rate"};
  static constexpr const char* kLatency[] = {"ms_per_token", "target_ms_per_token", "relative",
                                             "relative_decode"};
  std::vector<std::string> names(std::begin(kCell), std::end(kCell));
  std::vector<std::string> paths;
  for (const char* name : kCell) paths.push_back(absl::StrCat("/", name));
  const auto add = [&](const std::string& name, const std::string& path) {
    names.push_back(name);
    paths.push_back(path);
  };
  for (const std::string set : {"items", "texts"}) {
    if (results.sweep[set].empty()) continue;
    if (set == "items") {
      add("items.exact_match", "/items/exact_match");
      add("items.exact_match_se", "/items/exact_match_se");
      for (const auto& [category, n] : results.sweep["items"].items())
        add("items.exact_match." + category, "/items/exact_match_by_category/" + category);
    } else {
      for (const char* name : {"log_prob", "log_prob_se", "tv"})
        add(absl::StrCat("texts.", name), absl::StrCat("/texts/", name));
    }
    for (const char* name : kBoth) add(absl::StrCat(set, ".", name), absl::StrCat("/", set, "/", name));
    for (const char* name : {"decode", "end_to_end"})
      add(absl::StrCat(set, ".tokens_per_second.", name),
          absl::StrCat("/", set, "/tokens_per_second/", name));
    for (const char* name : kLatency)
      add(absl::StrCat(set, ".latency.", name), absl::StrCat("/", set, "/latency/", name));
    for (const char* phase : kPhases)
      add(absl::StrCat(set, ".phase_ms_per_token.", phase),
          absl::StrCat("/", set, "/latency/phase_ms_per_token/", phase));
  }
  std::string csv = absl::StrJoin(names, ",") + "\n";
  for (const OrderedJson& cell : results.cells) {
    std::vector<std::string> fields;
    for (const std::string& path : paths) {
      const OrderedJson::json_pointer pointer(path);
      fields.push_back(cell.contains(pointer) ? CsvField(cell.at(pointer)) : "");
    }
    csv += absl::StrJoin(fields, ",") + "\n";
  }
  return csv;
}

}  // namespace tandem
