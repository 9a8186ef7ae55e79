#include "runtime/model/oniguruma.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <vector>

#include "runtime/model/unicode_tables.h"

namespace tandem {
namespace {

constexpr std::string_view kCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                            "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                            "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// ASCII pairs that a single character folds to, as "ss" is folded from U+00DF: Oniguruma matches it, PCRE2
// does not.
constexpr std::string_view kFoldedPairs[] = {"ss", "st", "ff", "fi", "fl"};

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAscii(char c) { return static_cast<unsigned char>(c) < 0x80; }
bool IsAsciiPunctuation(char c) { return c > ' ' && c < 0x7F && !IsLetter(c) && !IsDigit(c); }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (!(ignore_case_.back() && IsLetter(c))) last_letter_ = 0;
      switch (c) {
        case '\\':
          TANDEM_RETURN_IF_ERROR(Escape(/*in_class=*/false));
          break;
        case '[':
          TANDEM_RETURN_IF_ERROR(Class());
          break;
        case '(':
          TANDEM_RETURN_IF_ERROR(Open());
          break;
        case ')':
          if (ignore_case_.size() == 1) return Refuse(")", "it closes no group");
          ignore_case_.pop_back();
          Copy(1);
          break;
        case '{':
          TANDEM_RETURN_IF_ERROR(Interval());
          break;
        default:
          TANDEM_RETURN_IF_ERROR(Literal());
      }
    }
    return std::move(out_);
  }

 private:
  bool Next(std::string_view expected) const { return pattern_.substr(at_, expected.size()) == expected; }

  void Copy(size_t n) {
    out_.append(pattern_.substr(at_, n));
    at_ += n;
  }

  void Replace(size_t n, std::string_view by) {
    out_.append(by);
    at_ += n;
  }

  absl::Status Refuse(std::string_view what, std::string_view why) const {
    std::string shown(what);
    std::replace_if(
        shown.begin(), shown.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, '?');
    return absl::FailedPreconditionError(
        absl::StrCat("`", shown, "` at byte ", at_, " of the pattern is not supported: ", std::string(why)));
  }

  absl::Status Literal() {
    const char c = pattern_[at_];
    if (ignore_case_.back()) {
      if (!IsAscii(c)) return Refuse("(?i:", "only ASCII may stand in it");
      if (IsLetter(c)) {
        const char lower = static_cast<char>(c | 0x20);
        const char pair[] = {last_letter_, lower};
        if (std::count(std::begin(kFoldedPairs), std::end(kFoldedPairs), std::string_view(pair, 2))) {
          return Refuse(std::string_view(pair, 2), "a single character folds to it");
        }
        last_letter_ = lower;
      }
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Open() {
    for (std::string_view group : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
      if (!Next(group)) continue;
      ignore_case_.push_back(group == "(?i:" || (group != "(?-i:" && ignore_case_.back()));
      Copy(group.size());
      return absl::OkStatus();
    }
    if (Next("(?") || Next("(*")) return Refuse(pattern_.substr(at_, 3), "no such group");
    ignore_case_.push_back(ignore_case_.back());
    Copy(1);
    return absl::OkStatus();
  }

  // {n}, {n,}, {,m}, {n,m}; any other brace is itself.
  absl::Status Interval() {
    size_t end = at_ + 1;
    const auto digits = [&] {
      const size_t begin = end;
      while (end < pattern_.size() && IsDigit(pattern_[end])) ++end;
      return end > begin;
    };
    const bool has_low = digits();
    const bool has_comma = end < pattern_.size() && pattern_[end] == ',';
    if (has_comma) ++end;
    const bool has_high = has_comma && digits();
    if (end >= pattern_.size() || pattern_[end] != '}' || !(has_low || has_high)) {
      Replace(1, "\\{");
      return absl::OkStatus();
    }
    ++end;
    if (const char after = end < pattern_.size() ? pattern_[end] : 0;
        after == '+' || (after == '?' && !has_comma)) {
      return Refuse(pattern_.substr(at_, end + 1 - at_), "Oniguruma repeats the interval there");
    }
    out_.append(has_low ? "{" : "{0");
    at_ += 1;
    Copy(end - at_);
    return absl::OkStatus();
  }

  absl::Status Class() {
    Copy(1);
    if (Next("^")) Copy(1);
    if (Next("]")) return Refuse("]", "a class must not begin with it");
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      if (Next("[")) return Refuse("[", "classes in classes");
      if (Next("&&")) return Refuse("&&", "intersections of classes");
      if (Next("\\")) {
        TANDEM_RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else if (ignore_case_.back() && !IsAscii(pattern_[at_])) {
        return Refuse("(?i:", "only ASCII may stand in it");
      } else {
        Copy(1);
      }
    }
    if (at_ == pattern_.size()) return Refuse("[", "the class does not end");
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Escape(bool in_class) {
    if (at_ + 1 == pattern_.size()) return Refuse("\\", "nothing follows it");
    const char c = pattern_[at_ + 1];
    if (IsAsciiPunctuation(c) || c == 'r' || c == 'n' || c == 't' || c == 'f') {
      Copy(2);
      return absl::OkStatus();
    }
    switch (c) {
      case ' ':
        Replace(2, " ");
        return absl::OkStatus();
      case 'v':
        Replace(2, "\\x0b");
        return absl::OkStatus();
      case 's':
        Replace(2, "\\p{White_Space}");
        return absl::OkStatus();
      case 'S':
        Replace(2, "\\P{White_Space}");
        return absl::OkStatus();
      case 'd':
        return Property("Nd", false, 2, in_class);
      case 'D':
        return Property("Nd", true, 2, in_class);
      case 'p':
      case 'P': {
        const size_t end = pattern_.find('}', at_);
        if (end == pattern_.npos || pattern_[at_ + 2] != '{')
          return Refuse(pattern_.substr(at_, 2), "no {name} follows");
        std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
        bool negated = c == 'P';
        if (name.substr(0, 1) == "^") {
          negated = !negated;
          name.remove_prefix(1);
        }
        return Property(name, negated, end + 1 - at_, in_class);
      }
      case 'u':
        return CodePoint(2, 4);
      case 'x': {
        if (!Next("\\x{")) return CodePoint(2, 2);
        const size_t end = pattern_.find('}', at_);
        if (end == pattern_.npos) return Refuse("\\x{", "it does not end");
        return CodePoint(3, end - at_ - 3);
      }
      default:
        return Refuse(pattern_.substr(at_, 2), "the engines do not agree on it, or do not know it");
    }
  }

  // `n_digits` hexadecimal digits after `skip` characters. Two digits are a byte to Oniguruma, hence ASCII
  // only.
  absl::Status CodePoint(size_t skip, size_t n_digits) {
    const std::string_view digits = pattern_.substr(std::min(at_ + skip, pattern_.size()), n_digits);
    const bool braces = skip == 3;
    const bool is_hex = std::all_of(digits.begin(), digits.end(), [](char c) {
      return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    });
    if (digits.size() != n_digits || digits.empty() || digits.size() > 8 || !is_hex) {
      return Refuse(pattern_.substr(at_, 2), "no hexadecimal digits follow");
    }
    const bool is_ascii =
        digits.find_first_not_of('0') == digits.npos || std::stoul(std::string(digits), nullptr, 16) < 0x80;
    if (n_digits == 2 && !braces && !is_ascii)
      return Refuse(pattern_.substr(at_, 4), "it is a byte, not a character");
    if (ignore_case_.back() && !is_ascii) return Refuse("(?i:", "only ASCII may stand in it");
    out_.append("\\x{").append(digits).append("}");
    at_ += skip + n_digits + (braces ? 1 : 0);
    return absl::OkStatus();
  }

  absl::Status Property(std::string_view name, bool negated, size_t n, bool in_class) {
    if (!std::count(std::begin(kCategories), std::end(kCategories), name)) {
      return Refuse(pattern_.substr(at_, n), "only general categories (L, Lu, N, ...) are");
    }
    if (ignore_case_.back()) return Refuse("(?i:", "only ASCII may stand in it");
    if (negated && in_class) return Refuse(pattern_.substr(at_, n), "a negated category in a class");
    if (!in_class) out_.append(negated ? "[^" : "[");
    out_.append("\\p{").append(name).append("}");
    std::optional<LaterCategory> run;
    const auto flush = [&] {
      if (run) absl::StrAppendFormat(&out_, "\\x{%x}-\\x{%x}", uint32_t{run->first}, uint32_t{run->last});
    };
    for (const LaterCategory& range : kLaterCategories) {
      if (range.major != name[0] || (name.size() == 2 && range.minor != name[1])) continue;
      if (run && run->last + 1 == range.first) {
        run->last = range.last;
      } else {
        flush();
        run = range;
      }
    }
    flush();
    if (!in_class) out_.append("]");
    at_ += n;
    return absl::OkStatus();
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
  std::vector<bool> ignore_case_ = {false};  // of the open groups
  char last_letter_ = 0;                     // the one just before, where case is ignored
};

}  // namespace

absl::StatusOr<std::string> OnigurumaToPcre2(std::string_view pattern) { return Translator(pattern).Run(); }

}  // namespace tandem
