// Normalization form C (UAX 15) with the Unicode version of Hugging Face `tokenizers`. No state; any thread.
#ifndef TANDEM_RUNTIME_MODEL_NFC_H_
#define TANDEM_RUNTIME_MODEL_NFC_H_

#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// The normal form of `text`, or nothing if `text` is surely its own. REQUIRES: valid UTF-8.
std::optional<std::string> NormalizeNfc(std::string_view text);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_NFC_H_
