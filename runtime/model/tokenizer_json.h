// TokenizerJson: typed access to the values of a tokenizer.json, with errors that name the file and the
// place. `where` is always the path of keys down to a value, as in "model.vocab". Used while loading, by one
// thread.
#ifndef TANDEM_RUNTIME_MODEL_TOKENIZER_JSON_H_
#define TANDEM_RUNTIME_MODEL_TOKENIZER_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "runtime/core/status.h"

namespace tandem {

class TokenizerJson {
 public:
  using Json = nlohmann::json;

  // The largest vocabularies have a few hundred thousand ids; tables are dense, so a stray id must not size
  // them.
  static constexpr int32_t kMaxIds = 1 << 21;

  explicit TokenizerJson(const std::string& path) : path_(path) {}

  // `text` in quotes on one line, cut after some 60 bytes.
  static std::string Quote(std::string_view text);
  absl::Status Fail(std::string_view where, const std::string& what) const;
  static std::string Expected(std::string_view what, const Json& got);
  static std::string Unsupported(const std::string& type, const char* supported);
  static std::string Join(const std::string& where, const std::string& key);
  static std::string At(const std::string& where, size_t i);

  // The member, or null if it is missing or null, or `object` is none.
  static const Json* Find(const Json& object, const std::string& key);

  absl::StatusOr<bool> Bool(const Json& object, const std::string& where, const char* key,
                            bool missing) const;
  absl::StatusOr<std::string_view> String(const Json& object, const std::string& where,
                                          const char* key) const;
  absl::StatusOr<const Json*> Array(const Json& object, const std::string& where, const char* key) const;
  absl::StatusOr<std::string> Type(const Json& component, const std::string& where) const;
  absl::StatusOr<int32_t> Id(const Json& value, const std::string& where) const;

 private:
  std::string path_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_TOKENIZER_JSON_H_
