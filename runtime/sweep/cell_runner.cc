#include "runtime/sweep/cell_runner.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>
#include <utility>

#include "runtime/cascade/cascade_config.h"
#include "runtime/report_json.h"
#include "runtime/rule_config.h"
#include "runtime/sweep/answer_check.h"

namespace tandem {
namespace {

double SumOf(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

double GapMs(const Measured& measured) {
  double ms = 0;
  for (const TokenGap& gap : measured.gaps) ms += gap.ms_per_token * static_cast<double>(gap.n_tokens);
  return ms;
}

// What an engine is made of, as text: a cell's configuration but for what belongs to a request.
std::string EngineKey(const Cell& cell) {
  OrderedJson json = ConfigJson(cell.config);
  json.erase("sampling");
  return absl::StrCat(static_cast<int>(cell.kind), json.dump());
}

Measured MeasureAll(const std::vector<RequestResult>& results, const PhaseTimes& times) {
  std::vector<const RequestResult*> pointers;
  for (const RequestResult& result : results) pointers.push_back(&result);
  return Measure(pointers, times);
}

Sampling SamplingOf(const SamplingConfig& sampling) {
  return {static_cast<float>(sampling.temperature), sampling.top_k, static_cast<float>(sampling.top_p),
          static_cast<float>(sampling.min_p)};
}

// What a cell's output is, in a word: of the target's law ("exact"), of that law cut off ("truncated"), or another.
absl::StatusOr<std::string> GuaranteeOf(const Cell& cell) {
  if (cell.kind == CellKind::kTargetAlone) return "exact";
  if (cell.kind == CellKind::kDraftAlone) return "lossy";
  if (cell.series == kTruncated) return "truncated";
  if (cell.config.cascade.mode != "none") return "lossy";
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Policy> policy, MakePolicy(cell.config));
  return policy->guarantee(cell.temperature == 0) == Guarantee::kExact ? "exact" : "lossy";
}

// Calls work(i) for i in [0, n) on several threads.
void ForEach(size_t n, int32_t n_threads, const std::function<void(size_t)>& work) {
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < n_threads; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < n; i += n_threads) work(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

double LatencyPerToken(const Measured& measured) {
  return (SumOf(measured.first_token_ms) + GapMs(measured)) /
         static_cast<double>(measured.counts.num_emitted_tokens);
}

double DecodeLatencyPerToken(const Measured& measured) {
  return GapMs(measured) / static_cast<double>(measured.num_decode_tokens);
}

double RejectionRate(const SpeculationCounts& counts) {
  const auto sum = [](const std::vector<int64_t>& v) {
    return static_cast<double>(std::accumulate(v.begin(), v.end(), int64_t{0}));
  };
  return 1 - sum(counts.accepted_per_pos) / sum(counts.reached_per_pos);
}

CellRunner::CellRunner(const Config& config, const Pair& pair, SweepPrompts prompts)
    : config_(config),
      pair_(pair),
      prompts_(std::move(prompts)),
      n_threads_(MakeEngineOptions(config).n_threads) {}

int64_t CellRunner::n_requests() const {
  size_t n = 0;
  for (const std::vector<Prompt>* prompts : {&prompts_.items, &prompts_.texts}) {
    const size_t n_single = FirstOfEachCategory(*prompts, config_.sweep.latency_per_category).size();
    n += prompts->size() + 2 * config_.sweep.latency_repetitions * n_single;
  }
  return static_cast<int64_t>(n);
}

absl::StatusOr<std::unique_ptr<Generator>> CellRunner::MakeGenerator(const Cell& cell, Slots slots) const {
  if (cell.kind != CellKind::kPair) return MakeAlone(cell, slots);
  EngineOptions options = MakeEngineOptions(cell.config);
  if (slots == kSingle) options.n_slots = 1;
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Policy> policy, MakePolicy(cell.config));
  if (!cell.config.cascade.is_query()) return Engine::Create(options, pair_.spec, std::move(policy));
  return QueryCascade::Create(MakeQueryCascadeOptions(cell.config.cascade), options, pair_.spec,
                              std::move(policy));
}

absl::StatusOr<std::unique_ptr<Engine>> CellRunner::MakeAlone(const Cell& cell, Slots slots) const {
  EngineOptions options = MakeEngineOptions(cell.config);
  if (slots == kSingle) options.n_slots = 1;
  PairSpec spec = pair_.spec;
  options.token_cascade = false;
  options.gamma = 0;
  if (cell.kind == CellKind::kDraftAlone) spec.target = *spec.draft;
  spec.draft.reset();
  spec.ngram.reset();
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Policy> plain, Policy::Create(PolicyOptions(), false));
  return Engine::Create(options, std::move(spec), std::move(plain));
}

absl::Status CellRunner::PrepareEngines(const Cell& cell) {
  if (target_ == nullptr) {
    Cell alone = cell;
    alone.kind = CellKind::kTargetAlone;
    TANDEM_ASSIGN_OR_RETURN(target_, MakeAlone(alone, kSingle));
  }
  if (engines_are_for_ == EngineKey(cell)) return absl::OkStatus();
  engines_are_for_ = "";
  TANDEM_ASSIGN_OR_RETURN(batched_, MakeGenerator(cell, kBatched));
  TANDEM_ASSIGN_OR_RETURN(single_, MakeGenerator(cell, kSingle));
  engines_are_for_ = EngineKey(cell);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Request>> CellRunner::RequestsOf(const Cell& cell,
                                                            const std::vector<Prompt>& prompts) const {
  Config config = cell.config;
  config.prompts.prompts = prompts;
  return MakeRequests(config, pair_);
}

absl::StatusOr<std::vector<RequestResult>> CellRunner::RunAll(Generator& engine,
                                                              const std::vector<Request>& requests,
                                                              EngineListener* listener) const {
  for (const Request& request : requests) TANDEM_RETURN_IF_ERROR(engine.Submit(request));
  std::vector<RequestResult> results;
  TANDEM_RETURN_IF_ERROR(engine.Run(listener, &results));
  for (const RequestResult& result : results) {
    if (result.finish == FinishReason::kCancelled) return absl::CancelledError("interrupted");
  }
  return results;
}

absl::StatusOr<Measured> CellRunner::RunOne(Generator& engine, const Request& request,
                                            EngineListener* listener) const {
  engine.ResetTimes();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<RequestResult> results, RunAll(engine, {request}, listener));
  return MeasureAll(results, engine.times());
}

absl::StatusOr<Figures> CellRunner::Measure(const Cell& cell, const std::vector<Prompt>& prompts,
                                            EngineListener* listener, std::vector<RequestResult>* results) {
  Figures figures;
  if (prompts.empty()) return figures;
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Request> requests, RequestsOf(cell, prompts));
  batched_->ResetTimes();
  TANDEM_ASSIGN_OR_RETURN(*results, RunAll(*batched_, requests, listener));
  figures.batched = MeasureAll(*results, batched_->times());

  TANDEM_ASSIGN_OR_RETURN(const std::vector<Request> subset,
                          RequestsOf(cell, FirstOfEachCategory(prompts, config_.sweep.latency_per_category)));
  // The first run of an engine touches its memory for the first time: not measured.
  for (Generator* engine : {single_.get(), static_cast<Generator*>(target_.get())})
    TANDEM_RETURN_IF_ERROR(RunOne(*engine, subset[0], nullptr).status());
  for (const Request& request : subset) {
    Measured own, targets;
    for (int32_t r = 0; r < config_.sweep.latency_repetitions; ++r) {
      // Neither side always comes first: what one leaves behind (caches, clocks, heat) falls on both.
      for (const bool target_turn : {r % 2 == 0, r % 2 != 0}) {
        Generator& engine = target_turn ? static_cast<Generator&>(*target_) : *single_;
        Measured& fastest = target_turn ? targets : own;
        TANDEM_ASSIGN_OR_RETURN(Measured one, RunOne(engine, request, listener));
        // The same tokens every time: what is slower was disturbed from outside.
        if (r == 0 || one.elapsed_s < fastest.elapsed_s) fastest = std::move(one);
      }
    }
    figures.single.Add(own);
    figures.target_single.Add(targets);
  }
  return figures;
}

void CellRunner::CheckItems(const std::vector<RequestResult>& results, CellResult* result) const {
  for (size_t i = 0; i < results.size(); ++i) {
    const Prompt& item = prompts_.items[i];
    Right& right = result->right[item.category];
    ++right.n_items;
    right.n_right += IsRight(item.check, *item.answer, results[i].text);
  }
}

void CellRunner::ScoreTexts(const Cell& cell, const std::vector<RequestResult>& results, CellResult* result) {
  const bool has_draft_law = pair_.spec.draft.has_value();
  const absl::StatusOr<std::unique_ptr<Policy>> policy = MakePolicy(cell.config);
  const bool is_cascade = cell.config.cascade.mode != "none";
  const bool has_law =
      cell.kind != CellKind::kPair || (has_draft_law && !is_cascade && (*policy)->kind() != Kind::kBlock);
  const int32_t context = target_->max_context();
  if (target_scorer_ == nullptr) {
    target_scorer_ =
        std::make_unique<TextScorer>(pair_.spec.target, context, config_.sweep.text_tokens, n_threads_);
    if (has_draft_law)
      draft_scorer_ =
          std::make_unique<TextScorer>(*pair_.spec.draft, context, config_.sweep.text_tokens, n_threads_);
  }
  int64_t n_tokens = 0;
  for (const RequestResult& text : results) n_tokens += static_cast<int64_t>(text.token_ids.size());
  const int64_t n_tv = has_law ? std::min<int64_t>(config_.sweep.tv_positions, n_tokens) : 0;
  const Sampling sampling = SamplingOf(cell.config.sampling);
  Sampling reference = SamplingOf(config_.sampling);  // a cell may cut off more than the file does
  reference.temperature = sampling.temperature;
  for (const RequestResult& text : results) {
    if (text.token_ids.empty()) continue;
    const LawBuffer target = target_scorer_->Score(text.request.prompt, text.token_ids);
    const double sum_before = result->log_prob_sum;
    std::vector<int64_t> rows;  // every so many positions of all texts together
    for (size_t i = 0; i < text.token_ids.size(); ++i) {
      result->log_prob_sum +=
          LogProbability(target.logits + i * target.stride, target.n_vocab, text.token_ids[i]);
      const int64_t at = result->n_log_probs++;
      if ((at + 1) * n_tv / n_tokens > at * n_tv / n_tokens) rows.push_back(static_cast<int64_t>(i));
    }
    result->log_prob_of_text.push_back((result->log_prob_sum - sum_before) /
                                       static_cast<double>(text.token_ids.size()));
    result->n_tv += static_cast<int64_t>(rows.size());
    if (cell.kind == CellKind::kTargetAlone || rows.empty()) continue;  // its own law: distance 0
    LawBuffer draft = draft_scorer_->Score(text.request.prompt, text.token_ids);
    draft.n_vocab = std::min(draft.n_vocab, pair_.spec.n_vocab);
    std::vector<double> distance(rows.size());
    ForEach(rows.size(), n_threads_, [&](size_t i) {
      distance[i] = cell.kind == CellKind::kDraftAlone
                        ? DraftDistanceToTarget(draft, target, rows[i], sampling)
                        : DistanceToTarget(**policy, draft, target, rows[i], sampling, reference);
    });
    result->tv_sum += SumOf(distance);
  }
}

absl::StatusOr<CellResult> CellRunner::Run(const Cell& cell, EngineListener* listener) {
  const auto begin = std::chrono::steady_clock::now();
  TANDEM_RETURN_IF_ERROR(PrepareEngines(cell));
  CellResult result;
  TANDEM_ASSIGN_OR_RETURN(result.guarantee, GuaranteeOf(cell));
  std::vector<RequestResult> results;
  TANDEM_ASSIGN_OR_RETURN(result.items, Measure(cell, prompts_.items, listener, &results));
  CheckItems(results, &result);
  results.clear();
  TANDEM_ASSIGN_OR_RETURN(result.texts, Measure(cell, prompts_.texts, listener, &results));
  if (!results.empty()) ScoreTexts(cell, results, &result);
  result.elapsed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace tandem
