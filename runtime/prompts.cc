#include "runtime/prompts.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/model/tokenizer.h"
#include "runtime/names.h"

namespace tandem {
namespace {

using Json = nlohmann::json;

std::vector<std::string> Fields() {
  return {"prompt", "prompt_token_ids", "id", "category", "max_new_tokens", "seed", "answer", "check"};
}

constexpr CheckKind kCheckKinds[] = {CheckKind::kExact, CheckKind::kAfter, CheckKind::kLastNumber,
                                     CheckKind::kJson};

// One prompt's fields as they are read, from JSON or YAML; the rules about them are the same.
class PromptBuilder {
 public:
  PromptBuilder(std::string name, const Where& where, std::vector<Complaint>* complaints)
      : name_(std::move(name)), complaints_(complaints) {
    prompt_.where = where;
  }

  void Complain(const Where& where, const std::string& what) {
    complaints_->push_back({where, absl::StrCat(name_, what)});
    ok_ = false;
  }
  void Text(const Where& where, std::string text) {
    if (const std::optional<size_t> bad = FindInvalidUtf8(text)) {
      Complain(where, absl::StrCat("prompt: not valid UTF-8 at byte ", *bad));
    } else if (text.empty()) {
      Complain(where, "prompt: empty; expected some text");
    }
    prompt_.text = std::move(text);
  }
  void Ids(const Where& where, std::vector<int32_t> ids) {
    if (ids.empty() && ok_) Complain(where, "prompt_token_ids: empty; expected at least one id");
    prompt_.token_ids = std::move(ids);
  }
  void Answer(const Where& where, std::string answer) {
    if (answer.empty()) Complain(where, "answer: empty; expected some text");
    prompt_.answer = std::move(answer);
  }
  void Check(const Where& where, const std::string& kind, std::optional<std::string> mark) {
    std::vector<std::string> names;
    for (const CheckKind one : kCheckKinds) {
      names.push_back(Name(one));
      if (names.back() == kind) prompt_.check.kind = one;
    }
    if (kind != Name(prompt_.check.kind)) {
      return Complain(where, absl::StrCat("check.kind: expected ", absl::StrJoin(names, " or "), ", got ",
                                          kind, Suggestion(kind, names)));
    }
    const bool wants_mark = prompt_.check.kind == CheckKind::kAfter;
    if (wants_mark && (!mark || mark->empty()))
      return Complain(where, "check: kind after needs a mark, the text that the answer follows");
    if (!wants_mark && mark) return Complain(where, absl::StrCat("check.mark: kind ", kind, " has no mark"));
    prompt_.check.mark = mark.value_or("");
    has_check_ = true;
  }
  Prompt& prompt() { return prompt_; }

  // Adds the prompt if everything about it was right.
  void Finish(std::vector<Prompt>* prompts) {
    if (prompt_.text && prompt_.token_ids) {
      Complain(prompt_.where, "expected prompt or prompt_token_ids, got both");
    } else if (!prompt_.text && !prompt_.token_ids && ok_) {
      Complain(prompt_.where, "expected prompt or prompt_token_ids, got neither");
    }
    if (has_check_ && !prompt_.answer && ok_)
      Complain(prompt_.where, "check: there is no answer to compare with");
    if (ok_) prompts->push_back(std::move(prompt_));
  }

 private:
  const std::string name_;  // "prompts[3]." or nothing: what stands before a field's name in a complaint
  std::vector<Complaint>* complaints_;
  Prompt prompt_;
  bool has_check_ = false;
  bool ok_ = true;
};

constexpr const char* kIdExpected = "expected a text or a whole number";
constexpr const char* kMaxNewExpected = "max_new_tokens: expected a whole number, at least 1, got ";
constexpr const char* kSeedExpected = "seed: expected a whole number from 0 to 2^64 - 1, got ";
constexpr const char* kCheckExpected = "check: expected a map such as {kind: exact}, got ";
constexpr const char* kIdsExpected = "prompt_token_ids: expected a list of whole numbers from 0, got ";

// Gives ids to the prompts that have none and refuses an id that two have.
void NamePrompts(std::vector<Prompt>& prompts, std::vector<Complaint>* complaints) {
  std::map<std::string, size_t> first;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Prompt& prompt = prompts[i];
    const bool own = !prompt.id.empty();
    if (!own) prompt.id = absl::StrCat(i + 1);
    const auto [used, is_new] = first.emplace(prompt.id, i);
    if (!is_new) {
      complaints->push_back(
          {prompt.where,
           absl::StrCat("id \"", prompt.id, "\": already used at ", prompts[used->second].where.Text(),
                        own ? "" : " (a prompt without an id is named by its number)")});
    }
  }
}

std::string Short(const Json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > 40) text = text.substr(0, 40) + "...";
  return text;
}

void ReadJsonCheck(const Json& value, const Where& where, PromptBuilder& builder) {
  if (!value.is_object() || !value.contains("kind")) {
    return builder.Complain(where, absl::StrCat(kCheckExpected, Short(value)));
  }
  std::optional<std::string> mark;
  for (const auto& [key, field] : value.items()) {
    if (key != "kind" && key != "mark") {
      builder.Complain(where,
                       absl::StrCat("check.", key, ": unknown field", Suggestion(key, {"kind", "mark"})));
    } else if (!field.is_string()) {
      builder.Complain(where, absl::StrCat("check.", key, ": expected a text, got ", Short(field)));
    } else if (key == "mark") {
      mark = field.get<std::string>();
    }
  }
  if (value["kind"].is_string()) builder.Check(where, value["kind"].get<std::string>(), mark);
}

void ReadJsonField(const std::string& key, const Json& value, const Where& where, PromptBuilder& builder) {
  Prompt& prompt = builder.prompt();
  if (key == "prompt") {
    if (!value.is_string())
      return builder.Complain(where, absl::StrCat("prompt: expected a text, got ", Short(value)));
    builder.Text(where, value.get<std::string>());
  } else if (key == "prompt_token_ids") {
    std::vector<int32_t> ids;
    if (!value.is_array()) return builder.Complain(where, absl::StrCat(kIdsExpected, Short(value)));
    for (const Json& id : value) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
        return builder.Complain(where, absl::StrCat(kIdsExpected, Short(id), " in it"));
      }
      ids.push_back(id.get<int32_t>());
    }
    builder.Ids(where, std::move(ids));
  } else if (key == "id") {
    if (value.is_string() && !value.get_ref<const std::string&>().empty()) {
      prompt.id = value.get<std::string>();
    } else if (value.is_number_integer()) {
      prompt.id = value.dump();
    } else {
      builder.Complain(where, absl::StrCat("id: ", kIdExpected, ", got ", Short(value)));
    }
  } else if (key == "category") {
    if (!value.is_string())
      return builder.Complain(where, absl::StrCat("category: expected a text, got ", Short(value)));
    prompt.category = value.get<std::string>();
  } else if (key == "max_new_tokens") {
    if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
        value.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return builder.Complain(where, absl::StrCat(kMaxNewExpected, Short(value)));
    }
    prompt.max_new_tokens = value.get<int32_t>();
  } else if (key == "seed") {
    if (!value.is_number_unsigned())
      return builder.Complain(where, absl::StrCat(kSeedExpected, Short(value)));
    prompt.seed = value.get<uint64_t>();
  } else if (key == "answer") {
    if (!value.is_string())
      return builder.Complain(where, absl::StrCat("answer: expected a text, got ", Short(value)));
    builder.Answer(where, value.get<std::string>());
  } else if (key == "check") {
    ReadJsonCheck(value, where, builder);
  } else {
    builder.Complain(where, absl::StrCat(key, ": unknown field", Suggestion(key, Fields())));
  }
}

void ParseLine(std::string_view line, const Where& where, std::vector<Prompt>* prompts,
               std::vector<Complaint>* complaints) {
  PromptBuilder builder("", where, complaints);
  if (const std::optional<size_t> bad = FindInvalidUtf8(line)) {
    complaints->push_back({{where.source, where.line, static_cast<int>(*bad) + 1},
                           absl::StrCat("not valid UTF-8 at byte ", *bad, " of the line")});
    return;
  }
  std::map<std::string, int> n_seen;
  const auto count_keys = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) ++n_seen[parsed.get<std::string>()];
    return true;
  };
  Json object;
  try {
    object = Json::parse(line, count_keys);
  } catch (const Json::parse_error& error) {
    complaints->push_back({{where.source, where.line, static_cast<int>(error.byte)},
                           "not valid JSON; expected one object per line, such as {\"prompt\": \"Hello\"}"});
    return;
  }
  if (!object.is_object()) {
    builder.Complain(
        where, absl::StrCat("expected an object, such as {\"prompt\": \"Hello\"}, got ", Short(object)));
    return;
  }
  for (const auto& [key, count] : n_seen) {
    if (count > 1) builder.Complain(where, absl::StrCat(key, ": duplicate field"));
  }
  for (const auto& [key, value] : object.items()) ReadJsonField(key, value, where, builder);
  builder.Finish(prompts);
}

template <typename T>
bool ReadWhole(const YamlNode& node, T min, T* value) {
  return node.kind == YamlNode::Kind::kScalar && !node.quoted && absl::SimpleAtoi(node.text, value) &&
         *value >= min;
}

void ReadYamlIds(const YamlNode& node, PromptBuilder& builder) {
  std::vector<int32_t> ids(node.items.size());
  if (node.kind != YamlNode::Kind::kList) return builder.Complain(node.where, kIdsExpected + node.Describe());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!ReadWhole(node.items[i], 0, &ids[i])) {
      return builder.Complain(node.items[i].where,
                              absl::StrCat(kIdsExpected, node.items[i].Describe(), " in it"));
    }
  }
  builder.Ids(node.where, std::move(ids));
}

void ReadYamlCheck(const YamlNode& node, PromptBuilder& builder) {
  const YamlNode* kind = node.kind == YamlNode::Kind::kMap ? node.Find("kind") : nullptr;
  if (kind == nullptr) return builder.Complain(node.where, absl::StrCat(kCheckExpected, node.Describe()));
  std::optional<std::string> mark;
  for (const YamlEntry& entry : node.entries) {
    if (entry.key != "kind" && entry.key != "mark") {
      builder.Complain(entry.where, absl::StrCat("check.", entry.key, ": unknown key",
                                                 Suggestion(entry.key, {"kind", "mark"})));
    } else if (entry.value.kind != YamlNode::Kind::kScalar) {
      builder.Complain(entry.value.where,
                       absl::StrCat("check.", entry.key, ": expected a text, got ", entry.value.Describe()));
    } else if (entry.key == "mark") {
      mark = entry.value.text;
    }
  }
  if (kind->kind == YamlNode::Kind::kScalar) builder.Check(kind->where, kind->text, mark);
}

void ReadYamlField(const YamlEntry& entry, PromptBuilder& builder) {
  Prompt& prompt = builder.prompt();
  const YamlNode& value = entry.value;
  const bool is_text = value.kind == YamlNode::Kind::kScalar;
  const auto expected = [&](const char* what) {
    builder.Complain(value.where, absl::StrCat(entry.key, ": expected ", what, ", got ", value.Describe()));
  };
  if (entry.key == "prompt") {
    if (!is_text) return expected("a text");
    builder.Text(value.where, value.text);
  } else if (entry.key == "prompt_token_ids") {
    ReadYamlIds(value, builder);
  } else if (entry.key == "id") {
    if (!is_text || value.text.empty()) return expected("a text or a whole number");
    prompt.id = value.text;
  } else if (entry.key == "category") {
    if (!is_text) return expected("a text");
    prompt.category = value.text;
  } else if (entry.key == "max_new_tokens") {
    int32_t number;
    if (!ReadWhole(value, 1, &number))
      return builder.Complain(value.where, kMaxNewExpected + value.Describe());
    prompt.max_new_tokens = number;
  } else if (entry.key == "seed") {
    uint64_t number;
    if (!ReadWhole<uint64_t>(value, 0, &number))
      return builder.Complain(value.where, kSeedExpected + value.Describe());
    prompt.seed = number;
  } else if (entry.key == "answer") {
    if (!is_text) return expected("a text");
    builder.Answer(value.where, value.text);
  } else if (entry.key == "check") {
    ReadYamlCheck(value, builder);
  } else {
    builder.Complain(entry.where, absl::StrCat(entry.key, ": unknown key", Suggestion(entry.key, Fields())));
  }
}

void ParseItem(const YamlNode& node, const std::string& name, std::vector<Prompt>* prompts,
               std::vector<Complaint>* complaints) {
  PromptBuilder builder(name, node.where, complaints);
  switch (node.kind) {
    case YamlNode::Kind::kScalar:
      builder.Text(node.where, node.text);
      break;
    case YamlNode::Kind::kList:
      ReadYamlIds(node, builder);
      break;
    case YamlNode::Kind::kMap:
      for (const YamlEntry& entry : node.entries) ReadYamlField(entry, builder);
      break;
    case YamlNode::Kind::kNull:
      builder.Complain(node.where, "expected a prompt, got nothing");
      break;
  }
  builder.Finish(prompts);
}

}  // namespace

std::vector<Prompt> ParsePromptLines(std::string_view text, const std::string& file,
                                     std::vector<Complaint>* complaints) {
  std::vector<Prompt> prompts;
  int number = 0;
  const size_t n_complaints = complaints->size();
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    ParseLine(line, {file, number, 0}, &prompts, complaints);
  }
  if (prompts.empty() && complaints->size() == n_complaints) {
    complaints->push_back({{file}, "no prompts; expected one JSON object per line"});
  }
  NamePrompts(prompts, complaints);
  return prompts;
}

std::vector<Prompt> ReadPromptFile(const std::string& path, const Where& named_at,
                                   std::vector<Complaint>* complaints, const std::string& key) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  if (stream) text << stream.rdbuf();
  if (!stream || text.fail()) {
    complaints->push_back(
        {named_at, absl::StrCat(key, ".file: ", path, ": no such file, or it cannot be read")});
    return {};
  }
  return ParsePromptLines(text.str(), path, complaints);
}

std::vector<Prompt> ParsePromptNode(const YamlNode& node, std::vector<Complaint>* complaints,
                                    const std::string& key) {
  std::vector<Prompt> prompts;
  if (node.kind == YamlNode::Kind::kScalar) {
    ParseItem(node, key + ": ", &prompts, complaints);
  } else if (node.kind != YamlNode::Kind::kList) {
    complaints->push_back(
        {node.where, absl::StrCat(key, ": expected a text, a list of prompts, or {file: FILE.jsonl}, got ",
                                  node.Describe())});
  } else {
    for (size_t i = 0; i < node.items.size(); ++i) {
      ParseItem(node.items[i], absl::StrCat(key, "[", i, "]: "), &prompts, complaints);
    }
  }
  NamePrompts(prompts, complaints);
  return prompts;
}

const char* Name(CheckKind kind) {
  switch (kind) {
    case CheckKind::kExact:
      return "exact";
    case CheckKind::kAfter:
      return "after";
    case CheckKind::kLastNumber:
      return "last_number";
    case CheckKind::kJson:
      return "json";
  }
  return "";
}

}  // namespace tandem
