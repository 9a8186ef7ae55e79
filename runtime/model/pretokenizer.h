// PreTokenizer: cuts text into the words that BPE works on: any number of Split steps, then one ByteLevel
// step. The byte-level alphabet itself never appears: words are raw bytes, and the vocabulary is turned into
// bytes at loading.
//
// Const after loading; any thread.
#ifndef TANDEM_RUNTIME_MODEL_PRETOKENIZER_H_
#define TANDEM_RUNTIME_MODEL_PRETOKENIZER_H_

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/model/pattern.h"

namespace tandem {

// What becomes of a match, as SplitDelimiterBehavior of Hugging Face names it.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what lies between the matches is the match
};

struct PreTokenizer {
  std::vector<SplitStep> splits;
  bool add_prefix_space = false;  // before each piece that the splits leave, unless it begins with a space
  std::optional<SplitStep> byte_level;  // GPT-2's pattern, if ByteLevel has use_regex

  // Appends the words of `text`; they point into `text` or into `prefixed`. REQUIRES: valid UTF-8. Errors are
  // Pattern::FindAll's.
  absl::Status Run(std::string_view text, std::vector<std::string_view>& words,
                   std::deque<std::string>& prefixed) const;
};

// The pattern of ByteLevel.
absl::StatusOr<SplitStep> ByteLevelSplit();

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_PRETOKENIZER_H_
