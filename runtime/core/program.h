// Program: a flat list of steps, recorded once and executed many times. A step names an operation and holds its
// arguments by value: pointers into buffers that outlive the program, and sizes. Nothing in it names a device.
//
// Steps of one lane run in order. Lanes are ordered against each other by events only, with CUDA's meaning: Wait waits
// for the latest Record of that event that was enqueued before it, in this program or an earlier one.
//
// A program is recorded by one thread and is const afterwards.
#ifndef TANDEM_RUNTIME_CORE_PROGRAM_H_
#define TANDEM_RUNTIME_CORE_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/core/check.h"

namespace tandem {

// Every operation that an executor can be asked for. The arguments' struct states the contract and carries kOp.
enum class Op : uint16_t {
  kRecord,  // an event
  kWait,
  kAdmit,           // runtime/settle.h: a staged sequence into its slot
  kPlan,            // kernels/plan
  kEmbed,           // kernels/embed
  kRopeAngles,      // kernels/rope
  kLinear,          // kernels/linear
  kRopeAppend,      // kernels/rope
  kAttention,       // kernels/attention
  kSiluGate,        // kernels/silu_gate
  kHashChain,       // kernels/hash_chain
  kAdvance,         // kernels/plan: the cache holds the planned rows
  kLawBlocks,       // kernels/law: row statistics, block by block
  kLaw,             // kernels/law: and of the whole row
  kSample,          // kernels/sample: a draft token from its law
  kLookup,          // draft/ngram.h
  kHostDraft,       // draft/drafter.h: a drafter that runs on the host
  kTotalVariation,  // kernels/total_variation
  kDefer,           // policies/defer.h: the test of a token cascade
  kJudge,           // policies/judge.h
  kSettle,          // runtime/settle.h
  kPublish,         // runtime/settle.h
  kCut,             // runtime/settle.h
  kGrow,            // runtime/settle.h: more pages for running sequences
  kPreempt,         // runtime/settle.h: an unfinished sequence out of its slot
  kCount,
};

enum class Lane : uint8_t { kTarget = 0, kDraft = 1 };
inline constexpr int kNumLanes = 2;

// What a step's time is booked under in reports: the models' forwards (prefill, draft, verify), laws and sampling and
// the rule's judgement (rule), and the end of a round (settle).
enum class Phase : uint8_t { kPrefill, kDraft, kVerify, kRule, kSettle, kCount };

// An event's number; made by whoever lays out an engine's programs.
using EventId = int32_t;

struct Step {
  Op op;
  Lane lane;
  Phase phase;
  uint32_t args;  // byte offset in the program's arguments
};

class Program {
 public:
  // `name`: for errors and profilers.
  explicit Program(std::string name = "program") : name_(std::move(name)) {}
  const std::string& name() const { return name_; }

  // Where the steps added next belong.
  void At(Lane lane, Phase phase) {
    lane_ = lane;
    phase_ = phase;
  }
  Lane lane() const { return lane_; }
  Phase phase() const { return phase_; }

  template <typename Args>
  void Add(const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args>);
    steps_.push_back({Args::kOp, lane_, phase_, Store(&args, sizeof(Args))});
  }
  // The steps of another program, behind these. Their lanes, phases and events stay as they are.
  void Append(const Program& other) {
    args_.resize((args_.size() + kAlignment - 1) / kAlignment * kAlignment);
    const auto base = static_cast<uint32_t>(args_.size());
    args_.insert(args_.end(), other.args_.begin(), other.args_.end());
    for (Step step : other.steps_) {
      step.args += base;
      steps_.push_back(step);
    }
  }
  void Record(EventId event) { steps_.push_back({Op::kRecord, lane_, phase_, Store(&event, sizeof(event))}); }
  void Wait(EventId event) { steps_.push_back({Op::kWait, lane_, phase_, Store(&event, sizeof(event))}); }

  const std::vector<Step>& steps() const { return steps_; }
  const void* args(const Step& step) const { return args_.data() + step.args; }
  template <typename Args>
  const Args& args_as(const Step& step) const {
    TANDEM_CHECK(step.op == Args::kOp);
    return *reinterpret_cast<const Args*>(args(step));
  }

 private:
  uint32_t Store(const void* args, size_t size) {
    const size_t offset = (args_.size() + kAlignment - 1) / kAlignment * kAlignment;
    args_.resize(offset + size);
    std::memcpy(args_.data() + offset, args, size);
    return static_cast<uint32_t>(offset);
  }

  static constexpr size_t kAlignment = 16;
  std::string name_;
  Lane lane_ = Lane::kTarget;
  Phase phase_ = Phase::kVerify;
  std::vector<Step> steps_;
  std::vector<std::byte> args_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_PROGRAM_H_
