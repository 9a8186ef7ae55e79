#include "runtime/config.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "runtime/cascade/cascade_config.h"
#include "runtime/config_keys.h"
#include "runtime/core/sequence.h"
#include "runtime/model/tokenizer.h"
#include "runtime/names.h"
#include "runtime/rule_config.h"
#include "runtime/sweep_config.h"

namespace tandem {
namespace {

// A choice is a text, or one that ends in ":N" and stands for that with any number.
bool IsChoice(std::string_view text, std::string_view choice) {
  if (text == choice) return choice.size() < 2 || choice.substr(choice.size() - 2) != ":N";
  if (!choice.ends_with(":N") || !text.starts_with(choice.substr(0, choice.size() - 1))) return false;
  const std::string_view number = text.substr(choice.size() - 1);
  return !number.empty() && number.size() < 4 &&
         number.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string Join(const std::string& prefix, const std::string& key) {
  return prefix.empty() ? key : absl::StrCat(prefix, ".", key);
}

bool IsSection(const std::string& path) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (absl::StartsWith(key.path, path + ".")) return true;
  }
  return false;
}

// A key that lacks its section is found where it belongs.
std::string UnknownKey(const std::string& section, const std::string& name) {
  const std::vector<std::string> names = KeyNamesIn(section);
  if (NearestName(name, names).empty()) {
    for (const ConfigKey& key : ConfigKeys()) {
      for (const std::string path : {key.path, key.alias}) {
        if (absl::EndsWith(path, "." + name)) {
          return absl::StrCat(Join(section, name), ": unknown key; did you mean ", path, "?");
        }
      }
    }
  }
  return absl::StrCat(Join(section, name), ": unknown key", Suggestion(name, names));
}

YamlNode MapAt(const Where& where) {
  YamlNode node;
  node.kind = YamlNode::Kind::kMap;
  node.where = where;
  return node;
}

// Puts `value` in the tree in place of what is at `path`.
void Replace(YamlNode& root, const std::string& path, YamlNode value) {
  const Where where = value.where;
  YamlNode* node = &root;
  std::string prefix;
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    if (node->kind != YamlNode::Kind::kMap) *node = MapAt(where);
    const std::string here = Join(prefix, names[i]);
    const ConfigKey* key = FindConfigKey(here);
    const auto found = std::find_if(node->entries.begin(), node->entries.end(), [&](const YamlEntry& entry) {
      return entry.key == names[i] || (key != nullptr && FindConfigKey(Join(prefix, entry.key)) == key);
    });
    YamlEntry* entry;
    if (found == node->entries.end()) {
      entry = &node->entries.emplace_back(YamlEntry{names[i], where, MapAt(where)});
    } else {
      entry = &*found;
    }
    if (i + 1 == names.size()) *entry = {names[i], where, std::move(value)};
    node = &entry->value;
    prefix = here;
  }
}

class Resolver {
 public:
  Resolver(const std::string& folder, std::vector<Complaint>* complaints)
      : folder_(folder), complaints_(complaints) {}

  Config Resolve(const YamlNode& root) {
    if (root.kind == YamlNode::Kind::kMap) {
      Section("", root);
    } else {
      Complain(root.where, absl::StrCat("expected a map of ", absl::StrJoin(KeyNamesIn(""), ", "), "; got ",
                                        root.Describe()));
    }
    CheckTogether(root);
    ApplyPreset(&config_);
    return std::move(config_);
  }

 private:
  void Complain(const Where& where, std::string message) {
    complaints_->push_back({where, std::move(message)});
  }
  void Complain(const YamlNode& node, const std::string& path, const std::string& expected) {
    Complain(node.where, absl::StrCat(path, ": expected ", expected, ", got ", node.Describe()));
  }

  void Section(const std::string& path, const YamlNode& node) {
    if (path == "draft" && node.kind == YamlNode::Kind::kScalar && node.text == "none") {
      config_.origins["draft"] = node.where;
      return;
    }
    if (node.kind != YamlNode::Kind::kMap) {
      Complain(node, path,
               absl::StrCat(path == "draft" ? "none or " : "", "a map of ",
                            absl::StrJoin(KeyNamesIn(path), ", ")));
      return;
    }
    if (path == "draft") draft_ = node.where;
    if (path == "draft.ngram") ngram_ = node.where;
    for (const YamlEntry& entry : node.entries) {
      const std::string here = Join(path, entry.key);
      if (const ConfigKey* key = FindConfigKey(here)) {
        const auto [first, is_new] = config_.origins.emplace(key->path, entry.value.where);
        if (!is_new) {
          Complain(entry.where,
                   absl::StrCat(here, ": the same key as the one at ", first->second.Text(), "; keep one"));
          continue;
        }
        std::visit([&](auto* field) { Read(*key, here, entry.value, field); }, key->field(config_));
      } else if (IsSection(here)) {
        Section(here, entry.value);
      } else if (path == "rule") {
        RuleParameterAt(entry, &config_.rule.parameters);
      } else if (path == "cascade") {
        RuleParameterAt(entry, &config_.cascade.parameters);
      } else {
        Complain(entry.where, UnknownKey(path, entry.key));
      }
    }
  }

  // Whether a rule has this parameter, a number in which range, is the rule's to say (rule_config.h).
  void RuleParameterAt(const YamlEntry& entry, std::map<std::string, RuleParameter>* parameters) {
    const std::optional<double> value = Number(entry.value);
    (*parameters)[entry.key] = {value.value_or(NAN), entry.value.where, entry.value.Describe()};
  }

  static std::optional<double> Number(const YamlNode& node) {
    double value;
    if (node.kind != YamlNode::Kind::kScalar || node.quoted || !absl::SimpleAtod(node.text, &value) ||
        !std::isfinite(value)) {
      return std::nullopt;
    }
    return value;
  }

  static bool InRange(const ConfigKey& key, double value) {
    const bool above = key.above_min ? value > key.min : value >= key.min;
    return above && (key.max == 0 || value <= key.max);
  }

  template <typename T>
  static std::optional<T> Whole(const ConfigKey& key, const YamlNode& node) {
    T value;
    if (node.kind != YamlNode::Kind::kScalar || node.quoted || !absl::SimpleAtoi(node.text, &value) ||
        !InRange(key, static_cast<double>(value))) {
      return std::nullopt;
    }
    return value;
  }

  template <typename T>
  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node,
            T* field) requires std::is_integral_v<T> {
    if (const std::optional<T> value = Whole<T>(key, node)) {
      *field = *value;
    } else {
      Complain(node, path, Expectation(key));
    }
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node, bool* field) {
    const bool is_bool =
        node.kind == YamlNode::Kind::kScalar && !node.quoted && (node.text == "true" || node.text == "false");
    if (!is_bool) {
      Complain(node, path, Expectation(key));
      return;
    }
    *field = node.text == "true";
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node, double* field) {
    const std::optional<double> value = Number(node);
    if (!value || !InRange(key, *value)) {
      Complain(node, path, Expectation(key));
      return;
    }
    *field = *value;
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node, std::string* field) {
    if (node.kind != YamlNode::Kind::kScalar) {
      Complain(node, path, Expectation(key));
      return;
    }
    if (*key.choices != 0) {
      const std::vector<std::string> choices = absl::StrSplit(key.choices, '|');
      const auto is_it = [&](const std::string& choice) { return IsChoice(node.text, choice); };
      if (std::none_of(choices.begin(), choices.end(), is_it)) {
        const std::string nearest = NearestName(node.text, choices);
        Complain(node.where,
                 absl::StrCat(path, ": expected ", Expectation(key), ", got ", node.Describe(),
                              nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
        return;
      }
    }
    *field = node.text;
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node, Path* field) {
    if (node.kind != YamlNode::Kind::kScalar || node.text.empty()) {
      Complain(node, path, Expectation(key));
      return;
    }
    const bool none = !node.quoted && node.text == "none" && *key.choices != 0;
    field->text = none ? "" : Absolute(node);
    field->given = none ? "" : node.text;
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node,
            std::vector<std::string>* field) {
    if (node.kind == YamlNode::Kind::kScalar && node.quoted) {  // one text, as most APIs allow
      field->push_back(node.text);
    } else if (node.kind != YamlNode::Kind::kList) {
      Complain(node, path, Expectation(key));
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      const YamlNode& item = node.items[i];
      if (item.kind != YamlNode::Kind::kScalar || item.text.empty()) {
        Complain(item, absl::StrCat(path, "[", i, "]"), "a text that is not empty");
      } else {
        field->push_back(item.text);
      }
    }
    if (node.quoted && node.text.empty()) Complain(node, path, "a text that is not empty");
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node,
            std::vector<int32_t>* field) {
    const std::string item =
        *key.choices != 0
            ? absl::StrCat("a ", key.choices, ", a whole number from 0")
            : absl::StrReplaceAll(Expectation(key), {{"a list of whole numbers", "a whole number"}});
    ReadNumbers(key, path, node, item, field, [&](const YamlNode& n) { return Whole<int32_t>(key, n); });
    const bool stops = std::string_view(key.path) == "sampling.stop_token_ids";
    if (stops && field->size() > kMaxStopIds) {
      Complain(node.where,
               absl::StrCat(path, ": expected at most ", kMaxStopIds, " ids, got ", field->size()));
    }
  }

  void Read(const ConfigKey& key, const std::string& path, const YamlNode& node, std::vector<double>* field) {
    const std::string item = absl::StrReplaceAll(Expectation(key), {{"a list of numbers", "a number"}});
    ReadNumbers(key, path, node, item, field, [&](const YamlNode& n) {
      const std::optional<double> value = Number(n);
      return value && InRange(key, *value) ? value : std::nullopt;
    });
  }

  template <typename T, typename ReadOne>
  void ReadNumbers(const ConfigKey& key, const std::string& path, const YamlNode& node,
                   const std::string& item, std::vector<T>* field, ReadOne read) {
    field->clear();  // of its default
    if (node.kind != YamlNode::Kind::kList) {
      Complain(node, path, Expectation(key));
      return;
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      if (const std::optional<T> value = read(node.items[i])) {
        field->push_back(*value);
      } else {
        Complain(node.items[i], absl::StrCat(path, "[", i, "]"), item);
      }
    }
  }

  void Read(const ConfigKey&, const std::string& path, const YamlNode& node, std::vector<RuleGrid>* field) {
    *field = ReadRuleGrids(node, path, complaints_);
  }

  void Read(const ConfigKey&, const std::string& path, const YamlNode& node, PromptConfig* field) {
    if (node.kind != YamlNode::Kind::kMap) {
      field->prompts = ParsePromptNode(node, complaints_, path);
      return;
    }
    const YamlNode* file = node.Find("file");
    for (const YamlEntry& entry : node.entries) {
      if (entry.key != "file") {
        Complain(entry.where,
                 absl::StrCat(path, ".", entry.key, ": unknown key", Suggestion(entry.key, {"file"}),
                              " (a single prompt with fields is a list of one)"));
      }
    }
    if (file == nullptr) {
      if (node.entries.empty()) Complain(node, path, "a text, a list of prompts, or {file: FILE.jsonl}");
    } else if (file->kind != YamlNode::Kind::kScalar || file->text.empty()) {
      Complain(*file, path + ".file", "a path");
    } else {
      field->file.text = Absolute(*file);
      field->file.given = file->text;
      field->prompts = ReadPromptFile(field->file.text, file->where, complaints_, path);
    }
  }

  std::string Absolute(const YamlNode& node) const {
    std::filesystem::path path = node.text;
    if (path.is_relative() && node.where.line != 0) path = std::filesystem::path(folder_) / path;
    std::string text = std::filesystem::absolute(path).lexically_normal().string();
    while (text.size() > 1 && text.back() == '/') text.pop_back();
    return text;
  }

  // What no key can say alone.
  void CheckTogether(const YamlNode& root) {
    const auto origin = [&](const char* key) {
      const auto found = config_.origins.find(key);
      return found == config_.origins.end() ? root.where : found->second;
    };
    if (!config_.origins.contains("target.model")) {
      const YamlNode* target = root.Find("target");
      Complain(target != nullptr ? target->where : root.where,
               "target.model: missing; expected the folder of the target's checkpoint");
    }
    const bool has_model = config_.origins.contains("draft.model");
    if (has_model && ngram_) {
      Complain(*ngram_, absl::StrCat("draft: expected model or ngram, got both (model at ",
                                     origin("draft.model").Text(), ")"));
    } else if (draft_ && !has_model && !ngram_) {
      Complain(*draft_, "draft: expected model or ngram (or `draft: none`), got neither");
    }
    // A pair runs on one device.
    if (!config_.origins.contains("draft.device")) config_.draft.device = config_.target.device;
    config_.draft_kind = has_model ? DraftKind::kModel : ngram_ ? DraftKind::kNgram : DraftKind::kNone;
    if (config_.ngram.min > config_.ngram.max) {
      Complain(
          config_.origins.contains("draft.ngram.max") ? origin("draft.ngram.max") : origin("draft.ngram.min"),
          absl::StrCat("draft.ngram.max: expected at least draft.ngram.min = ", config_.ngram.min, ", got ",
                       config_.ngram.max));
    }
  }

  const std::string folder_;
  std::vector<Complaint>* complaints_;
  Config config_;
  std::optional<Where> draft_;  // of the map, if there is one
  std::optional<Where> ngram_;
};

}  // namespace

absl::StatusOr<Override> ParseSet(std::string_view argument) {
  const size_t equals = argument.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--set ", std::string(argument),
                                                   ": expected KEY=VALUE, as in --set speculation.gamma=4"));
  }
  return Override{.path = std::string(argument.substr(0, equals)),
                  .value = std::string(argument.substr(equals + 1)),
                  .flag = absl::StrCat("--set ", std::string(argument))};
}

absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& file,
                                   const std::vector<Override>& overrides) {
  std::vector<Complaint> complaints;
  if (const std::optional<size_t> bad = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": not valid UTF-8 at byte ", *bad));
  }
  YamlNode root = ReadYaml(text, {file, 1, 1}, &complaints);
  for (const Override& replace : overrides) {
    const Where where{replace.flag};
    if (const std::optional<size_t> bad = FindInvalidUtf8(replace.value)) {
      complaints.push_back({where, absl::StrCat("not valid UTF-8 at byte ", *bad, " of the value")});
      continue;
    }
    YamlNode value;
    if (replace.is_text) {
      value.kind = YamlNode::Kind::kScalar;
      value.where = where;
      value.text = replace.value;
      value.quoted = true;
    } else {
      value = ReadYaml(replace.value, where, &complaints);
    }
    Replace(root, replace.path, std::move(value));
  }
  const std::string folder = std::filesystem::path(file).parent_path().string();
  Config config = Resolver(folder, &complaints).Resolve(root);
  config.file.text = file;
  CheckRuleConfig(&config, &complaints);
  CheckCascadeConfig(config, &complaints);
  TANDEM_RETURN_IF_ERROR(ToStatus(std::move(complaints)));
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& file, const std::vector<Override>& overrides) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(absl::StrCat(file, ": no such file"));
  if (std::filesystem::is_directory(status)) {
    return absl::NotFoundError(absl::StrCat(file, ": expected a YAML file, got a folder"));
  }
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream) return absl::NotFoundError(absl::StrCat(file, ": cannot be read"));
  return ParseConfig(text.str(), file, overrides);
}

}  // namespace tandem
