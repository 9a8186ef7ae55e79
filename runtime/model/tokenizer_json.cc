#include "runtime/model/tokenizer_json.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>

namespace tandem {

std::string TokenizerJson::Quote(std::string_view text) {
  constexpr size_t kMaxBytes = 60;
  size_t n_bytes = std::min(text.size(), kMaxBytes);
  while (n_bytes > 0 && n_bytes < text.size() && (static_cast<uint8_t>(text[n_bytes]) & 0xC0) == 0x80)
    --n_bytes;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(absl::string_view(text.data(), n_bytes)),
                      n_bytes < text.size() ? "...\"" : "\"");
}

absl::Status TokenizerJson::Fail(std::string_view where, const std::string& what) const {
  return absl::FailedPreconditionError(
      absl::StrCat(path_, ": ", std::string(where), where.empty() ? "" : ": ", what));
}

std::string TokenizerJson::Expected(std::string_view what, const Json& got) {
  std::string value = got.type_name();
  if (got.is_string()) value = Quote(got.get_ref<const std::string&>());
  if (got.is_number() || got.is_boolean()) value = got.dump();
  return absl::StrCat("expected ", std::string(what), ", got ", value);
}

std::string TokenizerJson::Unsupported(const std::string& type, const char* supported) {
  return absl::StrCat(type, " is not supported; supported: ", supported);
}

std::string TokenizerJson::Join(const std::string& where, const std::string& key) {
  return absl::StrCat(where, ".", key);
}

std::string TokenizerJson::At(const std::string& where, size_t i) { return absl::StrCat(where, "[", i, "]"); }

const TokenizerJson::Json* TokenizerJson::Find(const Json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<bool> TokenizerJson::Bool(const Json& object, const std::string& where, const char* key,
                                         bool missing) const {
  const Json* value = Find(object, key);
  if (value == nullptr) return missing;
  if (!value->is_boolean()) return Fail(Join(where, key), Expected("true or false", *value));
  return value->get<bool>();
}

absl::StatusOr<std::string_view> TokenizerJson::String(const Json& object, const std::string& where,
                                                       const char* key) const {
  const Json* value = Find(object, key);
  if (value == nullptr) return Fail(Join(where, key), "the key is missing: expected a string");
  if (!value->is_string()) return Fail(Join(where, key), Expected("a string", *value));
  return value->get_ref<const std::string&>();
}

absl::StatusOr<const TokenizerJson::Json*> TokenizerJson::Array(const Json& object, const std::string& where,
                                                                const char* key) const {
  const Json* value = Find(object, key);
  if (value == nullptr) return Fail(Join(where, key), "the key is missing: expected a list");
  if (!value->is_array()) return Fail(Join(where, key), Expected("a list", *value));
  return value;
}

absl::StatusOr<std::string> TokenizerJson::Type(const Json& component, const std::string& where) const {
  if (!component.is_object()) return Fail(where, Expected("an object with a type", component));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, String(component, where, "type"));
  return std::string(type);
}

absl::StatusOr<int32_t> TokenizerJson::Id(const Json& value, const std::string& where) const {
  if (!value.is_number_integer() || value < 0 || value >= kMaxIds) {
    return Fail(where, Expected(absl::StrCat("an id from 0 to ", kMaxIds - 1), value));
  }
  return value.get<int32_t>();
}

}  // namespace tandem
