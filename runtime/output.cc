#include "runtime/output.h"

#include <algorithm>

namespace tandem {
namespace {

// How many bytes at the end of `text` could be the beginning of `stop`.
size_t OverlapAtEnd(const std::string& text, const std::string& stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.compare(text.size() - n, n, stop, 0, n) == 0) return n;
  }
  return 0;
}

}  // namespace

Output::Output(const Request& request, const Tokenizer* tokenizer) : request_(request) {
  if (tokenizer != nullptr) stream_.emplace(*tokenizer);
}

int Output::Add(const SlotRecord& record, std::string* text) {
  int n_taken = 0;
  while (n_taken < record.n_emit && !stopped_) {
    const int32_t token = record.tokens[n_taken];
    tokens_.push_back(token);
    origin_.push_back(record.origin[n_taken]);
    ++n_taken;
    const bool ends = record.finish == FinishReason::kStop && n_taken == record.n_emit;
    // The token that says "end" is an output token but no text.
    if (stream_ && !ends) stopped_ = PushText(stream_->Push(token));
  }
  *text = TakeShowable(false);
  return n_taken;
}

std::string Output::Finish() {
  if (stream_ && !stopped_) stopped_ = PushText(stream_->Finish());
  return TakeShowable(true);
}

bool Output::PushText(std::string piece) {
  // A stop string may begin in earlier text, but not before its own length.
  size_t longest = 0;
  for (const std::string& stop : request_.stop_strings) longest = std::max(longest, stop.size());
  const size_t from = text_.size() >= longest ? text_.size() - longest : 0;
  text_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : request_.stop_strings) first = std::min(first, text_.find(stop, from));
  if (first == std::string::npos) return false;
  text_.resize(first);
  return true;
}

std::string Output::TakeShowable(bool all) {
  size_t held = 0;
  if (!all && !stopped_) {
    for (const std::string& stop : request_.stop_strings) held = std::max(held, OverlapAtEnd(text_, stop));
  }
  const size_t end = std::max(n_shown_, text_.size() - held);
  std::string shown = text_.substr(n_shown_, end - n_shown_);
  n_shown_ = end;
  return shown;
}

}  // namespace tandem
