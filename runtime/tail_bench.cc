#include "runtime/tail_bench.h"

#include <algorithm>
#include <random>
#include <utility>

#include "kernels/law/law.h"
#include "kernels/sample/sample.h"
#include "runtime/program_timer.h"

namespace tandem {
namespace {

constexpr int32_t kRepeats = 20;      // of the steps in a program
constexpr int32_t kTokens = 1 << 20;  // every round that is timed commits some
constexpr int32_t kLength = 100;      // committed before the first

}  // namespace

absl::StatusOr<std::unique_ptr<TailBench>> TailBench::Create(const TailOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Policy> policy, Policy::Create({.rule = options.rule}, true));
  TANDEM_RETURN_IF_ERROR(cuda::Check(options.executor.device));
  std::unique_ptr<TailBench> tail(new TailBench(options, std::move(policy)));
  Program laws;  // the draft's, once; the target's, for whoever times the judge alone
  for (const LawBuffer& law : {tail->q_, tail->p_}) {
    laws.Add(LawBlocksArgs{tail->batch_.states, tail->rows_, law});
    laws.Add(LawArgs{tail->batch_.states, tail->rows_, law, tail->scratch_});
  }
  TANDEM_RETURN_IF_ERROR(TimeProgram(laws, options.executor, 1).status());
  return tail;
}

TailBench::TailBench(const TailOptions& options, std::unique_ptr<Policy> policy)
    : options_(options),
      block_(options.gamma + 1),
      arena_(options.executor.device),
      shared_(options.executor.device, Access::kShared),
      policy_(std::move(policy)) {
  const int32_t n_vocab = options.n_vocab, gamma = options.gamma;
  const SeqState state{.live = true,
                       .seed = 1,
                       .sequence = 2,
                       .length = kLength,
                       .prompt_length = 10,
                       .length_limit = kTokens,
                       .rows = {kLength, kLength},
                       .gamma = gamma,
                       .gamma_max = gamma,
                       .sampling = options.sampling};
  batch_ = {.n_slots = 1,
            .gamma = gamma,
            .states = arena_.Copy(&state, 1),
            .tokens = {.data = arena_.New<int32_t>(kTokens), .stride = kTokens},
            .n_workers = options.executor.n_threads,
            .device = options.executor.device};
  std::vector<float> p(static_cast<size_t>(block_) * n_vocab), q(p.size());
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 1);
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = 3 * normal(rng);
    q[i] = p[i] + normal(rng);
  }
  p_ = Laws(p);
  q_ = Laws(q);
  scratch_ = arena_.New<float>(static_cast<size_t>(options.executor.n_threads) * n_vocab);
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
  const int32_t one = 1;
  one_row_ = rows_;
  one_row_.capacity = 1;
  one_row_.n_logits = arena_.Copy(&one, 1);
  proposal_ = {.block = block_,
               .wanted = arena_.Copy(&block_, 1),
               .n_proposed = arena_.Copy(&gamma, 1),
               .tokens = arena_.Copy(tokens.data(), tokens.size()),
               .parent = arena_.New<int32_t>(block_),
               .fault = arena_.New<Fault>(1),
               .has_law = true,
               .law = q_};
  verdicts_ = policy_->judge(judge_, batch_, proposal_, {.block = block_, .law = p_});
  records_ = arena_.New<SlotRecord>(1);
  ring_ = shared_.New<RoundRecord>(1);
  ring_->slots = shared_.New<SlotRecord>(1);
  n_published_ = arena_.New<int64_t>(1);
}

LawBuffer TailBench::Laws(const std::vector<float>& logits) {
  return {.logits = arena_.Copy(logits.data(), logits.size()),
          .records = arena_.New<LawRecord>(block_),
          .blocks = arena_.New<LawBlock>(static_cast<size_t>(block_) * NumLawBlocks(options_.n_vocab)),
          .stride = options_.n_vocab,
          .n_vocab = options_.n_vocab};
}

void TailBench::Law(Program& program) {
  program.Add(LawBlocksArgs{batch_.states, rows_, p_});
  program.Add(LawArgs{batch_.states, rows_, p_, scratch_});
}

void TailBench::Judge(Program& program) { program.Append(judge_); }

void TailBench::Settle(Program& program) {
  program.Add(SettleArgs{.n_slots = 1,
                         .n_vocab = options_.n_vocab,
                         .states = batch_.states,
                         .tokens = batch_.tokens,
                         .proposal = proposal_,
                         .verdicts = verdicts_,
                         .records = records_});
}

void TailBench::Publish(Program& program) { program.Add(PublishArgs{1, records_, ring_, 1, n_published_}); }

void TailBench::Sample(Program& program) {
  program.Add(LawBlocksArgs{batch_.states, one_row_, q_});
  program.Add(LawArgs{batch_.states, one_row_, q_, scratch_});
  program.Add(SampleArgs{0, batch_.states, one_row_, proposal_, {}});
}

absl::StatusOr<double> TailBench::Us(const std::function<void(Program&)>& add) {
  Program program;
  for (int32_t i = 0; i < kRepeats; ++i) add(program);
  TANDEM_ASSIGN_OR_RETURN(const double ms, TimeProgram(program, options_.executor, options_.n_repetitions));
  return ms * 1e3 / kRepeats;
}

}  // namespace tandem
