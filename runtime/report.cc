#include "runtime/report.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_replace.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "runtime/metrics_help.h"

namespace tandem {
namespace {

constexpr double kMsPerNs = 1e-6;
constexpr double kSPerNs = 1e-9;

// Length of the union of intervals, in nanoseconds.
int64_t Covered(std::vector<std::pair<int64_t, int64_t>> intervals) {
  std::sort(intervals.begin(), intervals.end());
  int64_t total = 0;
  int64_t end = INT64_MIN;
  for (const auto& [from, to] : intervals) {
    const int64_t begin = std::max(from, end);
    if (to > begin) total += to - begin;
    end = std::max(end, to);
  }
  return total;
}

std::string Percents(const std::vector<double>& fractions) {
  std::string text;
  for (const double fraction : fractions) {
    absl::StrAppend(&text, text.empty() ? "" : "  ",
                    std::isnan(fraction) ? "  -  " : absl::StrFormat("%3.0f %%", 100 * fraction));
  }
  return text;
}

}  // namespace

void Measured::Add(const Measured& other) {
  counts.Add(other.counts);
  num_requests += other.num_requests;
  num_prompt_tokens += other.num_prompt_tokens;
  queue_ms.insert(queue_ms.end(), other.queue_ms.begin(), other.queue_ms.end());
  first_token_ms.insert(first_token_ms.end(), other.first_token_ms.begin(), other.first_token_ms.end());
  latency_ms.insert(latency_ms.end(), other.latency_ms.begin(), other.latency_ms.end());
  scores.insert(scores.end(), other.scores.begin(), other.scores.end());
  gaps.insert(gaps.end(), other.gaps.begin(), other.gaps.end());
  num_decode_tokens += other.num_decode_tokens;
  decode_s += other.decode_s;
  serving_s += other.serving_s;
  elapsed_s += other.elapsed_s;
  if (other.phases) {
    if (!phases) phases = PhaseTimes();
    phases->Add(*other.phases);
  }
}

Measured Measure(const RequestResult& result) {
  const RequestResult* one[] = {&result};
  return Measure(one, std::nullopt);
}

Measured Measure(std::span<const RequestResult* const> results, const std::optional<PhaseTimes>& phases) {
  Measured measured;
  if (phases && phases->any()) measured.phases = phases;
  std::vector<std::pair<int64_t, int64_t>> decoding, serving;
  int64_t begin_ns = INT64_MAX;
  int64_t end_ns = INT64_MIN;
  for (const RequestResult* result : results) {
    measured.counts.Add(result->counts);
    ++measured.num_requests;
    measured.num_prompt_tokens += static_cast<int64_t>(result->request.prompt.size());
    begin_ns = std::min(begin_ns, result->submitted_ns);
    if (result->score) measured.scores.push_back(*result->score);
    const std::vector<int64_t>& at = result->token_ns;
    if (at.empty()) continue;
    end_ns = std::max(end_ns, at.back());
    measured.queue_ms.push_back((result->admitted_ns - result->submitted_ns) * kMsPerNs);
    measured.first_token_ms.push_back((at.front() - result->admitted_ns) * kMsPerNs);
    measured.latency_ms.push_back((at.back() - result->admitted_ns) * kMsPerNs);
    for (size_t first = 0, next = 0; first < at.size(); first = next) {
      while (next < at.size() && at[next] == at[first]) ++next;
      if (first == 0) continue;
      const int64_t n_tokens = static_cast<int64_t>(next - first);
      measured.gaps.push_back({(at[first] - at[first - 1]) * kMsPerNs / n_tokens, n_tokens});
      measured.num_decode_tokens += n_tokens;
    }
    decoding.push_back({at.front(), at.back()});
    serving.push_back({result->admitted_ns, at.back()});
  }
  measured.decode_s = Covered(std::move(decoding)) * kSPerNs;
  measured.serving_s = Covered(std::move(serving)) * kSPerNs;
  if (end_ns > begin_ns) measured.elapsed_s = (end_ns - begin_ns) * kSPerNs;
  return measured;
}

Spread SpreadOf(std::span<const double> values) {
  Spread spread;
  const double n = static_cast<double>(values.size());
  spread.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  spread.sd = values.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  spread.min = *std::min_element(values.begin(), values.end());
  spread.max = *std::max_element(values.begin(), values.end());
  return spread;
}

std::string CpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (colon != std::string::npos && line.rfind("model name", 0) == 0) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

std::string FormatCount(int64_t n) {
  std::string digits = absl::StrCat(n);
  const int first = n < 0 ? 1 : 0;
  for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3) digits.insert(i, 1, ',');
  return digits;
}

std::string FormatNumber(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::fabs(value);
  if (size >= 999.5) return FormatCount(std::llround(value));
  if (size == 0) return "0";
  int digits = 2;
  for (double limit = 9.995; digits > 0 && size >= limit; limit *= 10) --digits;
  for (double limit = 0.9995; digits < 6 && size < limit; limit /= 10) ++digits;
  return absl::StrFormat("%.*f", digits, value);
}

std::string FormatParameters(int64_t n) {
  if (n >= 1'000'000'000) return absl::StrCat(FormatNumber(n * 1e-9), " B");
  if (n >= 1'000'000) return absl::StrCat(FormatNumber(n * 1e-6), " M");
  if (n >= 1'000) return absl::StrCat(FormatNumber(n * 1e-3), " k");
  return absl::StrCat(n);
}

std::string FormatBytes(int64_t n) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(n);
  int unit = 0;
  for (; value >= 1000 && unit < 4; ++unit) value /= 1024;
  return absl::StrCat(unit == 0 ? FormatCount(n) : FormatNumber(value), " ", kUnits[unit]);
}

std::string FormatMs(double ms) {
  if (ms >= 1000) return absl::StrCat(FormatNumber(ms / 1000), " s");
  return absl::StrCat(FormatNumber(ms), " ms");
}

std::string FormatPercent(double fraction) {
  return std::isnan(fraction) ? "-" : absl::StrFormat("%.1f %%", 100 * fraction);
}

std::string ReportLine(const std::string& label, const std::string& text, bool colour) {
  constexpr int kColumn = 12;
  const std::string padded = absl::StrFormat("%-*s", kColumn, label);
  const std::string under = "\n  " + std::string(kColumn, ' ');
  return absl::StrCat("  ", colour ? "\033[2m" : "", padded, colour ? "\033[0m" : "",
                      absl::StrReplaceAll(text, {{"\n", under}}), "\n");
}

std::string HeaderLines(const ReportHeader& header, bool colour) {
  std::string text = ReportLine("target", header.target, colour);
  if (!header.draft.empty()) {
    text += ReportLine("draft", header.draft, colour);
    if (!header.cascade.empty()) text += ReportLine("cascade", header.cascade, colour);
    text += ReportLine("rule", header.rule, colour);
    const std::string bonus = header.bonus.empty() ? "" : absl::StrCat("; bonus token from ", header.bonus);
    text += ReportLine("guarantee", header.guarantee_text + bonus, colour);
  }
  text += ReportLine(
      "machine",
      absl::StrCat(header.device.empty() ? absl::StrCat(header.cpu, ", ", header.n_threads, " thread",
                                                        header.n_threads == 1 ? "" : "s")
                                         : header.device,
                   "; products in ", header.dtype),
      colour);
  return text;
}

std::string CascadeLines(const ReportHeader& header, const Measured& measured, bool colour) {
  if (header.cascade.empty()) return "";
  const SpeculationCounts& counts = measured.counts;
  std::string text;
  if (measured.scores.empty()) {
    text = ReportLine(
        "deferral",
        absl::StrCat(FormatPercent(NumberOf("deferral_rate", measured)), " of tokens handed to the target"),
        colour);
  } else {
    const Spread spread = SpreadOf(measured.scores);
    text = ReportLine(
        "answers",
        absl::StrCat(FormatPercent(NumberOf("answer_deferral_rate", measured)),
                     " redone by the target: ", FormatCount(counts.num_deferred_answers), " of ",
                     FormatCount(counts.num_scored_answers), "; scores ", FormatNumber(spread.mean), " (",
                     FormatNumber(spread.min), " to ", FormatNumber(spread.max), ")"),
        colour);
  }
  return text + ReportLine("calls",
                           absl::StrCat(FormatCount(counts.draft_calls), " of the draft, ",
                                        FormatCount(counts.target_calls), " of the target; ",
                                        FormatPercent(NumberOf("draft_token_share", measured)),
                                        " of the output is the draft's"),
                           colour);
}

std::string AcceptanceLines(const Measured& measured, bool colour) {
  const SpeculationCounts& counts = measured.counts;
  if (counts.num_drafts == 0) return "";
  std::string text =
      absl::StrCat(FormatNumber(NumberOf("mean_acceptance_length", measured)), " tokens per target call; ",
                   FormatPercent(NumberOf("draft_acceptance_rate", measured)), " of ",
                   FormatCount(counts.num_draft_tokens), " draft tokens kept");
  auto conditional = std::get<std::vector<double>>(ValueOf("conditional_acceptance_by_position", measured));
  while (!conditional.empty() && std::isnan(conditional.back())) conditional.pop_back();  // never reached
  std::vector<double> kept;
  for (const int64_t n : counts.acceptance_histogram)
    kept.push_back(static_cast<double>(n) / counts.num_drafts);
  absl::StrAppendFormat(&text, "\n%-13s%s  (given that all before it were kept)", "by position",
                        Percents(conditional));
  absl::StrAppendFormat(&text, "\n%-13s%s  of the blocks", absl::StrCat("kept 0 to ", kept.size() - 1),
                        Percents(kept));
  return ReportLine("acceptance", text, colour) +
         ReportLine("deferral",
                    absl::StrCat(FormatPercent(NumberOf("deferral_rate", measured)),
                                 " of judged positions handed to the target"),
                    colour);
}

std::string TimeByPhase(const Measured& measured) {
  static constexpr const char* kNames[] = {"prefill", "draft", "verify", "rule", "settle", "idle"};
  double total = 0;
  for (const char* name : kNames) total += NumberOf(absl::StrCat("time_ms.", name), measured);
  std::string text = absl::StrCat(FormatMs(total), ": ");
  for (const char* name : kNames) {
    absl::StrAppend(
        &text, name == kNames[0] ? "" : ", ", name, " ",
        absl::StrFormat("%.1f %%", 100 * NumberOf(absl::StrCat("time_ms.", name), measured) / total));
  }
  return text;
}

std::string TextReport(const ReportHeader& header, const Measured& measured, bool colour) {
  const SpeculationCounts& counts = measured.counts;
  std::string text = HeaderLines(header, colour);
  text += ReportLine("output",
                     absl::StrCat(FormatCount(counts.num_emitted_tokens), " tokens from ",
                                  FormatCount(counts.target_calls), " target calls; ", measured.num_requests,
                                  measured.num_requests == 1 ? " request, " : " requests, ",
                                  FormatCount(measured.num_prompt_tokens), " prompt tokens"),
                     colour);
  text += CascadeLines(header, measured, colour);
  text += AcceptanceLines(measured, colour);
  if (counts.num_preemptions > 0) {
    text += ReportLine("cache",
                       absl::StrCat(FormatCount(counts.num_preemptions),
                                    counts.num_preemptions == 1 ? " preemption" : " preemptions",
                                    " for want of pages, after which a sequence is computed again; raise "
                                    "cache.tokens"),
                       colour);
  }
  const double mean_ms = NumberOf("inter_token_latency_ms.mean", measured);
  text += ReportLine(
      "latency",
      absl::StrCat(
          "first token after ", FormatMs(NumberOf("time_to_first_token_ms", measured)),
          std::isnan(mean_ms)
              ? ""
              : absl::StrCat("; then ", FormatMs(mean_ms), " per token (median ",
                             FormatNumber(NumberOf("inter_token_latency_ms.p50", measured)), ", p99 ",
                             FormatNumber(NumberOf("inter_token_latency_ms.p99", measured)), ")")),
      colour);
  text += ReportLine(
      "speed",
      absl::StrCat(FormatNumber(NumberOf("tokens_per_second.decode", measured)), " tokens/s decoding, ",
                   FormatNumber(NumberOf("tokens_per_second.end_to_end", measured)), " end to end"),
      colour);
  if (measured.phases) text += ReportLine("time", TimeByPhase(measured), colour);
  return text;
}

}  // namespace tandem
