#include "runtime/sweep/chart.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace tandem {
namespace {

constexpr double kWidth = 840;
constexpr double kHeight = 470;
constexpr double kLeft = 78;
constexpr double kTop = 62;
constexpr double kBottom = 58;
constexpr double kLegendWidth = 244;
constexpr double kLegendRow = 20;
constexpr const char* kFont = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif";
constexpr const char* kInk = "#222222";
constexpr const char* kSoft = "#666666";
constexpr const char* kGrid = "#e4e4e4";
constexpr const char* kFrontColour = "#d9d9d9";

// A coordinate in pixels: one decimal is finer than any screen.
std::string Px(double value) { return absl::StrFormat("%.1f", value == 0 ? 0.0 : value); }

std::string Open(double width, double height, const std::string& title) {
  return absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
      "role=\"img\" font-family=\"%s\" font-size=\"14\" fill=\"%s\">\n<title>%s</title>\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
      width, height, width, height, kFont, kInk, Escaped(title));
}

struct TextStyle {
  const char* anchor = "start";
  double size = 14;
  const char* colour = kInk;
  bool bold = false;
  double rotate = 0;
  bool halo = false;  // white around it: readable over lines
};

std::string Text(double x, double y, std::string_view text, const TextStyle& style = {}) {
  std::string svg = absl::StrCat("<text x=\"", Px(x), "\" y=\"", Px(y), "\" font-size=\"", style.size,
                                 "\" text-anchor=\"", style.anchor, "\" fill=\"", style.colour, "\"");
  if (style.bold) svg += " font-weight=\"600\"";
  if (style.halo)
    svg += " paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"4\" stroke-linejoin=\"round\"";
  if (style.rotate != 0)
    absl::StrAppend(&svg, " transform=\"rotate(", style.rotate, " ", Px(x), " ", Px(y), ")\"");
  return absl::StrCat(svg, ">", Escaped(text), "</text>\n");
}

std::string Line(double x1, double y1, double x2, double y2, const std::string& colour, double width,
                 const std::string& more = "") {
  return absl::StrCat("<line x1=\"", Px(x1), "\" y1=\"", Px(y1), "\" x2=\"", Px(x2), "\" y2=\"", Px(y2),
                      "\" stroke=\"", colour, "\" stroke-width=\"", width, "\"", more, "/>\n");
}

std::string Polyline(const std::vector<std::pair<double, double>>& points, const std::string& colour,
                     double width, const std::string& dash) {
  std::string svg = "<polyline fill=\"none\" points=\"";
  for (size_t i = 0; i < points.size(); ++i)
    absl::StrAppend(&svg, i == 0 ? "" : " ", Px(points[i].first), ",", Px(points[i].second));
  absl::StrAppend(&svg, "\" stroke=\"", colour, "\" stroke-width=\"", width,
                  "\" stroke-linejoin=\"round\" stroke-linecap=\"round\"");
  if (!dash.empty()) absl::StrAppend(&svg, " stroke-dasharray=\"", dash, "\"");
  return svg + "/>\n";
}

std::string Polygon(const std::vector<std::pair<double, double>>& points, const std::string& colour) {
  std::string svg = "<polygon points=\"";
  for (const auto& [x, y] : points) absl::StrAppend(&svg, Px(x), ",", Px(y), " ");
  return absl::StrCat(svg, "\" fill=\"", colour, "\" stroke=\"#ffffff\" stroke-width=\"1\"/>");
}

std::string Shape(Marker marker, double x, double y, const std::string& colour) {
  constexpr double r = 5;
  const auto strokes = [&](double dx, double dy) {
    return absl::StrCat("<path d=\"M", Px(x - dx), " ", Px(y - dy), "L", Px(x + dx), " ", Px(y + dy), "M",
                        Px(x - dy), " ", Px(y + dx), "L", Px(x + dy), " ", Px(y - dx), "\" stroke=\"", colour,
                        "\" stroke-width=\"2.6\" fill=\"none\"/>");
  };
  switch (marker) {
    case Marker::kCircle:
      return absl::StrCat("<circle cx=\"", Px(x), "\" cy=\"", Px(y), "\" r=\"", r, "\" fill=\"", colour,
                          "\" stroke=\"#ffffff\" stroke-width=\"1\"/>");
    case Marker::kSquare:
      return Polygon({{x - 4.6, y - 4.6}, {x + 4.6, y - 4.6}, {x + 4.6, y + 4.6}, {x - 4.6, y + 4.6}},
                     colour);
    case Marker::kUp:
      return Polygon({{x, y - 6}, {x + 5.6, y + 4.4}, {x - 5.6, y + 4.4}}, colour);
    case Marker::kDown:
      return Polygon({{x, y + 6}, {x + 5.6, y - 4.4}, {x - 5.6, y - 4.4}}, colour);
    case Marker::kDiamond:
      return Polygon({{x, y - 6.4}, {x + 6, y}, {x, y + 6.4}, {x - 6, y}}, colour);
    case Marker::kPlus:
      return strokes(5.4, 0);
    case Marker::kCross:
      return strokes(4.2, 4.2);
    case Marker::kStar: {
      std::vector<std::pair<double, double>> points;
      for (int i = 0; i < 10; ++i) {
        const double angle = -M_PI / 2 + i * M_PI / 5;
        const double radius = i % 2 == 0 ? 8 : 3.4;
        points.push_back({x + radius * std::cos(angle), y + radius * std::sin(angle)});
      }
      return Polygon(points, colour);
    }
  }
  return "";
}

// A tick's number with as many decimals as its step needs.
std::string TickText(double value, double step, bool percent) {
  if (percent) {
    value *= 100;
    step *= 100;
  }
  int decimals = 0;
  for (double s = step; decimals < 6 && std::fabs(s - std::round(s)) > 1e-6 * std::fabs(s); s *= 10)
    ++decimals;
  return absl::StrFormat("%.*f%s", decimals, std::fabs(value) < 1e-12 ? 0.0 : value, percent ? " %" : "");
}

struct Range {
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();

  void Add(double value) {
    min = std::min(min, value);
    max = std::max(max, value);
  }
  // Room around what is shown, unless the axis says where it ends; never past an end that no value can pass.
  void Finish(const Axis& axis) {
    if (!(min <= max)) min = 0, max = 1;
    const double size = std::max(max - min, 1e-3 * std::max(std::fabs(max), 1e-3));
    const double least = min, most = max;
    min -= 0.06 * size;
    max += 0.06 * size;
    if (axis.percent && least >= 0) min = std::max(min, least < 0.06 * size ? -0.02 * size : 0);
    if (axis.percent && most <= 1) max = std::min(max, 1 + 0.02 * size);
    min = axis.min.value_or(min);
    max = axis.max.value_or(max);
  }
  double size() const { return max - min; }
};

// The area of a CurveChart inside its axes.
class Plot {
 public:
  explicit Plot(const CurveChart& chart) : chart_(chart) {
    for (const ChartSeries& series : chart.series) {
      for (const ChartPoint& point : series.points) {
        x_.Add(point.x - point.x_error);
        x_.Add(point.x + point.x_error);
        y_.Add(point.y - point.y_error);
        y_.Add(point.y + point.y_error);
      }
    }
    for (const Level& level : chart.levels) y_.Add(level.y);
    x_.Finish(chart.x);
    y_.Finish(chart.y);
  }

  std::string Svg() const {
    std::string svg = absl::StrCat(Axes(), Levels(), Front());
    for (const ChartSeries& series : chart_.series) svg += Curve(series);
    for (const ChartSeries& series : chart_.series) svg += Marks(series);
    return svg + LevelLabels();
  }

 private:
  double X(double x) const { return kLeft + (x - x_.min) / x_.size() * (right() - kLeft); }
  double Y(double y) const {
    return kHeight - kBottom - (y - y_.min) / y_.size() * (kHeight - kBottom - kTop);
  }
  static double right() { return kWidth - kLegendWidth - 16; }
  static double bottom() { return kHeight - kBottom; }

  std::string Axes() const {
    std::string svg;
    const std::vector<double> xs = TicksOf(x_, chart_.x, 6);
    const std::vector<double> ys = TicksOf(y_, chart_.y, 6);
    for (const double x : xs) {
      svg += Line(X(x), kTop, X(x), bottom(), kGrid, 1);
      svg += Text(X(x), bottom() + 20, TickText(x, StepOf(xs), chart_.x.percent),
                  {.anchor = "middle", .size = 13});
    }
    for (const double y : ys) {
      svg += Line(kLeft, Y(y), right(), Y(y), kGrid, 1);
      svg += Text(kLeft - 8, Y(y) + 4.5, TickText(y, StepOf(ys), chart_.y.percent),
                  {.anchor = "end", .size = 13});
    }
    svg += Line(kLeft, bottom(), right(), bottom(), "#888888", 1);
    svg += Line(kLeft, kTop, kLeft, bottom(), "#888888", 1);
    svg += Text((kLeft + right()) / 2, kHeight - 12, chart_.x.label, {.anchor = "middle"});
    return svg + Text(20, (kTop + bottom()) / 2, chart_.y.label, {.anchor = "middle", .rotate = -90});
  }

  static std::vector<double> TicksOf(const Range& range, const Axis& axis, int wanted) {
    std::vector<double> ticks = Ticks(range.min, range.max, wanted);
    if (axis.whole) std::erase_if(ticks, [](double t) { return std::fabs(t - std::round(t)) > 1e-9; });
    return ticks;
  }
  static double StepOf(const std::vector<double>& ticks) {
    return ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
  }

  std::string Levels() const {
    std::string svg;
    for (const Level& level : chart_.levels)
      svg += Line(kLeft, Y(level.y), right(), Y(level.y), kSoft, 1.2, " stroke-dasharray=\"2 4\"");
    return svg;
  }
  // On the side where the fewest marks are near the line.
  std::string LevelLabels() const {
    std::string svg;
    for (const Level& level : chart_.levels) {
      const double width = 7.0 * static_cast<double>(level.label.size());
      int n_left = 0, n_right = 0;
      for (const ChartSeries& series : chart_.series) {
        for (const ChartPoint& point : series.points) {
          const double above = Y(level.y) - Y(point.y);
          if (above < -8 || above > 24) continue;
          n_left += X(point.x) < kLeft + width;
          n_right += X(point.x) > right() - width;
        }
      }
      const bool left = n_left < n_right;
      svg += Text(left ? kLeft + 6 : right() - 6, Y(level.y) - 6, level.label,
                  {.anchor = left ? "start" : "end", .size = 13, .colour = kSoft, .halo = true});
    }
    return svg;
  }

  std::string Front() const {
    if (chart_.front.empty()) return "";
    std::vector<std::pair<double, double>> points;
    for (const auto& [x, y] : chart_.front) points.push_back({X(x), Y(y)});
    return Polyline(points, kFrontColour, 11, "");
  }

  std::string Curve(const ChartSeries& series) const {
    if (series.points.size() < 2) return "";
    std::vector<std::pair<double, double>> points;
    for (const ChartPoint& point : series.points) points.push_back({X(point.x), Y(point.y)});
    return Polyline(points, series.style.colour, 1.8, series.style.dash);
  }

  std::string Marks(const ChartSeries& series) const {
    std::string svg;
    for (const ChartPoint& point : series.points) {
      const std::string faint = " stroke-opacity=\"0.45\"";
      if (point.x_error > 0)
        svg += Line(X(point.x - point.x_error), Y(point.y), X(point.x + point.x_error), Y(point.y),
                    series.style.colour, 1.2, faint);
      if (point.y_error > 0)
        svg += Line(X(point.x), Y(point.y - point.y_error), X(point.x), Y(point.y + point.y_error),
                    series.style.colour, 1.2, faint);
    }
    for (const ChartPoint& point : series.points) {
      absl::StrAppend(&svg, "<g>", point.note.empty() ? "" : "<title>", Escaped(point.note),
                      point.note.empty() ? "" : "</title>",
                      Shape(series.style.marker, X(point.x), Y(point.y), series.style.colour), "</g>\n");
    }
    return svg;
  }

  const CurveChart& chart_;
  Range x_, y_;
};

std::string Legend(const CurveChart& chart) {
  const double x = kWidth - kLegendWidth;
  double y = kTop + 8;
  std::string svg;
  for (const ChartSeries& series : chart.series) {
    if (series.points.empty()) continue;
    if (series.points.size() > 1)
      svg += Polyline({{x, y}, {x + 34, y}}, series.style.colour, 1.8, series.style.dash);
    absl::StrAppend(&svg, Shape(series.style.marker, x + 17, y, series.style.colour), "\n");
    svg += Text(x + 43, y + 4.5, series.name);
    y += kLegendRow;
  }
  if (!chart.front.empty()) {
    svg += Polyline({{x + 4, y}, {x + 30, y}}, kFrontColour, 11, "");
    svg += Text(x + 43, y + 4.5, chart.front_name);
  }
  return svg;
}

std::string Titles(const std::string& title, const std::string& subtitle) {
  return Text(16, 25, title, {.size = 16, .bold = true}) +
         Text(16, 46, subtitle, {.size = 13, .colour = kSoft});
}

// Black or white, whichever reads better on the colour.
const char* InkOn(const std::string& colour) {
  const auto part = [&](size_t at) { return std::stoi(colour.substr(at, 2), nullptr, 16); };
  return 0.299 * part(1) + 0.587 * part(3) + 0.114 * part(5) > 140 ? kInk : "#ffffff";
}

}  // namespace

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::vector<double> Ticks(double min, double max, int wanted) {
  const double rough = (max - min) / wanted;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= rough) step = factor * power;
  }
  std::vector<double> ticks;
  for (double i = std::ceil(min / step - 1e-9); i * step <= max + 1e-9 * step; ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<std::pair<double, double>> ParetoFront(std::vector<std::pair<double, double>> points,
                                                   bool small_y) {
  const double sign = small_y ? -1 : 1;
  std::sort(points.begin(), points.end(), [&](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : sign * a.second > sign * b.second;
  });
  std::vector<std::pair<double, double>> front;
  for (const auto& point : points) {
    if (front.empty() || sign * point.second > sign * front.back().second) front.push_back(point);
  }
  return front;
}

std::string Svg(const CurveChart& chart) {
  return absl::StrCat(Open(kWidth, kHeight, absl::StrCat(chart.title, ". ", chart.subtitle)),
                      Titles(chart.title, chart.subtitle), Plot(chart).Svg(), Legend(chart), "</svg>\n");
}

std::string Svg(const BarChart& chart) {
  constexpr double kNames = 250, kRow = 25, kRight = 104, kHead = 88;
  const double height = kHead + kRow * static_cast<double>(chart.bars.size()) + 52;
  double longest = 0;
  for (const Bar& bar : chart.bars) {
    double total = 0;
    for (const double part : bar.parts) total += part;
    longest = std::max(longest, total);
  }
  if (longest == 0) longest = 1;
  const double scale = (kWidth - kNames - kRight) / longest;
  std::string svg = Open(kWidth, height, absl::StrCat(chart.title, ". ", chart.subtitle));
  svg += Titles(chart.title, chart.subtitle);
  double x = kNames;
  for (size_t i = 0; i < chart.parts.size(); ++i) {
    absl::StrAppend(&svg, "<rect x=\"", Px(x), "\" y=\"60\" width=\"13\" height=\"13\" fill=\"",
                    chart.colours[i], "\"/>\n", Text(x + 18, 71.5, chart.parts[i], {.size = 13}));
    x += 34 + 7.2 * static_cast<double>(chart.parts[i].size());
  }
  const double bottom = height - 50;
  const std::vector<double> ticks = Ticks(0, longest, 5);
  for (const double tick : ticks) {
    svg += Line(kNames + tick * scale, kHead - 4, kNames + tick * scale, bottom, kGrid, 1);
    svg += Text(kNames + tick * scale, bottom + 18, TickText(tick, ticks[1] - ticks[0], chart.percent),
                {.anchor = "middle", .size = 13});
  }
  svg += Text(kNames + longest * scale / 2, height - 10, chart.axis, {.anchor = "middle"});
  double y = kHead;
  for (const Bar& bar : chart.bars) {
    svg += Text(kNames - 10, y + 15, bar.name, {.anchor = "end"});
    double left = kNames;
    for (size_t i = 0; i < bar.parts.size(); ++i) {
      const double width = bar.parts[i] * scale;
      const std::string amount = chart.percent ? absl::StrFormat("%.0f %%", 100 * bar.parts[i])
                                               : absl::StrFormat("%.2f", bar.parts[i]);
      absl::StrAppend(&svg, "<g><title>", Escaped(absl::StrCat(bar.name, ", ", chart.parts[i], ": ", amount)),
                      "</title><rect x=\"", Px(left), "\" y=\"", Px(y), "\" width=\"", Px(width),
                      "\" height=\"20\" fill=\"", chart.colours[i],
                      "\" stroke=\"#ffffff\" stroke-width=\"0.8\"/></g>\n");
      if (width > 38)
        svg += Text(left + width / 2, y + 14.5, amount,
                    {.anchor = "middle", .size = 12, .colour = InkOn(chart.colours[i])});
      left += width;
    }
    svg += Text(left + 6, y + 15, bar.total, {.size = 13});
    y += kRow;
  }
  return svg + "</svg>\n";
}

}  // namespace tandem
