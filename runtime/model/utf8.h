// UTF-8 for the tokenizer: code points of valid text, and bytes that may be anything made into valid text.
// FindInvalidUtf8 (tokenizer.h) says whether text is valid. No state; any thread.
#ifndef TANDEM_RUNTIME_MODEL_UTF8_H_
#define TANDEM_RUNTIME_MODEL_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem {

// The code point at `at`, which moves past it. REQUIRES: `text` is valid UTF-8, `at` starts a character.
char32_t NextCodePoint(std::string_view text, size_t& at);

// The code point that ends before `at`, which moves to its start. REQUIRES: valid UTF-8, `at` > 0 ends a
// character.
char32_t PreviousCodePoint(std::string_view text, size_t& at);

void AppendUtf8(char32_t code_point, std::string& out);

// Appends `bytes` to `out`, each maximal part of a broken character as one U+FFFD (Unicode 16, section 3.9,
// which is also Rust's String::from_utf8_lossy). A character that only lacks its last bytes is left unless
// `at_end`. Returns the number of bytes taken.
size_t AppendLossy(std::string_view bytes, bool at_end, std::string& out);

// White_Space of Unicode: what \s means to Oniguruma and to Rust (PCRE2's own \s has U+180E as well).
bool IsWhiteSpace(char32_t code_point);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_UTF8_H_
