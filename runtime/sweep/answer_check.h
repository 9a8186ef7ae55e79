// Whether an output is right: the exact checks that prompts.h describes. Pure functions; any thread.
#ifndef TANDEM_RUNTIME_SWEEP_ANSWER_CHECK_H_
#define TANDEM_RUNTIME_SWEEP_ANSWER_CHECK_H_

#include <optional>
#include <string>
#include <string_view>

#include "runtime/core/status.h"
#include "runtime/prompts.h"

namespace tandem {

// Whether `output` gives the answer `answer`.
bool IsRight(const AnswerCheck& check, std::string_view answer, std::string_view output);

// What of a text is compared, where that is a text: all of it, what follows the mark, or the last number without
// its commas ("" if there is none).
std::string Compared(const AnswerCheck& check, std::string_view text);

// kInvalidArgument, without a place: the answer is one that no output could give (no number in it, not JSON).
absl::Status CheckAnswer(const AnswerCheck& check, std::string_view answer);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_ANSWER_CHECK_H_
