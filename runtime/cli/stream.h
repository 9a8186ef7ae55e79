// TextStream: shows the output of requests as it comes, one request after the other, however they run
// together: the first unfinished one is shown live, the others wait for their turn. With colours every piece
// of text has the colour of where its token came from.
#ifndef TANDEM_RUNTIME_CLI_STREAM_H_
#define TANDEM_RUNTIME_CLI_STREAM_H_

#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/console.h"
#include "runtime/cli/interrupt.h"
#include "runtime/engine.h"
#include "runtime/model/tokenizer.h"

namespace tandem {

// "kept draft tokens   target's own ...", each in its colour.
std::string ColourLegend();

// Text in pieces that know their token: tells which bytes of an output came from which kind of token, though
// the engine holds text back (half a character, what may become a stop string).
class TokenColours {
 public:
  explicit TokenColours(const Tokenizer& tokenizer) : stream_(tokenizer) {}
  void Push(int32_t token, Origin origin);
  // The next bytes of the output, coloured.
  std::string Take(std::string_view text);

 private:
  struct Piece {
    size_t n_bytes;
    Origin origin;
  };
  TokenStream stream_;
  std::deque<Piece> pieces_;
  Origin last_ = Origin::kTarget;
};

enum class Show { kNothing, kPlain, kColours };

class TextStream : public EngineListener {
 public:
  // `requests`, in the order to show them, outlive the stream, and so do `tokenizer` (null: token ids are
  // shown) and `interrupt`. With colours each prompt's end is shown before its output.
  TextStream(std::span<const Request> requests, const Tokenizer* tokenizer, const InterruptScope& interrupt,
             Show show);

  void OnTokens(const Request& request, std::span<const int32_t> tokens, std::span<const Origin> origin,
                std::string_view text) override;
  void OnFinish(const RequestResult& result) override;
  // At Ctrl-C, and when nobody reads what is written.
  bool Cancelled() override { return interrupt_.Raised() || !status_.ok(); }

  // Shows what still waits, after the run.
  void Finish();
  // Of writing to stdout.
  const absl::Status& status() const { return status_; }

 private:
  struct Output {
    std::string waiting;  // not shown yet, with its colours
    size_t n_bytes = 0;   // of the text, shown or waiting
    bool started = false;
    bool finished = false;
    bool skipped = false;  // never ran: the run ended before its turn
  };

  std::string Coloured(size_t i, std::span<const int32_t> tokens, std::span<const Origin> origin,
                       std::string_view text);
  std::string Header(size_t i) const;
  void Flush();

  std::span<const Request> requests_;
  const Tokenizer* tokenizer_;
  const InterruptScope& interrupt_;
  const Show show_;
  std::map<std::string, size_t> index_;  // of a request by its id
  std::vector<Output> outputs_;
  std::vector<TokenColours> colours_;
  size_t shown_ = 0;  // the request that is shown live
  absl::Status status_;
  ProgressBar progress_;  // where the output itself does not show it
  const bool is_terminal_;
  int64_t n_tokens_ = 0;
  int64_t n_wanted_ = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CLI_STREAM_H_
