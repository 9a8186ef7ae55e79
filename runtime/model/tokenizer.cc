#include "runtime/model/tokenizer.h"

#include <absl/strings/str_format.h>
#include <absl/strings/string_view.h>

#include <deque>
#include <utility>

#include "runtime/model/nfc.h"
#include "runtime/model/tokenizer_parts.h"
#include "runtime/model/utf8.h"

namespace tandem {

struct Tokenizer::Impl : TokenizerParts {};

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  TANDEM_RETURN_IF_ERROR(LoadTokenizerParts(path, *impl));
  return std::unique_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  if (const std::optional<size_t> invalid = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the text is not valid UTF-8 at byte %d (0x%02X): give it as UTF-8", *invalid,
                        static_cast<unsigned char>(text[*invalid])));
  }
  const Impl& impl = *impl_;
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = impl.prefix;

  BpeScratch scratch;
  std::vector<std::string_view> words;
  std::vector<TextSegment> segments, inner;
  TANDEM_RETURN_IF_ERROR(impl.added_before_normalization->Split(text, segments));
  for (const TextSegment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const std::optional<std::string> normal = impl.nfc ? NormalizeNfc(segment.text) : std::nullopt;
    inner.clear();
    TANDEM_RETURN_IF_ERROR(impl.added_after_normalization->Split(normal ? *normal : segment.text, inner));
    for (const TextSegment& part : inner) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      std::deque<std::string> prefixed;
      words.clear();
      TANDEM_RETURN_IF_ERROR(impl.pre_tokenizer.Run(part.text, words, prefixed));
      for (std::string_view word : words) impl.bpe.Encode(word, scratch, ids);
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), impl.suffix.begin(), impl.suffix.end());
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  TokenStream stream(*this, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += stream.Push(id);
  return text += stream.Finish();
}

int32_t Tokenizer::n_ids() const { return static_cast<int32_t>(impl_->tokens.size()); }

std::optional<std::string_view> Tokenizer::token(int32_t id) const {
  if (!impl_->Exists(id)) return std::nullopt;
  return impl_->tokens[id].spelled;
}

std::optional<int32_t> Tokenizer::id(std::string_view token) const {
  const auto it = impl_->ids.find(token);
  return it == impl_->ids.end() ? std::nullopt : std::optional(it->second);
}

bool Tokenizer::is_special(int32_t id) const { return impl_->Exists(id) && impl_->tokens[id].is_special; }

TokenStream::TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

std::string TokenStream::Push(int32_t id) {
  const Tokenizer::Impl& impl = *tokenizer_->impl_;
  if (!impl.Exists(id) || (skip_special_tokens_ && impl.tokens[id].is_special)) return "";
  pending_ += impl.tokens[id].bytes;
  std::string text;
  pending_.erase(0, AppendLossy(pending_, /*at_end=*/false, text));
  return text;
}

std::string TokenStream::Finish() {
  std::string text;
  AppendLossy(pending_, /*at_end=*/true, text);
  pending_.clear();
  return text;
}

}  // namespace tandem
