#include "runtime/sweep/html_report.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "policies/registry.h"
#include "runtime/config_keys.h"
#include "runtime/sweep/chart.h"
#include "runtime/sweep/frontier.h"
#include "runtime/sweep/report_charts.h"

namespace tandem {
namespace {

constexpr const char* kPageBegin = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>tandem sweep</title>
<style>
body { font: 16px/1.5 system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; color: #222; max-width: 900px;
       margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; }
h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ccc; }
figure { margin: 1em 0; break-inside: avoid; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85em; margin: 1em 0; }
th, td { padding: 0.2em 0.7em; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th.group { text-align: center; }
tr { break-inside: avoid; }
table.plain th { text-align: left; vertical-align: top; }
table.plain td { text-align: left; white-space: normal; }
table.cells { font-size: 0.7em; }
table.cells th, table.cells td { padding: 0.15em 0.45em; }
pre { font-size: 0.75em; background: #f6f6f6; padding: 1em; white-space: pre-wrap; }
</style>
</head>
<body>
)";

constexpr const char* kDefinitions = R"(<h2>What the figures mean</h2>
<ul>
<li><b>Exact match</b>: items whose answer is right by their check; the mean over categories.</li>
<li><b>Log-probability</b>: of what was written, by the target's law at temperature 1 with nothing cut off, in nats per
token. What the target itself writes at this temperature is the measure: more is not better, only closer to
greedy.</li>
<li><b>Total variation (TV)</b>: of the rule's law and the target's at the same temperature, by the rule's definition, at
positions of the texts' outputs; 0 for exact rules.</li>
<li><b>Latency</b>: time from admission to the last token, prefill included, per output token, one request at a time,
relative to the target alone on the same prompts, in turns with it; of several runs the fastest, on either side.</li>
<li><b>Rejected</b>: judged draft tokens that did not stay. <b>Deferred</b>: judged positions that the rule handed to the
target; such a position keeps its token if the target agrees.</li>
<li><b>Tokens per call</b>: output tokens per forward of the target that judged a block.</li>
<li><b>At the target's quality</b>: at most one percentage point of exact match, or 0.05 nats, below the target alone; at
T &gt; 0 one standard error of the target's own figure, if that is more.</li>
<li><b>lossless, min-p</b>: lossless speculation with both laws cut off by min-p, the fair comparison for rules that cut
off the target's law.</li>
<li><b>Pareto front</b>: the points that no other beats in both coordinates.</li>
</ul>
)";

constexpr const char* kReachedHead = R"(</th>
<th class="group" colspan="3">fastest at the target's quality</th>
<th class="group" colspan="3">best, no slower than the target</th></tr>
<tr><th>point</th><th>latency</th><th>tokens/call</th><th>point</th><th>quality</th><th>latency</th></tr>
)";

constexpr const char* kCellsHead = R"(<h2>All cells</h2>
<table class="cells">
<tr><th rowspan="2">cell</th><th rowspan="2">T</th><th rowspan="2">gamma</th><th rowspan="2">seeds</th>
<th class="group" colspan="5">tasks</th><th class="group" colspan="6">text</th></tr>
<tr><th>exact match</th><th>tokens/call</th><th>rejected</th><th>deferred</th><th>latency</th>
<th>log-prob.</th><th>TV</th><th>tokens/call</th><th>rejected</th><th>deferred</th><th>latency</th></tr>
)";

class Reporter {
 public:
  explicit Reporter(const SweepResults& results) : results_(results), facets_(MakeFacets(results)) {}

  SweepReport Make() {
    std::string body = Head();
    for (const Facet& facet : facets_) body += Section(facet);
    body += kDefinitions + AllCells() + Configuration();
    report_.html = absl::StrCat(kPageBegin, body, "</body>\n</html>\n");
    return std::move(report_);
  }

 private:
  // Charts: in the page, and as files.
  std::string Figures(std::vector<NamedChart> charts) {
    std::string html;
    for (NamedChart& chart : charts) {
      absl::StrAppend(&html, "<figure>\n", chart.svg, "</figure>\n");
      report_.charts.push_back(std::move(chart));
    }
    return html;
  }

  std::string Counts(const std::string& set) const {
    int64_t n = 0;
    for (const auto& [category, count] : results_.sweep[set].items()) n += count.get<int64_t>();
    return absl::StrCat(n, " ", set);
  }

  std::string ReachedTable(const Facet& facet, const std::string& set) {
    const bool items = set == "items";
    const std::string latency = absl::StrCat("/", set, "/latency/relative");
    const std::string calls = absl::StrCat("/", set, "/mean_acceptance_length");
    std::string html =
        absl::StrCat("<table>\n<tr><th rowspan=\"2\">", items ? "on tasks" : "on text", kReachedHead);
    absl::StrAppend(&report_.text, "\n", FacetName(facet), ", ", items ? "tasks" : "text",
                    " (target alone: ", QualityText(set, facet.TargetsOwn(QualityPath(set))), ")\n",
                    absl::StrFormat("  %-20s%-34s%s\n", "", "fastest at the target's quality", "best"));
    for (const FrontierSeries& series : facet.series) {
      const Reached reached = WhatIsReached(facet, series, items);
      std::string fastest = "-", best = "-";
      absl::StrAppend(&html, "<tr><td>", Escaped(series.name), "</td>");
      if (reached.fastest != nullptr) {
        const std::string x = NumberText(reached.fastest->Of(latency).mean, " x");
        absl::StrAppend(&html, "<td>", Escaped(reached.fastest->label), "</td><td>", x, "</td><td>",
                        NumberText(reached.fastest->Of(calls).mean), "</td>");
        fastest = absl::StrCat(x, "  ", Short(series, *reached.fastest));
      } else {
        html += "<td colspan=\"3\">never reached</td>";
      }
      if (reached.best != nullptr) {
        const std::string quality = QualityText(set, reached.best->Of(QualityPath(set)).mean);
        const std::string x = NumberText(reached.best->Of(latency).mean, " x");
        absl::StrAppend(&html, "<td>", Escaped(reached.best->label), "</td><td>", quality, "</td><td>", x,
                        "</td>");
        best = absl::StrCat(quality, " at ", x, "  ", Short(series, *reached.best));
      } else {
        html += "<td colspan=\"3\">slower than the target</td>";
        best = "slower than the target";
      }
      html += "</tr>\n";
      absl::StrAppend(&report_.text, absl::StrFormat("  %-20s%-34s%s\n", series.name, fastest, best));
    }
    return html + "</table>\n";
  }

  // A point's name within its curve.
  static std::string Short(const FrontierSeries& series, const FrontierPoint& point) {
    return point.label.size() > series.name.size() ? point.label.substr(series.name.size() + 1) : "";
  }

  std::string Section(const Facet& facet) {
    std::string html = absl::StrCat("<h2>", FacetName(facet), "</h2>\n");
    for (const std::string set : kPromptSets) {
      if (!HasFigures(facet, set)) continue;
      html += Figures(FrontierCharts(facet, set, Counts(set))) + ReachedTable(facet, set) +
              Figures(RoundCharts(facet, set));
    }
    return html;
  }

  std::string Head() const {
    const OrderedJson& run = results_.sweep["run"];
    const auto text = [&](const char* key) {
      return run[key].is_string() ? run[key].get<std::string>() : "none";
    };
    std::string html = "<h1>Quality against cost</h1>\n<table class=\"plain\">\n";
    const auto row = [&](const char* name, const std::string& value) {
      absl::StrAppend(&html, "<tr><th>", name, "</th><td>", Escaped(value), "</td></tr>\n");
    };
    row("target", text("target"));
    row("draft", text("draft"));
    row("machine",
        absl::StrCat(text("cpu"), ", ", run["threads"].get<int>(), " threads; products in ", text("dtype")));
    row("measured", absl::StrCat(results_.sweep["date"].get<std::string>(), ", tandem ",
                                 results_.sweep["version"].get<std::string>()));
    row("items", CategoryText("items"));
    row("texts", CategoryText("texts"));
    const bool whole = static_cast<int64_t>(results_.cells.size()) == results_.n_planned;
    row("cells", absl::StrCat(results_.cells.size(),
                              whole ? "" : absl::StrCat(" of ", results_.n_planned, ": not finished")));
    row("left out", LeftOut());
    return html + "</table>\n";
  }

  std::string CategoryText(const char* set) const {
    std::vector<std::string> parts;
    for (const auto& [category, n] : results_.sweep[set].items())
      parts.push_back(absl::StrCat(n.get<int64_t>(), " ", category.empty() ? "(no category)" : category));
    return parts.empty() ? "none" : absl::StrJoin(parts, ", ");
  }

  std::string LeftOut() const {
    std::set<std::string> rules;
    for (const OrderedJson& cell : results_.cells) {
      const std::string series = cell["series"];
      rules.insert(series.substr(0, series.find(',')));
    }
    std::vector<std::string> others;
    for (const RuleEntry& entry : Rules()) {
      if (!rules.contains(entry.info->name)) others.push_back(entry.info->name);
    }
    std::string text =
        "seeds and min-p at T = 0, where nothing depends on them; all but one value of rules that keep at "
        "T = 0 what the target would write";
    if (!others.empty()) absl::StrAppend(&text, "; the rules ", absl::StrJoin(others, ", "));
    return text;
  }

  std::string AllCells() const {
    std::string html = kCellsHead;
    std::vector<std::string> seen;
    for (const Facet& facet : facets_) {
      for (const FrontierSeries& series : facet.series) {
        for (const FrontierPoint& point : series.points) {
          const int gamma = (*point.cells[0])["gamma"];
          const std::string id = absl::StrCat(point.label, "/", facet.temperature, "/", gamma);
          if (std::find(seen.begin(), seen.end(), id) != seen.end()) continue;  // a baseline without a gamma
          seen.push_back(id);
          absl::StrAppend(&html, "<tr><td>", Escaped(point.label), "</td><td>",
                          ShortestNumber(facet.temperature), "</td><td>",
                          gamma == 0 ? "-" : absl::StrCat(gamma), "</td><td>",
                          facet.temperature == 0 ? "-" : absl::StrCat(point.cells.size()), "</td>");
          const auto add = [&](const char* pointer, bool percent) {
            absl::StrAppend(&html, "<td>", WithSpread(point.Of(pointer), percent), "</td>");
          };
          add("/items/exact_match", true);
          add("/items/mean_acceptance_length", false);
          add("/items/rejection_rate", true);
          add("/items/deferral_rate", true);
          add("/items/latency/relative", false);
          add("/texts/log_prob", false);
          add("/texts/tv", false);
          add("/texts/mean_acceptance_length", false);
          add("/texts/rejection_rate", true);
          add("/texts/deferral_rate", true);
          add("/texts/latency/relative", false);
          html += "</tr>\n";
        }
      }
    }
    return html + "</table>\n";
  }

  std::string Configuration() const {
    return absl::StrCat("<h2>Configuration</h2>\n<pre>", Escaped(PrettyJson(results_.sweep["config"])),
                        "</pre>\n");
  }

  const SweepResults& results_;
  const std::vector<Facet> facets_;
  SweepReport report_;
};

}  // namespace

SweepReport MakeSweepReport(const SweepResults& results) { return Reporter(results).Make(); }

}  // namespace tandem
