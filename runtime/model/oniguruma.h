// The regexes of a tokenizer.json are written for Oniguruma; tandem runs them with PCRE2. Most of the syntax
// is shared; this translates what is spelled otherwise and refuses what would match otherwise.
#ifndef TANDEM_RUNTIME_MODEL_ONIGURUMA_H_
#define TANDEM_RUNTIME_MODEL_ONIGURUMA_H_

#include <string>
#include <string_view>

#include "runtime/core/status.h"

namespace tandem {

// The same pattern for PCRE2 with UTF, UCP, MULTILINE and newline LF. General categories gain the code points
// that Unicode 15 to 16 assigned (PCRE2 10.42 has Unicode 14); \s loses U+180E. kFailedPrecondition, naming
// the construct and its byte offset, for what has no equal or is not known to have one.
absl::StatusOr<std::string> OnigurumaToPcre2(std::string_view pattern);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ONIGURUMA_H_
