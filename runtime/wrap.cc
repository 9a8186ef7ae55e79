#include "runtime/wrap.h"

#include <algorithm>

namespace tandem {

std::string Wrap(std::string_view text, int indent, int width) {
  std::string out;
  int column = indent;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text = text.substr(std::min(end + 1, text.size()));
    if (column > indent && column + 1 + static_cast<int>(word.size()) > width) {
      out += '\n';
      out.append(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += static_cast<int>(word.size());
  }
  return out;
}

std::string Entry(std::string_view name, std::string_view text, int column) {
  std::string out = "  ";
  out += name;
  if (static_cast<int>(out.size()) + 2 > column) {
    out += '\n';
    out.append(column, ' ');
  } else {
    out.append(column - out.size(), ' ');
  }
  return out + Wrap(text, column) + "\n";
}

}  // namespace tandem
