#include "runtime/metrics_help.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/core/check.h"
#include "runtime/wrap.h"

namespace tandem {
namespace {

MetricValue Ratio(double part, double whole) {
  if (whole > 0) return part / whole;
  return std::monostate();
}

MetricValue MeanOf(const std::vector<double>& values) {
  return Ratio(std::accumulate(values.begin(), values.end(), 0.0), static_cast<double>(values.size()));
}

int64_t TokensOf(const std::vector<TokenGap>& gaps) {
  int64_t n = 0;
  for (const TokenGap& gap : gaps) n += gap.n_tokens;
  return n;
}

// The smallest gap that at least `share` of the tokens do not exceed.
MetricValue GapAt(const Measured& m, double share) {
  std::vector<TokenGap> gaps = m.gaps;
  std::sort(gaps.begin(), gaps.end(),
            [](const TokenGap& a, const TokenGap& b) { return a.ms_per_token < b.ms_per_token; });
  const double wanted = share * static_cast<double>(TokensOf(gaps));
  int64_t n = 0;
  for (const TokenGap& gap : gaps) {
    n += gap.n_tokens;
    if (static_cast<double>(n) >= wanted) return gap.ms_per_token;
  }
  return std::monostate();
}

// Where phases were timed.
double PhaseMs(const Measured& m, Phase phase) { return static_cast<double>(m.phases->of(phase)) * 1e-6; }

double IdleMs(const Measured& m) {
  double busy = 0;
  for (const int64_t ns : m.phases->ns) busy += static_cast<double>(ns) * 1e-6;
  return std::max(0.0, m.elapsed_s * 1e3 - busy);
}

double RoundMs(const Measured& m) {
  return PhaseMs(m, Phase::kDraft) + PhaseMs(m, Phase::kVerify) + PhaseMs(m, Phase::kRule) +
         PhaseMs(m, Phase::kSettle) + IdleMs(m);
}

template <Phase kPhase>
MetricValue TimeOf(const Measured& m) {
  if (!m.phases) return std::monostate();
  return PhaseMs(m, kPhase);
}

const Metric kMetrics[] = {
    {"num_requests", "", "requests", true, [](const Measured& m) -> MetricValue { return m.num_requests; }},
    {"num_prompt_tokens", "tokens", "prompt tokens", false,
     [](const Measured& m) -> MetricValue { return m.num_prompt_tokens; }},
    {"num_emitted_tokens", "tokens", "output tokens, an end of text included", false,
     [](const Measured& m) -> MetricValue { return m.counts.num_emitted_tokens; }},
    {"num_drafts", "rounds", "rounds in which at least one token was proposed", false,
     [](const Measured& m) -> MetricValue { return m.counts.num_drafts; }},
    {"num_draft_tokens", "tokens", "proposed tokens; those past the end of the output are not counted", false,
     [](const Measured& m) -> MetricValue { return m.counts.num_draft_tokens; }},
    {"num_accepted_tokens", "tokens", "proposed tokens that were kept and are in the output", false,
     [](const Measured& m) -> MetricValue { return m.counts.num_accepted_tokens; }},
    {"num_accepted_tokens_per_pos", "tokens",
     "the same by position in the block: [i] rounds that kept token i", false,
     [](const Measured& m) -> MetricValue { return m.counts.accepted_per_pos; }},
    {"draft_acceptance_rate", "0 to 1", "num_accepted_tokens / num_draft_tokens", false,
     [](const Measured& m) -> MetricValue {
       return Ratio(m.counts.num_accepted_tokens, m.counts.num_draft_tokens);
     }},
    {"mean_acceptance_length", "tokens",
     "output tokens per target call: num_emitted_tokens / target_calls, the target's own token included",
     false,
     [](const Measured& m) -> MetricValue {
       return Ratio(m.counts.num_emitted_tokens, m.counts.target_calls);
     }},
    {"acceptance_histogram", "rounds", "[k] rounds with a proposal that kept k tokens of it", false,
     [](const Measured& m) -> MetricValue { return m.counts.acceptance_histogram; }},
    {"conditional_acceptance_by_position", "0 to 1",
     "[i] of the rounds that proposed token i and kept all before it, those that kept it", false,
     [](const Measured& m) -> MetricValue {
       std::vector<double> rates;
       for (size_t i = 0; i < m.counts.accepted_per_pos.size(); ++i) {
         const int64_t reached = m.counts.reached_per_pos[i];
         rates.push_back(reached > 0 ? static_cast<double>(m.counts.accepted_per_pos[i]) / reached
                                     : std::nan(""));
       }
       return rates;
     }},
    {"deferral_rate", "0 to 1", "positions that the rule handed to the target / positions that it looked at",
     false,
     [](const Measured& m) -> MetricValue { return Ratio(m.counts.num_deferred, m.counts.num_judged); }},
    {"target_calls", "rounds",
     "forwards of the target that judged a block of one sequence, or in a cascade gave a token (prefill not "
     "counted)",
     false, [](const Measured& m) -> MetricValue { return m.counts.target_calls; }},
    {"draft_calls", "tokens",
     "tokens that the draft proposed, wrote or deferred, those of a redone answer included (prefill not "
     "counted)",
     false, [](const Measured& m) -> MetricValue { return m.counts.draft_calls; }},
    {"draft_token_share", "0 to 1",
     "output tokens that are the draft's (kept, or not deferred; of a query cascade those of kept answers) / "
     "num_emitted_tokens",
     false,
     [](const Measured& m) -> MetricValue {
       return Ratio(m.counts.num_tokens_by_draft, m.counts.num_emitted_tokens);
     }},
    {"answer_deferral_rate", "0 to 1",
     "query cascade: answers of the draft that the target redid / answers that were scored", false,
     [](const Measured& m) -> MetricValue {
       return Ratio(m.counts.num_deferred_answers, m.counts.num_scored_answers);
     }},
    {"answer_score", "nats",
     "query cascade: cascade.score of the draft's answer; of a run: the mean over requests", false,
     [](const Measured& m) -> MetricValue { return MeanOf(m.scores); }},
    {"num_preemptions", "",
     "times that a sequence gave its cache pages back to others (there were too few) and was computed again",
     false, [](const Measured& m) -> MetricValue { return m.counts.num_preemptions; }},
    {"queue_time_ms", "ms",
     "submission to the first admission into the batch; of a run: the mean over requests", false,
     [](const Measured& m) -> MetricValue { return MeanOf(m.queue_ms); }},
    {"time_to_first_token_ms", "ms",
     "admission to the first token: prefill and the first round; of a query cascade's kept answer, to all of "
     "its "
     "tokens; of a run: the mean over requests",
     false, [](const Measured& m) -> MetricValue { return MeanOf(m.first_token_ms); }},
    {"request_latency_ms", "ms",
     "admission to the last token, both stages of a query cascade; of a run: the mean over requests", false,
     [](const Measured& m) -> MetricValue { return MeanOf(m.latency_ms); }},
    {"inter_token_latency_ms.mean", "ms",
     "time per token after a request's first output. The tokens of a round come together and share the time "
     "since the "
     "output before equally",
     false,
     [](const Measured& m) -> MetricValue {
       double sum = 0;
       for (const TokenGap& gap : m.gaps) sum += gap.ms_per_token * gap.n_tokens;
       return Ratio(sum, TokensOf(m.gaps));
     }},
    {"inter_token_latency_ms.p50", "ms", "half of the tokens took at most this", false,
     [](const Measured& m) -> MetricValue { return GapAt(m, 0.5); }},
    {"inter_token_latency_ms.p99", "ms", "99 of 100 tokens took at most this", false,
     [](const Measured& m) -> MetricValue { return GapAt(m, 0.99); }},
    {"tokens_per_second.decode", "tokens/s",
     "tokens after each request's first output / time in which at least one request was between its first "
     "output and "
     "its last",
     false, [](const Measured& m) -> MetricValue { return Ratio(m.num_decode_tokens, m.decode_s); }},
    {"tokens_per_second.end_to_end", "tokens/s",
     "output tokens / time from the first submission to the last token", false,
     [](const Measured& m) -> MetricValue { return Ratio(m.counts.num_emitted_tokens, m.elapsed_s); }},
    {"tokens_per_second.serving", "tokens/s",
     "output tokens / time in which at least one request was between admission and its last token", false,
     [](const Measured& m) -> MetricValue { return Ratio(m.counts.num_emitted_tokens, m.serving_s); }},
    {"draft_overhead", "0 to 1", "draft time / round time (draft + verify + rule + settle + idle)", true,
     [](const Measured& m) -> MetricValue {
       return m.phases ? Ratio(PhaseMs(m, Phase::kDraft), RoundMs(m)) : std::monostate();
     }},
    {"time_ms.prefill", "ms",
     "computing prompts, in both models. This and the times below are null in a CUDA device's run without "
     "--trace",
     true, TimeOf<Phase::kPrefill>},
    {"time_ms.draft", "ms", "the drafter's forwards, or its look-up", true, TimeOf<Phase::kDraft>},
    {"time_ms.verify", "ms", "the target's forwards over blocks", true, TimeOf<Phase::kVerify>},
    {"time_ms.rule", "ms",
     "statistics of both models' laws, the rule, drawing proposed, replacement and bonus tokens", true,
     TimeOf<Phase::kRule>},
    {"time_ms.settle", "ms", "committing tokens, cutting caches back, telling the host", true,
     TimeOf<Phase::kSettle>},
    {"time_ms.idle", "ms",
     "the rest of the run's time: the host, waiting. Phases that overlap (streams: threaded, or a CUDA "
     "device's prefill "
     "of both models) count twice, so it may be too low there",
     true,
     [](const Measured& m) -> MetricValue {
       if (!m.phases) return std::monostate();
       return IdleMs(m);
     }},
    {"time_ms.launch", "ms",
     "of it, what a CUDA device took from one program to the next although that had been enqueued", true,
     [](const Measured& m) -> MetricValue {
       if (!m.phases) return std::monostate();
       return static_cast<double>(m.phases->launch_ns) * 1e-6;
     }},
    {"elapsed_s", "s", "first submission to last token", false,
     [](const Measured& m) -> MetricValue { return m.elapsed_s; }},
};

const BenchMetric kBenchMetrics[] = {
    {"speedup.mean", "ratio",
     "tokens_per_second.decode of the pair / that of the target alone, repetition by repetition; their mean. "
     "Of a "
     "cascade without speculation: of tokens_per_second.serving"},
    {"speedup.sd", "ratio", "standard deviation of a repetition's ratio (n - 1)"},
    {"speedup.min", "ratio", "smallest ratio of a repetition"},
    {"speedup.max", "ratio", "largest ratio of a repetition"},
    {"speedup.per_repetition", "ratio", "the ratios"},
    {"round.ms", "ms", "a round of the pair, all sequences together, idle time included and prefill not"},
    {"round.floor_ms", "ms",
     "the bytes of weights and cache that its forwards must read / read_gb_s; a draft forward whose token "
     "was not "
     "proposed reads nothing"},
    {"round.over_floor", "ratio",
     "round.ms / round.floor_ms; under 1 where the processor's caches hold weights"},
    {"round.read_gb_s", "GB/s", "one pass over a large buffer, measured in the same run"},
    {"round.limited_by", "",
     "bandwidth where that is at least half of round.share, else the largest other part of it"},
    {"round.share", "0 to 1",
     "bandwidth: the floor; draft, verify: what the forwards take beyond it; rule: rule and settle; launch: "
     "a CUDA "
     "device between two programs, the next one enqueued; host: the rest of idle"},
    {"outputs.compared", "", "pairs of outputs that were compared token by token (greedy only)"},
    {"outputs.different", "",
     "of them, those that differ; first_difference says where (-1: the output had ended)"},
    {"categories", "", "the same by the prompts' category"},
};

}  // namespace

std::span<const Metric> Metrics() { return kMetrics; }

std::span<const BenchMetric> BenchMetrics() { return kBenchMetrics; }

MetricValue ValueOf(std::string_view name, const Measured& measured) {
  const auto found = std::find_if(std::begin(kMetrics), std::end(kMetrics),
                                  [&](const Metric& metric) { return metric.name == name; });
  TANDEM_CHECK(found != std::end(kMetrics)) << name;
  return found->value(measured);
}

double NumberOf(std::string_view name, const Measured& measured) {
  const MetricValue value = ValueOf(name, measured);
  if (const double* number = std::get_if<double>(&value)) return *number;
  if (const int64_t* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  return std::nan("");
}

std::string MetricsHelp() {
  constexpr int kColumn = 38;
  const auto entry = [](const char* name, const char* unit, const char* help) {
    return Entry(name, *unit == 0 ? help : absl::StrCat(help, " (", unit, ")"), kColumn);
  };
  std::string text =
      "Metrics of a request and of a run (`total`). A dot stands for one level of JSON. A metric that is "
      "undefined,\n"
      "such as a rate of no events, is null. A round is one target call of one sequence.\n\n";
  for (const Metric& metric : kMetrics) {
    if (!metric.of_run) text += entry(metric.name, metric.unit, metric.help);
  }
  text += "\nOf a run only:\n\n";
  for (const Metric& metric : kMetrics) {
    if (metric.of_run) text += entry(metric.name, metric.unit, metric.help);
  }
  text += "\nOf tandem bench only:\n\n";
  for (const BenchMetric& metric : kBenchMetrics) text += entry(metric.name, metric.unit, metric.help);
  return text;
}

}  // namespace tandem
