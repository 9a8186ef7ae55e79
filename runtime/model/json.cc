#include "runtime/model/json.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <vector>

namespace tandem {

std::string JoinPath(const std::string& folder, std::string_view name) {
  const bool slash = !folder.empty() && folder.back() == '/';
  return folder + (slash ? "" : "/") + std::string(name);
}

bool FileExists(const std::string& path) { return std::ifstream(path).good(); }

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) {
      return absl::NotFoundError(absl::StrCat(path, ": no such file; check the folder's path"));
    }
    return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be opened: ", std::strerror(error)));
  }
  std::ostringstream content;
  content << file.rdbuf();
  // An empty file leaves the failbit of `content` set; only the source's state tells of a failed read.
  if (file.bad() || (content.str().empty() && file.peek() != std::ifstream::traits_type::eof())) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be read: is it a file?"));
  }
  return std::move(content).str();
}

std::string Quoted(std::string_view name) {
  constexpr size_t kLongest = 200;
  const std::string shown = absl::Utf8SafeCHexEscape({name.data(), std::min(name.size(), kLongest)});
  return absl::StrCat("\"", shown, name.size() > kLongest ? "...\"" : "\"");
}

namespace {

absl::Status NotJson(std::string_view text, size_t byte, const std::string& path) {
  const size_t end = std::min(byte, text.size() + 1);  // just past the text if it ends too early
  size_t line = 1;
  size_t column = 1;
  for (size_t i = 0; i + 1 < end; ++i) {
    line += text[i] == '\n';
    column = text[i] == '\n' ? 1 : column + 1;
  }
  return absl::FailedPreconditionError(absl::StrCat(path, ":", line, ":", column, ": not valid JSON",
                                                    byte > text.size() ? " (it ends too early)" : "",
                                                    "; the file is damaged: copy or download it again"));
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& path,
                                               DuplicateKeys duplicates) {
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::optional<std::string> duplicate;
  const Json::parser_callback_t check_keys = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && !duplicate) duplicate = key;
    }
    return true;
  };
  Json parsed;
  try {
    parsed = Json::parse(text, duplicates == DuplicateKeys::kRefused ? check_keys : nullptr);
  } catch (const Json::parse_error& error) {
    return NotJson(text, error.byte, path);
  } catch (const Json::exception&) {  // a number that no type holds
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": a number in it is out of range; the file is damaged: copy or download it again"));
  }
  if (duplicate) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": ", Quoted(*duplicate), " is there twice, expected once; write the file again"));
  }
  if (!parsed.is_object()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": expected a JSON object, got ", parsed.type_name()));
  }
  return parsed;
}

}  // namespace tandem
