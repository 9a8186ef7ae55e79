// The plain structs that cross layers: what is true about a sequence (SeqState), which rows a forward computes
// (RowPlan), and the three values of a round (Proposal, Scores, Verdicts).
//
// All of it lives in memory of the device that runs the round. Steps alone read and write it, in the order of their
// program; the host changes a slot only through the admit and cut steps and reads only what `publish` copied out.
#ifndef TANDEM_RUNTIME_CORE_SEQUENCE_H_
#define TANDEM_RUNTIME_CORE_SEQUENCE_H_

#include <cstdint>

#include "runtime/core/device.h"
#include "runtime/core/law.h"
#include "runtime/core/uniforms.h"

namespace tandem {

// The two models of a pair; an index wherever each has one of something.
enum Side : int32_t { kTarget = 0, kDraft = 1 };
inline constexpr int kNumSides = 2;

inline constexpr int kMaxStopIds = 16;
inline constexpr int kMaxGamma = 32;

enum class FinishReason : int32_t { kNone, kStop, kLength, kCancelled, kFault };

// What a drafter, a model or a rule did wrong. It ends the sequence; the host turns it into an error that names the
// culprit. Nothing of the faulty round is committed.
enum class Fault : int32_t {
  kNone,
  kProposal,   // a proposed token outside the vocabulary, or more tokens than wanted
  kDraftLaw,   // the draft's law is not finite
  kTargetLaw,  // the target's law is not finite
  kVerdict,    // n_keep outside 0 .. n_proposed, or an added token outside the vocabulary
};

enum class GammaSchedule : int32_t {
  kFixed,
  kHeuristic,  // +2 after a fully kept block, else -1, at least 1 (Hugging Face; reference: transformers)
};

// Who writes a sequence's next tokens.
enum class Writer : int32_t {
  kPair,    // the draft proposes, the target judges; without a draft the target alone
  kDraft,   // token cascade (runtime/cascade): the draft's token stands unless the draft defers
  kTarget,  // token cascade: the draft has deferred; until the target has given one token
};

// The truth about the sequence in one slot of the batch.
struct SeqState {
  bool live = false;  // holds an unfinished sequence; steps skip the slot otherwise
  uint64_t seed = 0;  // with `sequence`: the key of its random numbers
  uint64_t sequence = 0;
  uint64_t admission = 0;  // which of the engine's admissions this is
  int32_t length = 0;      // committed tokens, prompt included
  int32_t prompt_length = 0;
  int32_t length_limit = 0;          // the sequence ends when `length` reaches it
  int32_t rows[kNumSides] = {0, 0};  // valid rows of each cache: K/V of the first rows[s] committed tokens
  int32_t gamma = 0;                 // proposed tokens wanted in the next round
  int32_t gamma_max = 0;
  GammaSchedule schedule = GammaSchedule::kFixed;
  Writer writer = Writer::kPair;
  float confidence_min = 0;  // drafting stops after a token whose q is under this; 0: never
  Sampling sampling;
  int32_t n_stop_ids = 0;
  int32_t stop_ids[kMaxStopIds] = {};
  int32_t round = 0;  // rounds run so far
  FinishReason finish = FinishReason::kNone;
};

// Between scoring and settle: whether the target adds a token in this round. In a token cascade it does so only where it
// was asked, once its cache has the rows of every committed token.
TANDEM_HD inline bool TargetAdds(const SeqState& state) {
  return state.writer == Writer::kPair ||
         (state.writer == Writer::kTarget && state.rows[kTarget] == state.length);
}

// The committed tokens of every slot. int32_t tokens[n_slots][stride].
struct TokenTable {
  int32_t* data = nullptr;
  int32_t stride = 0;

  TANDEM_HD int32_t* of(int slot) const { return data + static_cast<int64_t>(slot) * stride; }
};

// The rows that one forward computes, packed and ragged: written by `plan` from SeqState, read by every later step of
// the forward. Arrays of `capacity`; n_rows and n_logits are single values.
struct RowPlan {
  int32_t capacity = 0;
  int32_t* n_rows = nullptr;
  int32_t* slot = nullptr;        // [n_rows] the sequence's slot
  int32_t* position = nullptr;    // [n_rows] absolute position; a sequence's rows stand in rising order
  int32_t* token = nullptr;       // [n_rows]
  int32_t* n_logits = nullptr;    // rows whose logits are wanted
  int32_t* logits_row = nullptr;  // [n_logits] which row
  int32_t* logits_out = nullptr;  // [n_logits] the row of the logits buffer it goes to
};

// What every step of a round is about: the slots, and what they share. Pointers as in the structs above.
struct Batch {
  int32_t n_slots = 0;
  int32_t gamma = 0;           // the largest gamma that a slot may have in this round
  SeqState* states = nullptr;  // [n_slots]
  TokenTable tokens;
  Uniforms uniforms;
  int32_t n_workers = 1;  // the most workers that may run a step
  Device device;          // where the round runs, and its buffers are
};

// What a drafter proposes for every slot, beside the sequence and never in it.
// A block's rows of logits are packed by slot: row (slot, i) = slot * block + i.
struct Proposal {
  int32_t block = 0;              // gamma_max + 1: the stride of every array below
  int32_t* wanted = nullptr;      // [n_slots] where drafting stops: lowered to n_proposed when it stops early
  int32_t* n_proposed = nullptr;  // [n_slots]
  int32_t* tokens = nullptr;      // [n_slots, block]
  int32_t* parent = nullptr;      // [n_slots, block] a chain: -1, 0, 1, ...
  Fault* fault = nullptr;         // [n_slots] what the drafter did wrong, if anything
  bool has_law = false;           // false: every proposed token is a point mass (n-gram lookup)
  bool has_bonus_law = false;     // q of the position after the last proposed token is known too (bonus: pi)
  LawBuffer law = {};             // rows [n_slots * block]; has_law only
};

// The target's law at every position of the block and at the one after it.
struct Scores {
  int32_t block = 0;
  LawBuffer law = {};  // rows [n_slots * block]; row i judges proposed token i, row n_proposed is the bonus
};

// Who a committed token comes from.
enum class Origin : int32_t {
  kTarget,    // the target's in a round without a proposal
  kDraft,     // proposed and kept
  kReplaced,  // the target side's, in place of a proposed token
  kBonus,     // the target side's, after a fully kept block
};

// What the rule decided for every slot.
struct Verdicts {
  int32_t block = 0;
  int32_t* n_keep = nullptr;  // [n_slots] proposed tokens that stay, 0 .. n_proposed
  int32_t* next = nullptr;  // [n_slots] the token that the target side adds after them; -1 where it adds none
  int32_t* n_judged = nullptr;  // [n_slots] positions that the rule looked at
  uint8_t* deferred = nullptr;  // [n_slots, block] per judged position: the rule handed it to the target
  Fault* fault = nullptr;       // [n_slots]
};

// What one round did to one slot: all that the host learns.
struct SlotRecord {
  uint64_t admission = 0;  // of the sequence that had the slot
  bool ran = false;        // the slot was live
  int32_t base = 0;        // committed length before the round
  int32_t n_proposed = 0;
  int32_t n_keep = 0;  // as judged
  int32_t n_judged = 0;
  int32_t n_emit = 0;     // committed by this round, after cutting at a stop id or the length limit
  uint32_t deferred = 0;  // bit i: judged position i was deferred
  bool target_added =
      true;  // false: the draft's token stands alone, or the target's cache is still catching up
  FinishReason finish = FinishReason::kNone;
  Fault fault = Fault::kNone;
  int32_t tokens[kMaxGamma + 1] = {};
  Origin origin[kMaxGamma + 1] = {};
  float log_prob[kMaxGamma + 1] = {};  // log p1 of each token; with EngineOptions::log_probs
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_SEQUENCE_H_
