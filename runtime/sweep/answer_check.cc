#include "runtime/sweep/answer_check.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tandem {
namespace {

std::string_view Stripped(std::string_view text) {
  const absl::string_view stripped = absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  return {stripped.data(), stripped.size()};
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// The end of a run of digits that begins at `at`.
size_t EndOfDigits(std::string_view text, size_t at) {
  while (at < text.size() && IsDigit(text[at])) ++at;
  return at;
}

// Whether `mark` and a digit stand at `at`.
bool GoesOn(std::string_view text, size_t at, char mark) {
  return at + 1 < text.size() && text[at] == mark && IsDigit(text[at + 1]);
}

// The numbers of the text from left to right, as long as they can be: a minus sign, digits with single commas between
// them, a full stop with digits after it. The last one, without its commas.
std::string LastNumber(std::string_view text) {
  std::string last;
  for (size_t at = 0; at < text.size();) {
    if (!IsDigit(text[at])) {
      ++at;
      continue;
    }
    const size_t begin = at > 0 && text[at - 1] == '-' ? at - 1 : at;
    at = EndOfDigits(text, at);
    while (GoesOn(text, at, ',')) at = EndOfDigits(text, at + 1);
    if (GoesOn(text, at, '.')) at = EndOfDigits(text, at + 1);
    last = std::string(text.substr(begin, at - begin));
  }
  last.erase(std::remove(last.begin(), last.end(), ','), last.end());
  return last;
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
