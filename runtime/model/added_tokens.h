// AddedTokens: finds the added tokens of a tokenizer.json in text, with their flags, as Hugging Face's
// AddedVocabulary does: leftmost, and of those that begin there the longest. One set holds the tokens looked
// for before normalization, another those looked for after it.
//
// Filled at loading, const afterwards; any thread.
#ifndef TANDEM_RUNTIME_MODEL_ADDED_TOKENS_H_
#define TANDEM_RUNTIME_MODEL_ADDED_TOKENS_H_

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/model/pattern.h"

namespace tandem {

struct AddedToken {
  int32_t id;
  bool single_word;  // only if no word character touches it
  bool lstrip;       // takes the white space before it
  bool rstrip;       // takes the white space behind it
};

// A piece of text, or an added token.
struct TextSegment {
  std::string_view text;  // not empty, or empty for an added token
  int32_t id;             // -1: text
};

class AddedTokens {
 public:
  static absl::StatusOr<AddedTokens> New();

  // REQUIRES: `content` is not empty. The first of two with the same content stands.
  void Add(std::string_view content, const AddedToken& token);

  // Appends the segments of `text`. REQUIRES: valid UTF-8.
  absl::Status Split(std::string_view text, std::vector<TextSegment>& segments) const;

 private:
  struct Found {
    const AddedToken* token;  // null: none from there on
    ByteSpan span;
  };
  Found FindFrom(std::string_view text, size_t at) const;
  absl::StatusOr<bool> TouchesWord(std::string_view text, ByteSpan span) const;

  // A trie over bytes: (node << 8 | byte) to node; node 0 is the root.
  absl::flat_hash_map<uint64_t, int32_t> edges_;
  std::vector<int32_t> token_at_ = {-1};  // by node, an index into tokens_
  std::array<bool, 256> begins_ = {};     // by first byte
  std::vector<AddedToken> tokens_;
  Pattern word_character_;  // \w of Rust's regex crate
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_ADDED_TOKENS_H_
