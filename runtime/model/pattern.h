// Pattern: one compiled regex or literal of a tokenizer, and where it matches. Const after compiling; any
// thread.
#ifndef TANDEM_RUNTIME_MODEL_PATTERN_H_
#define TANDEM_RUNTIME_MODEL_PATTERN_H_

#include <memory>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"

struct pcre2_real_code_8;

namespace tandem {

struct ByteSpan {
  size_t begin, end;  // bytes
};

class Pattern {
 public:
  // `regex` as Oniguruma reads it. kFailedPrecondition with what is wrong and where.
  static absl::StatusOr<Pattern> Compile(std::string_view regex);
  static absl::StatusOr<Pattern> Literal(std::string_view text);
  // One character that Rust's regex crate counts as \w (UTS 18, annex C).
  static absl::StatusOr<Pattern> WordCharacter();

  // The matches from left to right, none overlapping; an empty match right behind another is passed over, as
  // the `onig` crate does. REQUIRES: valid UTF-8. kResourceExhausted if the pattern needs more steps than
  // PCRE2 allows.
  absl::Status FindAll(std::string_view text, std::vector<ByteSpan>& matches) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  static absl::StatusOr<Pattern> CompilePcre2(std::string_view regex, bool is_literal);
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_PATTERN_H_
