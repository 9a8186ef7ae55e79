// The tail of a round: everything after the target's logits are there (laws, rule, resampling, settle, publish), on a CUDA
// device or on the CPU, for a vocabulary and a rule.
//
//   build-cuda/bench_tail [DEVICE [VOCABULARY [GAMMA [RULE [TEMPERATURE [TOP_P]]]]]]
//
// Prints microseconds of each step and of the whole: the time of a program that holds it many times, over that number.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "kernels/law/law.h"
#include "kernels/sample/sample.h"
#include "kernels/total_variation/total_variation.h"
#include "policies/policy.h"
#include "runtime/core/buffer.h"
#include "runtime/executor.h"
#include "runtime/settle.h"

namespace tandem {
namespace {

constexpr int kRepeats = 20;   // of the steps in a program
constexpr int kPrograms = 50;  // of a measurement
constexpr int32_t kTokens = 1 << 20;

class Tail {
 public:
  Tail(Device device, int32_t n_vocab, int32_t gamma, const std::string& rule, const Sampling& sampling)
      : n_vocab_(n_vocab), block_(gamma + 1), arena_(device), shared_(device, Access::kShared) {
    auto policy = Policy::Create({.rule = rule}, true);
    auto executor = NewExecutor({.device = device});
    for (const absl::Status& status : {policy.status(), executor.status()}) {
      if (status.ok()) continue;
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      std::exit(2);
    }
    policy_ = *std::move(policy);
    executor_ = *std::move(executor);
    const SeqState state{.live = true,
                         .seed = 1,
                         .sequence = 2,
                         .length = 100,
                         .prompt_length = 10,
                         .length_limit = kTokens - 100,
                         .rows = {100, 100},
                         .gamma = gamma,
                         .gamma_max = gamma,
                         .sampling = sampling};
    batch_ = {.n_slots = 1,
              .gamma = gamma,
              .states = arena_.Copy(&state, 1),
              .tokens = {.data = arena_.New<int32_t>(kTokens), .stride = kTokens},
              .device = device};
    std::vector<float> p(static_cast<size_t>(block_) * n_vocab), q(p.size());
    std::mt19937 rng(1);
    std::normal_distribution<float> normal(0, 1);
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = 3 * normal(rng);
      q[i] = p[i] + normal(rng);
    }
    p_ = Laws(p);
    q_ = Laws(q);
    std::vector<int32_t> rows(block_), tokens(block_);
    for (int32_t i = 0; i < block_; ++i) {
      rows[i] = i;
      const auto row = q.begin() + static_cast<int64_t>(i) * n_vocab;
      tokens[i] = static_cast<int32_t>(std::max_element(row, row + n_vocab) - row);
    }
    rows_ = {.capacity = block_,
             .n_rows = arena_.Copy(&block_, 1),
             .slot = arena_.New<int32_t>(block_),
             .n_logits = arena_.Copy(&block_, 1),
             .logits_row = arena_.Copy(rows.data(), rows.size()),
             .logits_out = arena_.Copy(rows.data(), rows.size())};
    proposal_ = {.block = block_,
                 .wanted = arena_.Copy(&block_, 1),
                 .n_proposed = arena_.Copy(&gamma, 1),
                 .tokens = arena_.Copy(tokens.data(), tokens.size()),
                 .parent = arena_.New<int32_t>(block_),
                 .fault = arena_.New<Fault>(1),
                 .has_law = true,
                 .law = q_};
    // The draft's laws, once.
    Program laws;
    for (const LawBuffer& law : {q_, p_}) {
      laws.Add(LawBlocksArgs{batch_.states, rows_, law});
      laws.Add(LawArgs{batch_.states, rows_, law, scratch_});
    }
    Run(laws, 1);
    records_ = arena_.New<SlotRecord>(1);
    ring_ = shared_.New<RoundRecord>(1);
    ring_->slots = shared_.New<SlotRecord>(1);
    n_published_ = arena_.New<int64_t>(1);
  }

  void Law(Program& program) {
    program.Add(LawBlocksArgs{batch_.states, rows_, p_});
    program.Add(LawArgs{batch_.states, rows_, p_, scratch_});
  }
  void Judge(Program& program) {
    if (!recorded_) {
      verdicts_ = policy_->judge(judge_, batch_, proposal_, {.block = block_, .law = p_});
      recorded_ = true;
    }
    for (const Step& step : judge_.steps()) {
      if (step.op == Op::kTotalVariation) program.Add(judge_.args_as<TotalVariationArgs>(step));
      if (step.op == Op::kJudge) program.Add(judge_.args_as<JudgeArgs>(step));
    }
  }
  void Settle(Program& program) {
    program.Add(SettleArgs{.n_slots = 1,
                           .n_vocab = n_vocab_,
                           .states = batch_.states,
                           .tokens = batch_.tokens,
                           .proposal = proposal_,
                           .verdicts = verdicts_,
                           .records = records_});
  }
  void Publish(Program& program) { program.Add(PublishArgs{1, records_, ring_, 1, n_published_}); }
  void Sample(Program& program) {
    RowPlan one = rows_;
    one.capacity = 1;
    const int32_t n = 1;
    if (one_ == nullptr) one_ = arena_.Copy(&n, 1);
    one.n_logits = one_;
    program.Add(LawBlocksArgs{batch_.states, one, q_});
    program.Add(LawArgs{batch_.states, one, q_, scratch_});
    program.Add(SampleArgs{0, batch_.states, one, proposal_, {}});
  }

  // Microseconds of what `add` appends; the median of some runs.
  template <typename Add>
  double Time(Add add) {
    Program program;
    for (int i = 0; i < kRepeats; ++i) add(program);
    std::vector<double> times;
    Run(program, 3);
    for (int run = 0; run < 7; ++run) {
      const auto begin = std::chrono::steady_clock::now();
      Run(program, kPrograms);
      const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
      times.push_back(took.count() / kPrograms / kRepeats);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  const SlotRecord& last() const { return ring_->slots[0]; }

 private:
  LawBuffer Laws(const std::vector<float>& logits) {
    return {.logits = arena_.Copy(logits.data(), logits.size()),
            .records = arena_.New<LawRecord>(block_),
            .blocks = arena_.New<LawBlock>(static_cast<size_t>(block_) * NumLawBlocks(n_vocab_)),
            .stride = n_vocab_,
            .n_vocab = n_vocab_};
  }
  void Run(const Program& program, int n) {
    absl::Status status = executor_->Prepare(program);
    for (int i = 0; i < n; ++i) executor_->Enqueue(program);
    status.Update(executor_->WaitFor(0));
    if (status.ok()) return;
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    std::exit(1);
  }

  int32_t n_vocab_, block_;
  Arena arena_, shared_;
  std::unique_ptr<Policy> policy_;
  std::unique_ptr<Executor> executor_;
  Batch batch_;
  LawBuffer p_, q_;
  RowPlan rows_;
  Proposal proposal_;
  Verdicts verdicts_;
  Program judge_;
  bool recorded_ = false;
  int32_t* one_ = nullptr;
  float* scratch_ = nullptr;
  SlotRecord* records_ = nullptr;
  RoundRecord* ring_ = nullptr;
  int64_t* n_published_ = nullptr;
};

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  using tandem::Program;
  const auto arg = [&](int i, const char* otherwise) { return std::string(argc > i ? argv[i] : otherwise); };
  const auto device = tandem::ParseDevice(arg(1, "cuda:0"));
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", std::string(device.status().message()).c_str());
    return 2;
  }
  const int32_t n_vocab = std::atoi(arg(2, "128256").c_str());
  const int32_t gamma = std::atoi(arg(3, "4").c_str());
  const std::string rule = arg(4, "opt");
  const tandem::Sampling sampling = {.temperature = static_cast<float>(std::atof(arg(5, "1").c_str())),
                                     .top_p = static_cast<float>(std::atof(arg(6, "1").c_str()))};
  tandem::Tail tail(*device, n_vocab, gamma, rule, sampling);
  std::printf("tail of a round: V %d, gamma %d, rule %s, T %g, top_p %g, %s\n", n_vocab, gamma, rule.c_str(),
              sampling.temperature, sampling.top_p, Name(*device).c_str());
  std::printf("  law, %d rows                  %7.2f us\n", gamma + 1,
              tail.Time([&](Program& p) { tail.Law(p); }));
  std::printf("  judge                        %7.2f us\n", tail.Time([&](Program& p) { tail.Judge(p); }));
  std::printf("  settle                       %7.2f us\n", tail.Time([&](Program& p) { tail.Settle(p); }));
  std::printf("  publish                      %7.2f us\n", tail.Time([&](Program& p) { tail.Publish(p); }));
  std::printf("  all from law to publish      %7.2f us\n", tail.Time([&](Program& p) {
    tail.Law(p);
    tail.Judge(p);
    tail.Settle(p);
    tail.Publish(p);
  }));
  std::printf("  a draft's law and token      %7.2f us\n", tail.Time([&](Program& p) { tail.Sample(p); }));
  std::printf("  (the last round kept %d of %d)\n", tail.last().n_keep, tail.last().n_proposed);
  return 0;
}
