#include "runtime/model/pattern.h"

#include <absl/strings/str_format.h>

#include <optional>
#include <string>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime/model/oniguruma.h"

namespace tandem {
namespace {

std::string Pcre2Message(int error) {
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(error, message, sizeof(message));
  return reinterpret_cast<const char*>(message);
}

struct FreeContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};

}  // namespace

void Pattern::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<Pattern> Pattern::Compile(std::string_view regex) {
  TANDEM_ASSIGN_OR_RETURN(const std::string translated, OnigurumaToPcre2(regex));
  return CompilePcre2(translated, /*is_literal=*/false);
}

absl::StatusOr<Pattern> Pattern::Literal(std::string_view text) {
  return CompilePcre2(text, /*is_literal=*/true);
}

absl::StatusOr<Pattern> Pattern::WordCharacter() {
  TANDEM_ASSIGN_OR_RETURN(const std::string translated,
                          OnigurumaToPcre2("[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}]"));
  return CompilePcre2("[\\p{Alphabetic}\\x{200c}\\x{200d}" + translated.substr(1), /*is_literal=*/false);
}

absl::StatusOr<Pattern> Pattern::CompilePcre2(std::string_view regex, bool is_literal) {
  const std::unique_ptr<pcre2_compile_context, FreeContext> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const uint32_t options =
      PCRE2_UTF | (is_literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE);
  int error = 0;
  size_t offset = 0;
  Pattern pattern;
  pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(), options, &error,
                                    &offset, context.get()));
  if (pattern.code_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the pattern does not compile: %s (byte %d after translation)", Pcre2Message(error), offset));
  }
  // Without a JIT for this processor the interpreter runs.
  pcre2_jit_compile(pattern.code_.get(), PCRE2_JIT_COMPLETE);
  return pattern;
}

absl::Status Pattern::FindAll(std::string_view text, std::vector<ByteSpan>& matches) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> match(pcre2_match_data_create(1, nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::optional<size_t> last_end;
  for (size_t at = 0; at <= text.size();) {
    int n = pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) {
      n = pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(),
                      nullptr);
    }
    if (n == PCRE2_ERROR_NOMATCH) break;
    if (n < 0) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("a pattern of the tokenizer gave up at byte %d of a piece of %d bytes: %s", at,
                          text.size(), Pcre2Message(n)));
    }
    const size_t* bounds = pcre2_get_ovector_pointer(match.get());
    const ByteSpan span{bounds[0], bounds[1]};
    if (span.begin == span.end && last_end == span.end) {
      ++at;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
      continue;
    }
    at = span.end;
    last_end = span.end;
    matches.push_back(span);
  }
  return absl::OkStatus();
}

}  // namespace tandem
