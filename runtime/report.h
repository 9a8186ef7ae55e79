// What was measured, and the report's text. Plain values; no thread owns them.
#ifndef TANDEM_RUNTIME_REPORT_H_
#define TANDEM_RUNTIME_REPORT_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/executor.h"
#include "runtime/request.h"

namespace tandem {

// The time between two outputs of a request, shared equally by the tokens of the later one.
struct TokenGap {
  double ms_per_token = 0;
  int64_t n_tokens = 0;
};

// What every metric is computed from: one request's figures, or those of several.
struct Measured {
  SpeculationCounts counts;
  int64_t num_requests = 0;
  int64_t num_prompt_tokens = 0;
  std::vector<double> queue_ms;        // per request: submitted to admitted
  std::vector<double> first_token_ms;  // per request: admitted to first token
  std::vector<double> latency_ms;      // per request: admitted to last token
  std::vector<double> scores;          // query cascade, per answer of the draft
  std::vector<TokenGap> gaps;
  int64_t num_decode_tokens = 0;  // those of a request that came after its first output
  double decode_s = 0;            // time in which at least one request was past its first output
  double serving_s = 0;           // time in which at least one request was admitted and not at its last token
  double elapsed_s = 0;           // first submission to last token
  std::optional<PhaseTimes> phases;  // of a whole run, if they were timed

  void Add(const Measured& other);
};

Measured Measure(const RequestResult& result);
Measured Measure(std::span<const RequestResult* const> results, const std::optional<PhaseTimes>& phases);

// Of at least one value.
struct Spread {
  double mean = 0;
  double sd = 0;  // of the sample, n - 1; 0 for a single value
  double min = 0;
  double max = 0;
};
Spread SpreadOf(std::span<const double> values);

// What a report says about the run it is of.
struct ReportHeader {
  std::string target;          // "name, 25.2 M parameters, bf16"
  std::string draft;           // the same, "n-gram lookup of 2 to 5 tokens", or empty: none
  std::string cascade;         // without speculation: what it does; empty: none
  std::string rule;            // "opt(alpha=0.2), token verification, gamma 5"
  std::string guarantee;       // exact, exact_at_zero or lossy
  std::string guarantee_text;  // the same in words
  std::string bonus;           // p or pi; empty: there is none
  std::string dtype;           // of the products' inputs
  std::string device;          // the GPU, or empty: the CPU
  std::string cpu;
  int n_threads = 0;
};

// The CPU's name, as the system gives it.
std::string CpuName();

// "1,234,567"
std::string FormatCount(int64_t n);
// Three significant digits, without an exponent: 0.0123, 1.23, 12.3, 1,230; "-" for NaN.
std::string FormatNumber(double value);
// "25.2 M"
std::string FormatParameters(int64_t n);
// "1.50 GiB"
std::string FormatBytes(int64_t n);
// "12.3 ms", "4.56 s"
std::string FormatMs(double ms);
// "78.3 %"
std::string FormatPercent(double fraction);

// The report of a run, a few lines that end in a newline. `colour`: with terminal escapes.
std::string TextReport(const ReportHeader& header, const Measured& measured, bool colour);

// One line of a report: a label in a column of its own; the text's further lines stand under its first.
std::string ReportLine(const std::string& label, const std::string& text, bool colour);
// "2.38 s: prefill 6 %, draft 30 %, ..."; needs phases.
std::string TimeByPhase(const Measured& measured);
// The lines about pair, rule and machine.
std::string HeaderLines(const ReportHeader& header, bool colour);
// The lines about what a cascade without speculation handed to the target; empty if there was none.
std::string CascadeLines(const ReportHeader& header, const Measured& measured, bool colour);
// The lines about acceptance; empty if no block was judged.
std::string AcceptanceLines(const Measured& measured, bool colour);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_REPORT_H_
