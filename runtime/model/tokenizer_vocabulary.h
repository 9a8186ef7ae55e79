// The vocabulary's part of loading a tokenizer.json: `model` (BPE) and `added_tokens`.
#ifndef TANDEM_RUNTIME_MODEL_TOKENIZER_VOCABULARY_H_
#define TANDEM_RUNTIME_MODEL_TOKENIZER_VOCABULARY_H_

#include "runtime/core/status.h"
#include "runtime/model/tokenizer_json.h"
#include "runtime/model/tokenizer_parts.h"

namespace tandem {

// Fills the tokens, the ids, the added tokens and `bpe` of `parts`. REQUIRES: parts.nfc is set, `root` is an
// object.
absl::Status LoadVocabulary(const TokenizerJson& reader, const TokenizerJson::Json& root,
                            TokenizerParts& parts);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_TOKENIZER_VOCABULARY_H_
