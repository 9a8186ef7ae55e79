// Output: what one sequence has produced, on the host: tokens, who each comes from, and the text so far. It finds stop
// strings, holds text back while it may be the beginning of one, and never shows half a character.
#ifndef TANDEM_RUNTIME_OUTPUT_H_
#define TANDEM_RUNTIME_OUTPUT_H_

#include <optional>
#include <string>

#include "runtime/model/tokenizer.h"
#include "runtime/request.h"

namespace tandem {

class Output {
 public:
  // `tokenizer` null: no text.
  Output(const Request& request, const Tokenizer* tokenizer);

  // Takes the tokens of one round, up to the one that completes a stop string. Returns how many it took; fewer than
  // record.n_emit means that the sequence ends here. `*text` is what can be shown now.
  int Add(const SlotRecord& record, std::string* text);
  // The text still held back, once no more tokens come.
  std::string Finish();

  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::vector<Origin>& origin() const { return origin_; }
  const std::string& text() const { return text_; }
  bool stopped() const { return stopped_; }  // at a stop string

 private:
  bool PushText(std::string piece);
  std::string TakeShowable(bool all);

  const Request& request_;
  std::optional<TokenStream> stream_;
  std::vector<int32_t> tokens_;
  std::vector<Origin> origin_;
  std::string text_;    // without a stop string and what follows it
  size_t n_shown_ = 0;  // bytes of text_
  bool stopped_ = false;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_OUTPUT_H_
