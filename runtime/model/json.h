// Files of a checkpoint as text and JSON, with errors that name the file and the place. Any thread.
#ifndef TANDEM_RUNTIME_MODEL_JSON_H_
#define TANDEM_RUNTIME_MODEL_JSON_H_

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "runtime/core/status.h"

namespace tandem {

// `folder` and `name` with one slash between them.
std::string JoinPath(const std::string& folder, std::string_view name);

// True if `path` can be opened for reading.
bool FileExists(const std::string& path);

// The whole file. kNotFound if there is none; kFailedPrecondition if it cannot be read.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

enum class DuplicateKeys { kLastWins, kRefused };  // last wins: what Python does

// kFailedPrecondition, "PATH:LINE:COLUMN: ...", if `text` (the content of `path`) is not one JSON object.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& path,
                                               DuplicateKeys duplicates = DuplicateKeys::kLastWins);

// A name from a file, fit for one line of an error: quoted, control characters escaped, cut if very long.
std::string Quoted(std::string_view name);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_JSON_H_
