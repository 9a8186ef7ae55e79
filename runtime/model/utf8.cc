#include "runtime/model/utf8.h"

#include <cstdint>
#include <cstring>
#include <optional>

#include "runtime/model/tokenizer.h"

namespace tandem {
namespace {

enum class Form { kValid, kBroken, kUnfinished };

struct Unit {
  Form form;
  size_t n_bytes;  // of the character, or of the longest part of one
};

// The character, or the part of one, at the start of `bytes` (Unicode 16, table 3-7). REQUIRES: not empty.
Unit FirstUnit(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Form::kValid, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Form::kBroken, 1};
  const size_t n_bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < n_bytes; ++i) {
    if (i == bytes.size()) return {Form::kUnfinished, i};
    if (byte(i) < low || byte(i) > high) return {Form::kBroken, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Form::kValid, n_bytes};
}

}  // namespace

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    for (uint64_t eight; text.size() - at >= sizeof(eight); at += sizeof(eight)) {
      std::memcpy(&eight, text.data() + at, sizeof(eight));
      if (eight & 0x8080808080808080u) break;
    }
    if (at == text.size()) break;
    const Unit unit = FirstUnit(text.substr(at));
    if (unit.form != Form::kValid) return at;
    at += unit.n_bytes;
  }
  return std::nullopt;
}

char32_t NextCodePoint(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[at + i])); };
  const char32_t lead = byte(0);
  char32_t code_point = lead;
  size_t n_bytes = 1;
  if (lead >= 0xF0) {
    code_point = (lead & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
    n_bytes = 4;
  } else if (lead >= 0xE0) {
    code_point = (lead & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
    n_bytes = 3;
  } else if (lead >= 0xC0) {
    code_point = (lead & 31) << 6 | (byte(1) & 63);
    n_bytes = 2;
  }
  at += n_bytes;
  return code_point;
}

char32_t PreviousCodePoint(std::string_view text, size_t& at) {
  do --at;
  while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  size_t start = at;
  return NextCodePoint(text, start);
}

void AppendUtf8(char32_t c, std::string& out) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    push(c);
  } else if (c < 0x800) {
    push(0xC0 | c >> 6);
    push(0x80 | (c & 63));
  } else if (c < 0x10000) {
    push(0xE0 | c >> 12);
    push(0x80 | (c >> 6 & 63));
    push(0x80 | (c & 63));
  } else {
    push(0xF0 | c >> 18);
    push(0x80 | (c >> 12 & 63));
    push(0x80 | (c >> 6 & 63));
    push(0x80 | (c & 63));
  }
}

size_t AppendLossy(std::string_view bytes, bool at_end, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const std::string_view rest = bytes.substr(at);
    const size_t n_valid = FindInvalidUtf8(rest).value_or(rest.size());
    out.append(rest.substr(0, n_valid));
    at += n_valid;
    if (at == bytes.size()) break;
    const Unit unit = FirstUnit(bytes.substr(at));
    if (unit.form == Form::kUnfinished && !at_end) break;
    out.append("\xEF\xBF\xBD");
    at += unit.n_bytes;
  }
  return at;
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace tandem
