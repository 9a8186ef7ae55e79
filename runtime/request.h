// A request, and what came of it. Plain values; no thread owns them.
#ifndef TANDEM_RUNTIME_REQUEST_H_
#define TANDEM_RUNTIME_REQUEST_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/sequence.h"

namespace tandem {

struct Request {
  std::string id;
  std::string category;         // free; reports group by it
  std::vector<int32_t> prompt;  // token ids, at least one
  Sampling sampling;
  uint64_t seed = 0;
  int32_t max_new_tokens = 0;     // at least 1
  std::vector<int32_t> stop_ids;  // end of text and the user's own, at most kMaxStopIds; empty: ignore_eos
  std::vector<std::string> stop_strings;  // need a tokenizer
};

// Counts over rounds, with the names that users of vLLM know. A round is one target call of one sequence. Where a round
// ends the output, what was proposed beyond the end counts nowhere.
struct SpeculationCounts {
  int64_t num_drafts = 0;                     // rounds with at least one proposed token
  int64_t num_draft_tokens = 0;               // proposed
  int64_t num_accepted_tokens = 0;            // proposed tokens that were kept
  int64_t target_calls = 0;                   // rounds in which the target added a token
  int64_t draft_calls = 0;                    // tokens that the drafter proposed, wrote or deferred
  int64_t num_emitted_tokens = 0;             // output tokens
  int64_t num_tokens_by_draft = 0;            // of them, the draft's: kept, not deferred, of a kept answer
  int64_t num_judged = 0;                     // positions that the rule looked at
  int64_t num_deferred = 0;                   // of them, handed to the target
  int64_t num_scored_answers = 0;             // query cascade: answers of the draft
  int64_t num_deferred_answers = 0;           // of them, redone by the target
  int64_t num_preemptions = 0;                // times that it lost its pages and was computed again
  std::vector<int64_t> drafted_per_pos;       // rounds that proposed a token at position i
  std::vector<int64_t> reached_per_pos;       // of them, those that kept every token before it
  std::vector<int64_t> accepted_per_pos;      // of these, those that kept it too
  std::vector<int64_t> acceptance_histogram;  // [k] rounds (with a proposal) that kept k tokens

  bool operator==(const SpeculationCounts&) const = default;
  void Add(const SpeculationCounts& other);
  // `n_output`: tokens of the record that are in the output (the host may have cut it at a stop string).
  void AddRound(const SlotRecord& record, int n_output);
};

// One stage of a query cascade at work on a request.
struct StageResult {
  std::string model;  // "draft", "target"
  int64_t admitted_ns = 0;
  int64_t finished_ns = 0;
  int64_t num_tokens = 0;  // that it wrote, in the output or not
};

struct RequestResult {
  Request request;
  size_t index = 0;  // in the order of submission
  std::vector<int32_t> token_ids;
  std::vector<Origin> origin;  // per token
  std::string text;            // without a tokenizer: empty
  FinishReason finish = FinishReason::kNone;
  SpeculationCounts counts;
  std::vector<float>
      log_probs;                // per token, with EngineOptions::log_probs; NaN: the target has not scored it
  std::optional<double> score;  // query cascade: of the draft's answer
  std::vector<StageResult> stages;  // query cascade: the stages that it went through
  // Nanoseconds of a steady clock.
  int64_t submitted_ns = 0;
  int64_t admitted_ns = 0;
  int64_t first_token_ns = 0;
  int64_t finished_ns = 0;
  std::vector<int64_t> token_ns;  // when each token was there; tokens of one round share one time
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_REQUEST_H_
