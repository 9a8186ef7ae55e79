#include "runtime/model/pretokenizer.h"

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

struct Part {
  ByteSpan span;
  bool is_match;
};

// Joins neighbours as `behavior` says; for kMergedWithNext the parts come in reverse.
void Join(SplitBehavior behavior, std::vector<Part>& parts) {
  size_t n_kept = 0;
  bool previous = false;
  for (const Part part : parts) {
    const bool joins =
        behavior == SplitBehavior::kContiguous ? part.is_match == previous : part.is_match && !previous;
    if (joins && n_kept > 0) {
      ByteSpan& last = parts[n_kept - 1].span;
      last = {std::min(last.begin, part.span.begin), std::max(last.end, part.span.end)};
    } else {
      parts[n_kept++] = part;
    }
    previous = part.is_match;
  }
  parts.resize(n_kept);
}

absl::Status Split(const SplitStep& step, std::string_view text, std::vector<ByteSpan>& matches,
                   std::vector<std::string_view>& pieces) {
  matches.clear();
  TANDEM_RETURN_IF_ERROR(step.pattern.FindAll(text, matches));
  std::vector<Part> parts;
  parts.reserve(2 * matches.size() + 1);
  size_t end = 0;
  for (const ByteSpan& match : matches) {
    if (end != match.begin) parts.push_back({{end, match.begin}, step.invert});
    parts.push_back({match, !step.invert});
    end = match.end;
  }
  if (end != text.size()) parts.push_back({{end, text.size()}, step.invert});

  switch (step.behavior) {
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kRemoved:
      std::erase_if(parts, [](const Part& part) { return part.is_match; });
      break;
    case SplitBehavior::kMergedWithPrevious:
    case SplitBehavior::kContiguous:
      Join(step.behavior, parts);
      break;
    case SplitBehavior::kMergedWithNext:
      std::reverse(parts.begin(), parts.end());
      Join(step.behavior, parts);
      std::reverse(parts.begin(), parts.end());
      break;
  }
  for (const auto& [span, is_match] : parts) {
    if (span.begin != span.end) pieces.push_back(text.substr(span.begin, span.end - span.begin));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PreTokenizer::Run(std::string_view text, std::vector<std::string_view>& words,
                               std::deque<std::string>& prefixed) const {
  std::vector<ByteSpan> matches;
  std::vector<std::string_view> pieces = {text};
  for (const SplitStep& step : splits) {
    std::vector<std::string_view> next;
    for (std::string_view piece : pieces) TANDEM_RETURN_IF_ERROR(Split(step, piece, matches, next));
    pieces = std::move(next);
  }
  for (std::string_view piece : pieces) {
    if (add_prefix_space && piece.substr(0, 1) != " ") {
      piece = prefixed.emplace_back(std::string(" ").append(piece));
    }
    if (byte_level) {
      TANDEM_RETURN_IF_ERROR(Split(*byte_level, piece, matches, words));
    } else {
      words.push_back(piece);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitStep> ByteLevelSplit() {
  TANDEM_ASSIGN_OR_RETURN(
      Pattern pattern,
      Pattern::Compile(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"));
  return SplitStep{.pattern = std::move(pattern)};
}

}  // namespace tandem
