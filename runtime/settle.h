// The steps that change what is true about a sequence. Nothing else writes committed tokens or lengths.
//
//   admit    a staged sequence takes a slot: its state, its prompt and its rows of the page tables
//   settle   the end of a round: with base = committed length before it, every cache's rows = min(rows, base + kept),
//            then the kept tokens and the added one are appended, cut at a stop id or the length limit
//   publish  copies the round's records to the ring that the host reads
//   cut      the host found a stop string: the sequence ends at a length it names
//   grow     running sequences get more pages: entries of their rows of the page tables
//   preempt  a sequence leaves its slot unfinished: its state goes to the host, which stages it again some day
//
// In a token cascade (Writer) the target adds a token only where it was asked and its cache has caught up; the sequence is
// the draft's again then.
//
// Postcondition of settle, asserted in debug builds: for every live sequence, rows[s] < length for each cache that the
// next round extends, so its rows are K/V of a prefix of the committed tokens.
//
// A proposal or verdict that breaks its contract ends its sequence with a Fault and commits nothing.
#ifndef TANDEM_RUNTIME_SETTLE_H_
#define TANDEM_RUNTIME_SETTLE_H_

#include <cstdint>

#include "runtime/core/kv.h"
#include "runtime/core/program.h"
#include "runtime/core/sequence.h"

namespace tandem {

struct AdmitArgs {
  static constexpr Op kOp = Op::kAdmit;
  int32_t slot;
  // Written by the host before the program is enqueued, and not again until it has run.
  const SeqState* staged;
  const int32_t* prompt;  // [staged->length]
  SeqState* states;
  TokenTable tokens;
  PageTableRow pages[kNumSides];
};

struct SettleArgs {
  static constexpr Op kOp = Op::kSettle;
  int32_t n_slots;
  int32_t n_vocab;  // of the target
  SeqState* states;
  TokenTable tokens;
  Proposal proposal;  // n_proposed null: a round without a drafter
  Verdicts verdicts;
  LawBuffer scores;     // rows [n_slots * block]: whose log-probabilities the records hold; logits null: none
  SlotRecord* records;  // out [n_slots]
};

// One finished round, as the host sees it.
struct RoundRecord {
  int64_t time_ns = 0;          // steady clock, when it was published; 0 on a device that has no such clock
  SlotRecord* slots = nullptr;  // [n_slots]
};

struct PublishArgs {
  static constexpr Op kOp = Op::kPublish;
  int32_t n_slots;
  const SlotRecord* records;  // [n_slots]
  RoundRecord* ring;          // [ring_size]
  int32_t ring_size;          // at least the rounds queued and unread
  int64_t* n_published;
};

struct CutArgs {
  static constexpr Op kOp = Op::kCut;
  int32_t slot;
  const int32_t* length;  // written by the host before the program is enqueued
  SeqState* states;
};

// Entries that no queued round reads: they are of pages that those rounds do not reach.
struct PageGrowth {
  int32_t n_entries = 0;
  PageTableEntry* entries = nullptr;  // where they are written is the page tables' own memory
};

struct GrowArgs {
  static constexpr Op kOp = Op::kGrow;
  // [ring_size] the host writes place after place, each before it enqueues the program; more of them than are queued.
  const PageGrowth* ring;
  int32_t ring_size;
  int64_t* n_grown;
};

// What a queued round would do to the sequence is lost: none may be.
struct PreemptArgs {
  static constexpr Op kOp = Op::kPreempt;
  int32_t slot;
  SeqState* staged;  // out: the sequence's state
  SeqState* states;
};

void Admit(const AdmitArgs& args);
void Settle(const SettleArgs& args);
void Publish(const PublishArgs& args);
void Cut(const CutArgs& args);
void Grow(const GrowArgs& args);
void Preempt(const PreemptArgs& args);

void AdmitCuda(const AdmitArgs& args, CudaStream stream);
void SettleCuda(const SettleArgs& args, CudaStream stream);
void PublishCuda(const PublishArgs& args, CudaStream stream);
void CutCuda(const CutArgs& args, CudaStream stream);
void GrowCuda(const GrowArgs& args, CudaStream stream);
void PreemptCuda(const PreemptArgs& args, CudaStream stream);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SETTLE_H_
