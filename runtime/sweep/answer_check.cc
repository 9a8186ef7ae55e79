#include "runtime/sweep/answer_check.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <nlohmann/json.hpp>

namespace tandem {
namespace {

std::string_view Stripped(std::string_view text) {
  const absl::string_view stripped = absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  return {stripped.data(), stripped.size()};
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// A minus sign, digits with single commas between them, a full stop with digits after it.
std::string LastNumber(std::string_view text) {
  size_t last = text.size();
  while (last > 0 && !IsDigit(text[last - 1])) --last;
  if (last == 0) return "";
  const auto run_start = [&](size_t end) {  // of digits and commas between them that end before `end`
    size_t begin = end;
    while (begin > 0 && (IsDigit(text[begin - 1]) || (text[begin - 1] == ',' && begin < end && begin > 1 &&
                                                      IsDigit(text[begin - 2]) && IsDigit(text[begin])))) {
      --begin;
    }
    return begin;
  };
  size_t begin = run_start(last);
  const bool has_fraction = begin > 1 && text[begin - 1] == '.' && IsDigit(text[begin - 2]) &&
                            text.substr(begin, last - begin).find(',') == std::string_view::npos;
  if (has_fraction) begin = run_start(begin - 1);
  if (begin > 0 && text[begin - 1] == '-') --begin;
  std::string number;
  for (const char c : text.substr(begin, last - begin)) {
    if (c != ',') number += c;
  }
  return number;
}

nlohmann::json ParsedJson(std::string_view text) {
  return nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

}  // namespace

std::string Compared(const AnswerCheck& check, std::string_view text) {
  if (check.kind == CheckKind::kLastNumber) return LastNumber(text);
  if (check.kind == CheckKind::kAfter) {
    const size_t at = text.rfind(check.mark);
    if (at != std::string_view::npos) text.remove_prefix(at + check.mark.size());
    text = Stripped(text);
    while (!text.empty() && text.back() == '.') text.remove_suffix(1);
    return std::string(text);
  }
  return std::string(Stripped(text));
}

bool IsRight(const AnswerCheck& check, std::string_view answer, std::string_view output) {
  const std::string wanted = Compared(check, answer);
  const std::string got = Compared(check, output);
  switch (check.kind) {
    case CheckKind::kExact:
    case CheckKind::kAfter:
      return got == wanted;
    case CheckKind::kLastNumber: {
      double a = 0, b = 0;  // 12.50 is 12.5
      return absl::SimpleAtod(got, &a) && absl::SimpleAtod(wanted, &b) && a == b;
    }
    case CheckKind::kJson: {
      const nlohmann::json value = ParsedJson(got);
      return !value.is_discarded() && value == ParsedJson(wanted);
    }
  }
  return false;
}

absl::Status CheckAnswer(const AnswerCheck& check, std::string_view answer) {
  const std::string wanted = Compared(check, answer);
  if (check.kind == CheckKind::kJson) {
    if (ParsedJson(wanted).is_discarded())
      return absl::InvalidArgumentError("answer: expected JSON, as its check.kind says");
  } else if (wanted.empty()) {
    return absl::InvalidArgumentError(check.kind == CheckKind::kLastNumber
                                          ? "answer: expected a number in it, as its check.kind says"
                                          : "answer: nothing in it to compare");
  }
  return absl::OkStatus();
}

}  // namespace tandem
