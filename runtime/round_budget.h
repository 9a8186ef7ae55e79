// RoundBudget: where the time of rounds goes, against the time that reading their bytes takes; and what limits them.
//
// Plain values, no thread owns them.
#ifndef TANDEM_RUNTIME_ROUND_BUDGET_H_
#define TANDEM_RUNTIME_ROUND_BUDGET_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/program.h"
#include "runtime/core/sequence.h"
#include "runtime/program_timer.h"

namespace tandem {

// Bytes of weights and cache that the forwards of rounds must read, by what the rounds did.
struct RoundReads {
  int64_t n_rounds = 0;  // in which any sequence took part
  double draft_bytes = 0, verify_bytes = 0;

  void Add(const RoundReads& other);
};

// Works them out for executions of one recorded round.
class RoundReader {
 public:
  explicit RoundReader(const Program& round);

  // Of an execution, as its records tell it: a draft forward whose token nobody proposed reads nothing.
  RoundReads Of(std::span<const SlotRecord> slots) const;

 private:
  ProgramWork draft_, verify_;  // of all draft forwards, with a cache of 1 position
  int32_t n_drafts_ = 0;        // draft forwards
  int32_t n_tokens_ = 0;        // that they propose; one fewer where the law behind the block is computed too
};

// Milliseconds, of one round or of all.
struct RoundBudget {
  double draft_ms = 0, verify_ms = 0;  // the models' forwards
  double rule_ms = 0;                  // laws, drawing, judging, settle
  double launch_ms = 0;  // nothing ran on a CUDA device, though the next program had been enqueued
  double host_ms = 0;    // nothing ran, for the host
  double draft_floor_ms = 0,
         verify_floor_ms = 0;  // reading the forwards' bytes at the machine's rate; 0: not known

  double ms() const { return draft_ms + verify_ms + rule_ms + launch_ms + host_ms; }
  double floor_ms() const { return draft_floor_ms + verify_floor_ms; }

  // All of it: `bandwidth` is what of the forwards' time reading their bytes takes; `draft` and `verify` are what they take
  // beyond that. First comes what limits: bandwidth where it is at least half of all, else the largest other part. The
  // rest follows by size.
  struct Part {
    const char* name;
    double ms;
  };
  std::vector<Part> Parts() const;
  const char* limit() const { return Parts().front().name; }
};

// "bandwidth: 82.0 % of a round is reading weights and cache; beside that verify 9.5 %, draft 5.0 %, ..."
std::string LimitText(const RoundBudget& budget);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_ROUND_BUDGET_H_
