#include "runtime/model/tokenizer_vocabulary.h"

#include <absl/container/flat_hash_map.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "runtime/model/nfc.h"
#include "runtime/model/utf8.h"

namespace tandem {
namespace {

using Json = TokenizerJson::Json;

// The inverse of the byte-level alphabet: printable Latin-1 stands for itself, the other bytes, in order, for
// U+0100 on.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      byte_of_[is_itself ? static_cast<char32_t>(byte) : next++] = static_cast<int16_t>(byte);
    }
  }

  // Nothing if a character of `spelled` is not of the alphabet. REQUIRES: valid UTF-8.
  std::optional<std::string> Bytes(std::string_view spelled) const {
    std::string bytes;
    for (size_t at = 0; at < spelled.size();) {
      const char32_t c = NextCodePoint(spelled, at);
      if (c >= byte_of_.size() || byte_of_[c] < 0) return std::nullopt;
      bytes.push_back(static_cast<char>(byte_of_[c]));
    }
    return bytes;
  }

 private:
  std::array<int16_t, 0x100 + 68> byte_of_ = [] {
    std::array<int16_t, 0x100 + 68> none;
    none.fill(-1);
    return none;
  }();
};

class VocabularyLoader : private TokenizerJson {
 public:
  VocabularyLoader(const TokenizerJson& reader, TokenizerParts& parts)
      : TokenizerJson(reader), parts_(parts) {}

  absl::Status Run(const Json& root) {
    const Json* model = Find(root, "model");
    if (model == nullptr) return Fail("model", "the key is missing");
    TANDEM_RETURN_IF_ERROR(Model(*model));
    TANDEM_RETURN_IF_ERROR(Added(Find(root, "added_tokens")));
    for (size_t id = 0; id < parts_.tokens.size(); ++id) {
      VocabularyToken& token = parts_.tokens[id];
      if (!token.exists) continue;
      token.bytes = alphabet_.Bytes(token.spelled).value_or(token.spelled);
      parts_.ids.emplace(token.spelled, static_cast<int32_t>(id));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Model(const Json& model) {
    if (!model.is_object()) return Fail("model", Expected("an object", model));
    // Files of the library's first versions name no type.
    const Json* type = Find(model, "type");
    if (type != nullptr && *type != "BPE") {
      return Fail("model.type", Unsupported(type->is_string() ? Quote(type->get_ref<const std::string&>())
                                                              : std::string(type->type_name()),
                                            "BPE"));
    }
    if (const Json* dropout = Find(model, "dropout"); dropout != nullptr && *dropout != 0.0) {
      return Fail("model.dropout", Expected("null", *dropout));
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const Json* value = Find(model, key); value != nullptr && *value != "") {
        return Fail(Join("model", key), absl::StrCat(Expected("null", *value), "; byte-level BPE has none"));
      }
    }
    TANDEM_ASSIGN_OR_RETURN(const bool byte_fallback, Bool(model, "model", "byte_fallback", false));
    if (byte_fallback) return Fail("model.byte_fallback", "true is not supported; byte-level BPE needs none");
    TANDEM_ASSIGN_OR_RETURN(parts_.bpe.ignore_merges, Bool(model, "model", "ignore_merges", false));
    TANDEM_ASSIGN_OR_RETURN(parts_.bpe.fuse_unknown, Bool(model, "model", "fuse_unk", false));
    TANDEM_RETURN_IF_ERROR(Vocabulary(model));
    TANDEM_RETURN_IF_ERROR(Merges(model));
    return Bytes(model);
  }

  absl::Status Vocabulary(const Json& model) {
    const Json* vocab = Find(model, "vocab");
    if (vocab == nullptr) return Fail("model.vocab", "the key is missing");
    if (!vocab->is_object()) return Fail("model.vocab", Expected("an object of tokens and ids", *vocab));
    vocab_.reserve(vocab->size());
    for (auto it = vocab->begin(); it != vocab->end(); ++it) {
      const std::string& token = it.key();
      const auto where = [&] { return absl::StrCat("model.vocab[", Quote(token), "]"); };
      const absl::StatusOr<int32_t> checked = Id(*it, "");
      if (!checked.ok()) return Id(*it, where()).status();
      const int32_t id = *checked;
      if (parts_.Exists(id)) {
        return Fail(where(), absl::StrCat("id ", id, " is also that of ", Quote(parts_.tokens[id].spelled)));
      }
      Put(id, token);
      vocab_.emplace(token, id);
    }
    return absl::OkStatus();
  }

  absl::Status Merges(const Json& model) {
    TANDEM_ASSIGN_OR_RETURN(const Json* merges, Array(model, "model", "merges"));
    parts_.bpe.merges.reserve(merges->size());
    uint32_t rank = 0;
    std::string joined;
    for (size_t i = 0; i < merges->size(); ++i) {
      const Json& merge = (*merges)[i];
      std::string_view left, right;
      if (merge.is_string()) {
        const std::string_view both = merge.get_ref<const std::string&>();
        if (both.substr(0, 8) == "#version") continue;
        const size_t space = both.find(' ');
        if (space == both.npos || both.find(' ', space + 1) != both.npos) {
          return Fail(At("model.merges", i), Expected("two tokens with one space between", merge));
        }
        left = both.substr(0, space);
        right = both.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get_ref<const std::string&>();
        right = merge[1].get_ref<const std::string&>();
      } else {
        return Fail(At("model.merges", i), Expected("two tokens", merge));
      }
      joined.assign(left).append(right);
      int32_t ids[3];
      const std::string_view tokens[3] = {left, right, joined};
      for (int k = 0; k < 3; ++k) {
        const auto it = vocab_.find(tokens[k]);
        if (it == vocab_.end()) {
          return Fail(At("model.merges", i),
                      absl::StrCat("token ", Quote(tokens[k]), " is not in model.vocab"));
        }
        ids[k] = it->second;
      }
      parts_.bpe.merges.insert_or_assign(Bpe::PairKey(ids[0], ids[1]), Bpe::Merge{rank++, ids[2]});
    }
    return absl::OkStatus();
  }

  // Turns the vocabulary from the byte-level alphabet into bytes.
  absl::Status Bytes(const Json& model) {
    Bpe& bpe = parts_.bpe;
    bpe.byte_ids.fill(-1);
    int n_bytes = 0;
    for (const auto& [token, id] : vocab_) {
      std::optional<std::string> bytes = alphabet_.Bytes(token);
      if (!bytes) continue;
      if (bytes->size() == 1) {
        bpe.byte_ids[static_cast<uint8_t>((*bytes)[0])] = id;
        ++n_bytes;
      }
      if (bpe.ignore_merges) bpe.words.emplace(*std::move(bytes), id);
    }
    if (Find(model, "unk_token") == nullptr) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(const std::string_view unknown, String(model, "model", "unk_token"));
    if (const auto it = vocab_.find(unknown); it != vocab_.end()) {
      bpe.unknown_id = it->second;
    } else if (n_bytes < 256) {
      return Fail("model.unk_token", absl::StrCat("token ", Quote(unknown), " is not in model.vocab, and ",
                                                  256 - n_bytes, " bytes need it"));
    }
    return absl::OkStatus();
  }

  absl::Status Added(const Json* list) {
    TANDEM_ASSIGN_OR_RETURN(parts_.added_before_normalization, AddedTokens::New());
    TANDEM_ASSIGN_OR_RETURN(parts_.added_after_normalization, AddedTokens::New());
    if (list == nullptr) return absl::OkStatus();
    if (!list->is_array()) return Fail("added_tokens", Expected("a list", *list));
    absl::flat_hash_map<std::string_view, int32_t> seen;
    int32_t largest = -1;
    // Of tokens with one normal form the first stands, special ones before the others.
    std::vector<std::pair<std::string, AddedToken>> normal[2];
    for (size_t i = 0; i < list->size(); ++i) {
      const Json& item = (*list)[i];
      const std::string where = At("added_tokens", i);
      if (!item.is_object()) return Fail(where, Expected("an object", item));
      TANDEM_ASSIGN_OR_RETURN(const int32_t id, Id(item.value("id", Json()), Join(where, "id")));
      TANDEM_ASSIGN_OR_RETURN(const std::string_view content, String(item, where, "content"));
      TANDEM_ASSIGN_OR_RETURN(const bool special, Bool(item, where, "special", false));
      TANDEM_ASSIGN_OR_RETURN(const bool normalized, Bool(item, where, "normalized", !special));
      AddedToken token;
      token.id = id;
      TANDEM_ASSIGN_OR_RETURN(token.single_word, Bool(item, where, "single_word", false));
      TANDEM_ASSIGN_OR_RETURN(token.lstrip, Bool(item, where, "lstrip", false));
      TANDEM_ASSIGN_OR_RETURN(token.rstrip, Bool(item, where, "rstrip", false));
      if (content.empty()) continue;
      if (!seen.emplace(content, id).second) return Fail(where, absl::StrCat(Quote(content), " comes twice"));

      // Hugging Face numbers a token that the model lacks by itself, whatever `id` says. Where the two
      // disagree one of them is not what the checkpoint was trained on.
      const int32_t n_vocab = static_cast<int32_t>(vocab_.size());
      const auto in_vocab = vocab_.find(content);
      const int32_t expected = in_vocab != vocab_.end() ? in_vocab->second : std::max(largest + 1, n_vocab);
      if (id != expected) {
        return Fail(Join(where, "id"),
                    absl::StrCat(Quote(content), " has id ", id, ", expected ", expected,
                                 in_vocab != vocab_.end() ? " as in model.vocab"
                                                          : " (the next after those before it)"));
      }
      if (in_vocab == vocab_.end() && parts_.Exists(id)) {
        return Fail(Join(where, "id"),
                    absl::StrCat(id, " is also that of ", Quote(parts_.tokens[id].spelled)));
      }
      largest = std::max(largest, id);
      Put(id, content);
      parts_.tokens[id].is_special = special;
      if (!normalized) {
        parts_.added_before_normalization->Add(content, token);
      } else {
        const std::optional<std::string> form = parts_.nfc ? NormalizeNfc(content) : std::nullopt;
        normal[special ? 0 : 1].emplace_back(form.value_or(std::string(content)), token);
      }
    }
    for (const auto& tokens : normal) {
      for (const auto& [form, token] : tokens) parts_.added_after_normalization->Add(form, token);
    }
    return absl::OkStatus();
  }

  void Put(int32_t id, std::string_view spelled) {
    if (id >= static_cast<int32_t>(parts_.tokens.size())) parts_.tokens.resize(id + 1);
    parts_.tokens[id].spelled = spelled;
    parts_.tokens[id].exists = true;
  }

  TokenizerParts& parts_;
  const ByteAlphabet alphabet_;
  absl::flat_hash_map<std::string_view, int32_t> vocab_;  // the model's; views into the JSON
};

}  // namespace

absl::Status LoadVocabulary(const TokenizerJson& reader, const Json& root, TokenizerParts& parts) {
  return VocabularyLoader(reader, parts).Run(root);
}

}  // namespace tandem
