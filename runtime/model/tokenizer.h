// Tokenizer: a Hugging Face tokenizer.json with byte-level BPE: text to ids and back, exactly as the `tokenizers`
// library does it (GPT-2, Llama 3 and Qwen2 pre-tokenizers). A component it does not know is refused by name.
//
// Const after loading; any thread may use one. A TokenStream belongs to one sequence.
#ifndef TANDEM_RUNTIME_MODEL_TOKENIZER_H_
#define TANDEM_RUNTIME_MODEL_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"

namespace tandem {

class Tokenizer {
 public:
  // Reads `path`, a tokenizer.json. Errors: kNotFound; kFailedPrecondition naming the file and the component or key.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& path);
  ~Tokenizer();

  // kInvalidArgument, naming the byte offset, if `text` is not valid UTF-8. `add_special_tokens` runs the
  // post-processor (a begin-of-text token, for instance). Added tokens are found in the text, as Hugging Face does.
  // kResourceExhausted if a regex of the file gives up on the text; the known patterns do not.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens = true) const;

  // Valid UTF-8 always: bytes that form no character become U+FFFD, as in Hugging Face. Ids outside the table are
  // skipped.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  // One more than the largest id, added tokens included. Ids may have holes.
  int32_t n_ids() const;
  // The token as tokenizer.json spells it, or nothing at a hole.
  std::optional<std::string_view> token(int32_t id) const;
  std::optional<int32_t> id(std::string_view token) const;
  bool is_special(int32_t id) const;

 private:
  friend class TokenStream;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// TokenStream: decodes token by token and never emits half a character. The pieces put together equal
// Decode(all ids, skip_special_tokens).
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  // What can be shown now; often empty within a character of several tokens.
  std::string Push(int32_t id);
  // The rest at the end: an unfinished character becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;
};

// Byte offset of the first byte that is not valid UTF-8, or nothing. The one check of tandem.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_TOKENIZER_H_
