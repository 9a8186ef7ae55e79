// What a Tokenizer holds: the parts of a tokenizer.json, ready to run. tokenizer_load.cc fills it,
// tokenizer.cc runs it.
#ifndef TANDEM_RUNTIME_MODEL_TOKENIZER_PARTS_H_
#define TANDEM_RUNTIME_MODEL_TOKENIZER_PARTS_H_

#include <absl/container/flat_hash_map.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"
#include "runtime/model/added_tokens.h"
#include "runtime/model/bpe.h"
#include "runtime/model/pretokenizer.h"

namespace tandem {

struct VocabularyToken {
  std::string spelled;  // as tokenizer.json has it
  std::string bytes;    // what the decoder makes of it
  bool exists = false;  // false: a hole
  bool is_special = false;
};

struct TokenizerParts {
  bool Exists(int32_t id) const {
    return id >= 0 && id < static_cast<int32_t>(tokens.size()) && tokens[id].exists;
  }

  std::vector<VocabularyToken> tokens;                    // by id
  absl::flat_hash_map<std::string_view, int32_t> ids;     // by VocabularyToken::spelled
  std::optional<AddedTokens> added_before_normalization;  // always there after loading
  std::optional<AddedTokens> added_after_normalization;
  bool nfc = false;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  std::vector<int32_t> prefix, suffix;  // what the post-processor puts around the ids
};

// Fills `parts` from the tokenizer.json at `path`. Errors are Tokenizer::Load's.
absl::Status LoadTokenizerParts(const std::string& path, TokenizerParts& parts);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_TOKENIZER_PARTS_H_
