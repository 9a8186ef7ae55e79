#include "runtime/sweep/text_scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "draft/drafter.h"
#include "kernels/law/law.h"
#include "runtime/settle.h"

namespace tandem {
namespace {

Batch OneSlot(Arena& arena, int32_t max_context, int32_t max_tokens, int32_t n_threads) {
  return {.n_slots = 1,
          .gamma = max_tokens,
          .states = arena.New<SeqState>(1),
          .tokens = {.data = arena.New<int32_t>(max_context), .stride = max_context},
          .uniforms = {},
          .n_workers = n_threads};
}

// Zeroes the least likely tokens that together have less than `mass`, and scales the rest to 1.
void DropTail(double mass, std::vector<double>* law) {
  std::vector<int32_t> order(law->size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return (*law)[a] < (*law)[b]; });
  double dropped = 0;
  for (const int32_t v : order) {
    if (dropped + (*law)[v] >= mass) break;
    dropped += (*law)[v];
    (*law)[v] = 0;
  }
  for (double& p : *law) p /= 1 - dropped;
}

double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double distance = 0;
  for (size_t v = 0; v < a.size(); ++v) distance += std::max(0.0, a[v] - b[v]);
  return distance;
}

std::vector<double> AsDoubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

}  // namespace

TextScorer::TextScorer(const ModelSpec& model, int32_t max_context, int32_t max_tokens, int32_t n_threads)
    : batch_(OneSlot(arena_, max_context, max_tokens, n_threads)),
      prompt_(max_context),
      proposal_(NewProposal(arena_, batch_)),
      runner_(model.model, {.side = kTarget,
                            .dtype = model.dtype,
                            .cache = {.n_slots = 1, .n_tokens = max_context, .max_context = max_context},
                            .max_rows = std::max(kChunk, max_tokens + 1),
                            .n_workers = n_threads}),
      executor_(NewCpuExecutor({.n_threads = n_threads})) {
  TANDEM_CHECK(!model.model->device().is_cuda());
  const int32_t n_vocab = model.model->shape().n_vocab;
  laws_ = NewLaws(arena_, proposal_.block, n_vocab, n_vocab);
  TANDEM_CHECK(runner_.cache().Reserve(0, max_context));
  AdmitArgs admit{.slot = 0,
                  .staged = &staged_,
                  .prompt = prompt_.data(),
                  .states = batch_.states,
                  .tokens = batch_.tokens};
  admit.pages[kTarget] = runner_.cache().page_row(0);
  admit_.At(Lane::kTarget, Phase::kSettle);
  admit_.Add(admit);
  prefill_.At(Lane::kTarget, Phase::kPrefill);
  runner_.Extend(prefill_, batch_, {.kind = PlanKind::kExtend, .chunk = kChunk}, {});
  score_.At(Lane::kTarget, Phase::kVerify);
  // The output as one long block: a forward gives the law at each of its positions.
  runner_.Extend(score_, batch_, {.kind = PlanKind::kVerify, .proposal = proposal_}, laws_);
  for (const Program* program : {&admit_, &prefill_, &score_})
    TANDEM_CHECK(executor_->Prepare(*program).ok());
}

LawBuffer TextScorer::Score(std::span<const int32_t> prompt, std::span<const int32_t> tokens) {
  TANDEM_CHECK(!prompt.empty() && !tokens.empty());
  TANDEM_CHECK(prompt.size() + tokens.size() <= static_cast<size_t>(batch_.tokens.stride));
  TANDEM_CHECK(tokens.size() < static_cast<size_t>(proposal_.block));
  const auto n_prompt = static_cast<int32_t>(prompt.size());
  staged_ = {.live = true, .length = n_prompt, .prompt_length = n_prompt};
  std::copy(prompt.begin(), prompt.end(), prompt_.begin());
  const auto n_proposed = static_cast<int32_t>(tokens.size()) - 1;  // nothing is asked after the last
  std::copy(tokens.begin(), tokens.begin() + n_proposed, proposal_.tokens);
  proposal_.n_proposed[0] = n_proposed;
  executor_->Enqueue(admit_);
  for (size_t done = 0; done + 1 < prompt.size(); done += kChunk) executor_->Enqueue(prefill_);
  executor_->Enqueue(score_);
  TANDEM_CHECK(executor_->WaitFor(0).ok());  // a CPU does not fail
  return laws_;
}

Law LawOf(const float* logits, int32_t n_vocab, const Sampling& sampling) {
  SeqState state{.sampling = sampling};
  LawRecord record;
  int32_t zero = 0, one = 1;
  std::vector<float> scratch(n_vocab);
  LawArgs args{};
  args.states = &state;
  args.rows.slot = &zero;
  args.rows.n_logits = &one;
  args.rows.logits_row = &zero;
  args.rows.logits_out = &zero;
  std::vector<LawBlock> blocks(NumLawBlocks(n_vocab));
  // The steps read the logits and write the rest.
  args.laws = {.logits = const_cast<float*>(logits),
               .records = &record,
               .blocks = blocks.data(),
               .stride = n_vocab,
               .n_vocab = n_vocab};
  args.scratch = scratch.data();
  LawBlocksCpu({.states = args.states, .rows = args.rows, .laws = args.laws}, {0, 1});
  LawCpu(args, {0, 1});
  return {logits, n_vocab, record};  // its probabilities need no blocks
}

std::vector<double> Probabilities(const Law& law, int32_t n_vocab) {
  std::vector<float> out(n_vocab);
  LawProbs(law, 0, n_vocab, out.data());
  return AsDoubles(out);
}

std::vector<double> Probabilities1(const Law& law, int32_t n_vocab) {
  std::vector<float> out(n_vocab);
  LawProbs1(law, 0, n_vocab, out.data());
  return AsDoubles(out);
}

double LogProbability(const float* logits, int32_t n_vocab, int32_t token) {
  const double max = *std::max_element(logits, logits + n_vocab);
  double sum = 0;
  for (int32_t v = 0; v < n_vocab; ++v) sum += std::exp(logits[v] - max);
  return logits[token] - max - std::log(sum);
}

double DistanceToTarget(const Policy& policy, const LawBuffer& draft, const LawBuffer& target, int64_t row,
                        const Sampling& sampling, const Sampling& reference) {
  const int32_t n_vocab = target.n_vocab;
  const float* draft_logits = draft.logits + row * draft.stride;
  const float* target_logits = target.logits + row * target.stride;
  const Law q = LawOf(draft_logits, draft.n_vocab, sampling);
  const Law p = LawOf(target_logits, n_vocab, sampling);
  PositionLaws laws;
  laws.q = Probabilities(q, n_vocab);
  laws.p = Probabilities(p, n_vocab);
  laws.q1 = Probabilities1(q, n_vocab);
  laws.p1 = Probabilities1(p, n_vocab);
  laws.greedy = sampling.greedy();
  if (policy.kind() == Kind::kTest) DropTail(kIgnoredMass, &laws.q);
  return Distance(policy.ImpliedLaw(laws), Probabilities(LawOf(target_logits, n_vocab, reference), n_vocab));
}

double DraftDistanceToTarget(const LawBuffer& draft, const LawBuffer& target, int64_t row,
                             const Sampling& sampling) {
  const int32_t n_vocab = target.n_vocab;
  const Law q = LawOf(draft.logits + row * draft.stride, draft.n_vocab, sampling);
  const Law p = LawOf(target.logits + row * target.stride, n_vocab, sampling);
  return Distance(Probabilities(q, n_vocab), Probabilities(p, n_vocab));
}

}  // namespace tandem
