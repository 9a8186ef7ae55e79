// Loading a tokenizer.json: every component is either understood or refused by name.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "runtime/model/tokenizer_json.h"
#include "runtime/model/tokenizer_parts.h"
#include "runtime/model/tokenizer_vocabulary.h"

namespace tandem {
namespace {

using Json = TokenizerJson::Json;

// Sequences in sequences; real files have one.
constexpr int kMaxDepth = 8;

class Loader : private TokenizerJson {
 public:
  Loader(const std::string& path, TokenizerParts& parts) : TokenizerJson(path), parts_(parts) {}

  absl::Status Run(const Json& root) {
    if (!root.is_object()) return Fail("", Expected("an object", root));
    if (const auto it = root.find("version"); it != root.end() && *it != "1.0") {
      return Fail("version", Expected("\"1.0\"", *it));
    }
    for (const char* key : {"truncation", "padding"}) {
      if (const Json* value = Find(root, key)) {
        return Fail(key,
                    absl::StrCat(Expected("null", *value), "; tandem neither truncates nor pads: remove it"));
      }
    }
    TANDEM_RETURN_IF_ERROR(Normalizer(Find(root, "normalizer"), "normalizer", 0));
    TANDEM_RETURN_IF_ERROR(LoadVocabulary(*this, root, parts_));
    TANDEM_RETURN_IF_ERROR(PreTokenizers(Find(root, "pre_tokenizer")));
    TANDEM_RETURN_IF_ERROR(Decoders(Find(root, "decoder"), "decoder", 0));
    if (!has_decoder_) return Fail("decoder", Unsupported("null", "ByteLevel, Sequence"));
    if (const Json* post = Find(root, "post_processor")) {
      TANDEM_RETURN_IF_ERROR(PostProcessor(*post, "post_processor", 0));
    }
    return absl::OkStatus();
  }

 private:
  // Calls `handle(component, where)` for the members of a Sequence.
  template <typename Handle>
  absl::Status ForEach(const Json& sequence, const std::string& where, const char* key, int depth,
                       Handle handle) {
    if (depth == kMaxDepth) return Fail(where, "Sequences are nested too deeply");
    TANDEM_ASSIGN_OR_RETURN(const Json* members, Array(sequence, where, key));
    for (size_t i = 0; i < members->size(); ++i) {
      TANDEM_RETURN_IF_ERROR(handle((*members)[i], At(Join(where, key), i)));
    }
    return absl::OkStatus();
  }

  absl::Status Normalizer(const Json* component, const std::string& where, int depth) {
    if (component == nullptr) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(const std::string type, Type(*component, where));
    if (type == "Sequence") {
      return ForEach(*component, where, "normalizers", depth, [&](const Json& member, const std::string& at) {
        return Normalizer(&member, at, depth + 1);
      });
    }
    if (type != "NFC") return Fail(where, Unsupported(Quote(type), "NFC, Sequence"));
    parts_.nfc = true;
    return absl::OkStatus();
  }

  absl::Status PreTokenizers(const Json* component) {
    if (component != nullptr) TANDEM_RETURN_IF_ERROR(PreTokenizerPart(*component, "pre_tokenizer", 0));
    if (!has_byte_level_) {
      return Fail("pre_tokenizer",
                  "expected ByteLevel, or a Sequence that ends in one: only byte-level BPE is supported");
    }
    return absl::OkStatus();
  }

  absl::Status PreTokenizerPart(const Json& component, const std::string& where, int depth) {
    TANDEM_ASSIGN_OR_RETURN(const std::string type, Type(component, where));
    if (type == "Sequence") {
      return ForEach(
          component, where, "pretokenizers", depth,
          [&](const Json& member, const std::string& at) { return PreTokenizerPart(member, at, depth + 1); });
    }
    if (has_byte_level_) return Fail(where, absl::StrCat(Quote(type), " after ByteLevel is not supported"));
    if (type == "ByteLevel") return ByteLevel(component, where);
    if (type == "Split") return Split(component, where);
    if (type != "Digits") return Fail(where, Unsupported(Quote(type), "ByteLevel, Split, Digits, Sequence"));
    TANDEM_ASSIGN_OR_RETURN(const bool individual, Bool(component, where, "individual_digits", false));
    TANDEM_ASSIGN_OR_RETURN(Pattern number, Pattern::Compile("\\p{N}"));
    parts_.pre_tokenizer.splits.push_back(
        {std::move(number), individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
    return absl::OkStatus();
  }

  absl::Status ByteLevel(const Json& component, const std::string& where) {
    has_byte_level_ = true;
    TANDEM_ASSIGN_OR_RETURN(parts_.pre_tokenizer.add_prefix_space,
                            Bool(component, where, "add_prefix_space", true));
    TANDEM_ASSIGN_OR_RETURN(const bool use_regex, Bool(component, where, "use_regex", true));
    if (use_regex) {
      TANDEM_ASSIGN_OR_RETURN(parts_.pre_tokenizer.byte_level, ByteLevelSplit());
    }
    return absl::OkStatus();
  }

  absl::Status Split(const Json& component, const std::string& where) {
    const Json* pattern = Find(component, "pattern");
    const Json* regex = pattern == nullptr ? nullptr : Find(*pattern, "Regex");
    const Json* literal = pattern == nullptr ? nullptr : Find(*pattern, "String");
    const Json* text = regex != nullptr ? regex : literal;
    if (text == nullptr || !text->is_string()) {
      return Fail(Join(where, "pattern"), "expected {\"Regex\": \"...\"} or {\"String\": \"...\"}");
    }
    const std::string_view source = text->get_ref<const std::string&>();
    absl::StatusOr<Pattern> compiled = regex != nullptr ? Pattern::Compile(source) : Pattern::Literal(source);
    if (!compiled.ok()) return Fail(Join(where, "pattern"), std::string(compiled.status().message()));

    constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
        {"Removed", SplitBehavior::kRemoved},
        {"Isolated", SplitBehavior::kIsolated},
        {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
        {"MergedWithNext", SplitBehavior::kMergedWithNext},
        {"Contiguous", SplitBehavior::kContiguous}};
    TANDEM_ASSIGN_OR_RETURN(const std::string_view name, String(component, where, "behavior"));
    const auto* behavior = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                                        [&](const auto& known) { return known.first == name; });
    if (behavior == std::end(kBehaviors)) {
      return Fail(
          Join(where, "behavior"),
          Unsupported(Quote(name), "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous"));
    }
    TANDEM_ASSIGN_OR_RETURN(const bool invert, Bool(component, where, "invert", false));
    parts_.pre_tokenizer.splits.push_back({*std::move(compiled), behavior->second, invert});
    return absl::OkStatus();
  }

  absl::Status Decoders(const Json* component, const std::string& where, int depth) {
    if (component == nullptr) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(const std::string type, Type(*component, where));
    if (type == "Sequence") {
      return ForEach(*component, where, "decoders", depth, [&](const Json& member, const std::string& at) {
        return Decoders(&member, at, depth + 1);
      });
    }
    // ByteLevel leaves one string, which Fuse leaves as it is.
    if (type == "Fuse" && has_decoder_) return absl::OkStatus();
    if (type != "ByteLevel" || has_decoder_) {
      return Fail(where, Unsupported(Quote(type), "one ByteLevel, then Fuse; Sequence of those"));
    }
    has_decoder_ = true;
    return absl::OkStatus();
  }

  absl::Status PostProcessor(const Json& component, const std::string& where, int depth) {
    TANDEM_ASSIGN_OR_RETURN(const std::string type, Type(component, where));
    if (type == "Sequence") {
      return ForEach(component, where, "processors", depth, [&](const Json& member, const std::string& at) {
        return PostProcessor(member, at, depth + 1);
      });
    }
    if (type == "ByteLevel") return absl::OkStatus();  // it moves offsets, which tandem has not
    if (type != "TemplateProcessing" && type != "RobertaProcessing" && type != "BertProcessing") {
      return Fail(where, Unsupported(Quote(type),
                                     "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel, "
                                     "Sequence"));
    }
    if (has_template_)
      return Fail(where, absl::StrCat(Quote(type), " after another that adds tokens is not supported"));
    has_template_ = true;
    if (type == "TemplateProcessing") return Template(component, where);
    TANDEM_RETURN_IF_ERROR(Around(component, where, "cls", parts_.prefix));
    return Around(component, where, "sep", parts_.suffix);
  }

  // ["<s>", 0], as RobertaProcessing and BertProcessing have it.
  absl::Status Around(const Json& component, const std::string& where, const char* key,
                      std::vector<int32_t>& ids) {
    TANDEM_ASSIGN_OR_RETURN(const Json* pair, Array(component, where, key));
    if (pair->size() != 2) return Fail(Join(where, key), "expected a token and its id");
    TANDEM_ASSIGN_OR_RETURN(const int32_t id, KnownId((*pair)[1], Join(where, key)));
    ids.push_back(id);
    return absl::OkStatus();
  }

  absl::Status Template(const Json& component, const std::string& where) {
    TANDEM_ASSIGN_OR_RETURN(const Json* single, Array(component, where, "single"));
    const Json* table = Find(component, "special_tokens");
    bool has_text = false;
    for (size_t i = 0; i < single->size(); ++i) {
      const std::string at = At(Join(where, "single"), i);
      const Json& piece = (*single)[i];
      if (const Json* sequence = Find(piece, "Sequence")) {
        TANDEM_ASSIGN_OR_RETURN(const std::string_view id, String(*sequence, Join(at, "Sequence"), "id"));
        if (id != "A" || has_text) return Fail(at, "expected sequence A, once");
        has_text = true;
        continue;
      }
      const Json* special = Find(piece, "SpecialToken");
      if (special == nullptr) return Fail(at, "expected a Sequence or a SpecialToken");
      TANDEM_ASSIGN_OR_RETURN(const std::string_view name, String(*special, Join(at, "SpecialToken"), "id"));
      const Json* entry = table == nullptr ? nullptr : Find(*table, std::string(name));
      if (entry == nullptr) return Fail(at, absl::StrCat(Quote(name), " is not in special_tokens"));
      TANDEM_ASSIGN_OR_RETURN(const Json* ids, Array(*entry, Join(where, "special_tokens"), "ids"));
      for (const Json& value : *ids) {
        TANDEM_ASSIGN_OR_RETURN(const int32_t id, KnownId(value, Join(where, "special_tokens")));
        (has_text ? parts_.suffix : parts_.prefix).push_back(id);
      }
    }
    if (!has_text) return Fail(Join(where, "single"), "expected sequence A, once");
    return absl::OkStatus();
  }

  absl::StatusOr<int32_t> KnownId(const Json& value, const std::string& where) const {
    TANDEM_ASSIGN_OR_RETURN(const int32_t id, Id(value, where));
    if (!parts_.Exists(id)) return Fail(where, absl::StrCat("no token has id ", id));
    return id;
  }

  TokenizerParts& parts_;
  bool has_byte_level_ = false;
  bool has_decoder_ = false;
  bool has_template_ = false;
};

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(
        absl::StrCat(path, ": no such file; a checkpoint's tokenizer.json is expected there"));
  }
  std::ifstream file(path, std::ios::binary);
  const uintmax_t size = std::filesystem::file_size(path, error);
  std::string content;
  if (!error && file) {
    content.resize(size);
    file.read(content.data(), static_cast<std::streamsize>(size));
  }
  if (error || !file) return absl::FailedPreconditionError(absl::StrCat(path, ": it cannot be read"));
  return content;
}

}  // namespace

absl::Status LoadTokenizerParts(const std::string& path, TokenizerParts& parts) {
  TANDEM_ASSIGN_OR_RETURN(const std::string content, ReadFile(path));
  Json root;
  try {
    root = Json::parse(content);
  } catch (const Json::parse_error& error) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": byte ", error.byte, ": it is not JSON from there on; fetch the file again"));
  } catch (const Json::exception& error) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": it is not JSON: ", error.what()));
  }
  return Loader(path, parts).Run(root);
}

}  // namespace tandem
