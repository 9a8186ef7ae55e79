#include "runtime/cli/stream.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

namespace tandem {
namespace {

constexpr char kReset[] = "\033[0m";
constexpr char kDim[] = "\033[2m";

const char* ColourOf(Origin origin) {
  switch (origin) {
    case Origin::kDraft:
      return "\033[32m";
    case Origin::kTarget:
      return "";
    case Origin::kReplaced:
      return "\033[33m";
    case Origin::kBonus:
      return "\033[36m";
  }
  return "";
}

std::string Painted(std::string_view text, Origin origin) {
  return absl::StrCat(ColourOf(origin), std::string(text), kReset);
}

}  // namespace

std::string ColourLegend() {
  return absl::StrCat(
      Painted("kept draft tokens", Origin::kDraft), ", ", Painted("replacements", Origin::kReplaced), ", ",
      Painted("bonus tokens", Origin::kBonus), ", ", Painted("the target's alone", Origin::kTarget), "\n");
}

void TokenColours::Push(int32_t token, Origin origin) {
  pieces_.push_back({stream_.Push(token).size(), origin});
}

std::string TokenColours::Take(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    // The bytes of neighbours that come from the same kind of token share one colour.
    size_t n_bytes = pieces_.empty() ? text.size() : 0;
    if (!pieces_.empty()) last_ = pieces_.front().origin;
    while (!pieces_.empty() && pieces_.front().origin == last_ && n_bytes < text.size()) {
      const size_t n_taken = std::min(pieces_.front().n_bytes, text.size() - n_bytes);
      n_bytes += n_taken;
      pieces_.front().n_bytes -= n_taken;
      if (pieces_.front().n_bytes == 0) pieces_.pop_front();
    }
    if (n_bytes > 0) out += Painted(Printable(text.substr(0, n_bytes)), last_);
    text.remove_prefix(n_bytes);
  }
  return out;
}

TextStream::TextStream(std::span<const Request> requests, const Tokenizer* tokenizer,
                       const InterruptScope& interrupt, Show show)
    : requests_(requests),
      tokenizer_(tokenizer),
      interrupt_(interrupt),
      show_(show),
      outputs_(requests.size()),
      is_terminal_(StdoutIsTerminal()) {
  for (size_t i = 0; i < requests.size(); ++i) {
    index_[requests[i].id] = i;
    n_wanted_ += requests[i].max_new_tokens;
    if (tokenizer != nullptr) colours_.emplace_back(*tokenizer);
  }
}

std::string TextStream::Coloured(size_t i, std::span<const int32_t> tokens, std::span<const Origin> origin,
                                 std::string_view text) {
  std::string out;
  if (tokenizer_ == nullptr) {
    for (size_t t = 0; t < tokens.size(); ++t) {
      const std::string id = absl::StrCat(outputs_[i].n_bytes++ == 0 ? "" : " ", tokens[t]);
      out += show_ == Show::kColours ? Painted(id, origin[t]) : id;
    }
    return out;
  }
  outputs_[i].n_bytes += text.size();
  if (show_ != Show::kColours) return is_terminal_ ? Printable(text) : std::string(text);
  for (size_t t = 0; t < tokens.size(); ++t) colours_[i].Push(tokens[t], origin[t]);
  return colours_[i].Take(text);
}

void TextStream::OnTokens(const Request& request, std::span<const int32_t> tokens,
                          std::span<const Origin> origin, std::string_view text) {
  const size_t i = index_.at(request.id);
  outputs_[i].waiting += Coloured(i, tokens, origin, text);
  n_tokens_ += static_cast<int64_t>(tokens.size());
  if (!is_terminal_) progress_.Show("generating", static_cast<double>(n_tokens_) / n_wanted_);
  Flush();
}

void TextStream::OnFinish(const RequestResult& result) {
  const size_t i = index_.at(result.request.id);
  if (tokenizer_ != nullptr && outputs_[i].n_bytes < result.text.size()) {
    const std::string_view rest = std::string_view(result.text).substr(outputs_[i].n_bytes);
    outputs_[i].waiting += Coloured(i, {}, {}, rest);
  }
  outputs_[i].finished = true;
  outputs_[i].skipped = result.finish == FinishReason::kCancelled && result.token_ids.empty();
  Flush();
}

// What stands before an output: of several its id; on a terminal the end of the prompt.
std::string TextStream::Header(size_t i) const {
  const bool colours = show_ == Show::kColours;
  const Request& request = requests_[i];
  std::string text;
  if (outputs_.size() > 1) {
    text = absl::StrCat("[", request.id, request.category.empty() ? "" : ", ", request.category, "]\n");
  }
  if (colours && tokenizer_ != nullptr) {
    constexpr size_t kMost = 100;
    const size_t n = std::min(request.prompt.size(), kMost);
    absl::StrAppend(&text, n < request.prompt.size() ? "..." : "",
                    Printable(tokenizer_->Decode(std::span(request.prompt).last(n))));
  }
  if (colours) text = absl::StrCat(kDim, text, kReset);
  return absl::StrCat(i == 0 ? "" : "\n", text);
}

void TextStream::Flush() {
  std::string out;
  for (; shown_ < outputs_.size(); ++shown_) {
    Output& output = outputs_[shown_];
    if (output.skipped) continue;
    if (!output.started && (output.finished || !output.waiting.empty())) {
      output.started = true;
      out += Header(shown_);
    }
    out += output.waiting;
    output.waiting.clear();
    if (!output.finished) break;
    out += "\n";
  }
  if (!out.empty() && show_ != Show::kNothing && status_.ok()) status_ = Print(out);
}

void TextStream::Finish() {
  for (Output& output : outputs_) {
    output.skipped = output.skipped || (!output.started && output.waiting.empty() && !output.finished);
    output.finished = true;
  }
  Flush();
}

}  // namespace tandem
