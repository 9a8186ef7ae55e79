#include "runtime/model/added_tokens.h"

#include <algorithm>
#include <utility>

#include "runtime/model/utf8.h"

namespace tandem {

absl::StatusOr<AddedTokens> AddedTokens::New() {
  AddedTokens tokens;
  TANDEM_ASSIGN_OR_RETURN(tokens.word_character_, Pattern::WordCharacter());
  return tokens;
}

void AddedTokens::Add(std::string_view content, const AddedToken& token) {
  int32_t node = 0;
  for (const char c : content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [edge, is_new] = edges_.try_emplace(key, static_cast<int32_t>(token_at_.size()));
    if (is_new) token_at_.push_back(-1);
    node = edge->second;
  }
  if (token_at_[node] >= 0) return;
  begins_[static_cast<uint8_t>(content[0])] = true;
  token_at_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

AddedTokens::Found AddedTokens::FindFrom(std::string_view text, size_t at) const {
  for (; at < text.size(); ++at) {
    if (!begins_[static_cast<uint8_t>(text[at])]) continue;
    int32_t node = 0;
    Found found{nullptr, {at, at}};
    for (size_t i = at; i < text.size(); ++i) {
      const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (token_at_[node] >= 0) found = {&tokens_[token_at_[node]], {at, i + 1}};
    }
    if (found.token != nullptr) return found;
  }
  return {nullptr, {at, at}};
}

absl::StatusOr<bool> AddedTokens::TouchesWord(std::string_view text, ByteSpan span) const {
  std::vector<ByteSpan> matches;
  if (span.begin > 0) {
    size_t before = span.begin;
    PreviousCodePoint(text, before);
    TANDEM_RETURN_IF_ERROR(word_character_.FindAll(text.substr(before, span.begin - before), matches));
  }
  if (span.end < text.size()) {
    size_t after = span.end;
    NextCodePoint(text, after);
    TANDEM_RETURN_IF_ERROR(word_character_.FindAll(text.substr(span.end, after - span.end), matches));
  }
  return !matches.empty();
}

absl::Status AddedTokens::Split(std::string_view text, std::vector<TextSegment>& segments) const {
  size_t done = 0;
  size_t space_end = 0;  // of the last run of white space that a token took
  for (size_t at = 0; at < text.size();) {
    const Found found = FindFrom(text, at);
    if (found.token == nullptr) break;
    at = found.span.end;  // also where the match is dropped, and wherever the white space ends
    if (found.token->single_word) {
      TANDEM_ASSIGN_OR_RETURN(const bool touches, TouchesWord(text, found.span));
      if (touches) continue;
    }
    auto [begin, end] = found.span;
    if (found.token->lstrip) {
      for (size_t at = begin; at > done && IsWhiteSpace(PreviousCodePoint(text, at));) begin = at;
      begin = std::max(begin, done);
    }
    if (found.token->rstrip) {
      end = std::max(end, space_end);
      for (size_t at = end; at < text.size() && IsWhiteSpace(NextCodePoint(text, at));) end = at;
      space_end = end;
    }
    if (begin >= end) continue;  // a token of white space that another one took
    if (done < begin) segments.push_back({text.substr(done, begin - done), -1});
    segments.push_back({{}, found.token->id});
    done = end;
  }
  if (done < text.size()) segments.push_back({text.substr(done), -1});
  return absl::OkStatus();
}

}  // namespace tandem
