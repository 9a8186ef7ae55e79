// Text in columns: help and references.
#ifndef TANDEM_RUNTIME_WRAP_H_
#define TANDEM_RUNTIME_WRAP_H_

#include <string>
#include <string_view>

namespace tandem {

// Breaks `text` at spaces so that no line is wider than `width`; every line but the first starts with
// `indent` spaces, which count. The first line is taken to start at column `indent` already.
std::string Wrap(std::string_view text, int indent, int width = 100);

// "  name        text", the text wrapped in its own column. A name wider than the column gets a line of its
// own.
std::string Entry(std::string_view name, std::string_view text, int column);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_WRAP_H_
