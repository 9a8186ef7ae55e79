// Charts as SVG: curves over two axes, and bars of parts. They stand alone (no script, no font, no style sheet), read at
// 840 pixels of width, and tell series apart by shape and dashes as well as by colour. Pure functions.
#ifndef TANDEM_RUNTIME_SWEEP_CHART_H_
#define TANDEM_RUNTIME_SWEEP_CHART_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tandem {

enum class Marker { kCircle, kSquare, kUp, kDiamond, kDown, kPlus, kCross, kStar };

struct SeriesStyle {
  std::string colour = "#000000";
  Marker marker = Marker::kCircle;
  std::string dash;  // as stroke-dasharray; empty: a solid line
};

struct ChartPoint {
  double x = 0, y = 0;
  double x_error = 0, y_error = 0;  // half the length of an error bar; 0: none
  std::string note;                 // shown when pointed at
};

struct ChartSeries {
  std::string name;
  SeriesStyle style;
  std::vector<ChartPoint> points;  // joined in this order
};

// A horizontal line with its meaning written on it.
struct Level {
  double y = 0;
  std::string label;
};

struct Axis {
  std::string label;
  bool percent = false;            // 0.5 is shown as 50 %
  std::optional<double> min, max;  // of what is shown; else what the series need
  bool whole = false;              // ticks at whole numbers only
};

struct CurveChart {
  std::string title;
  std::string subtitle;
  Axis x, y;
  std::vector<ChartSeries> series;
  std::vector<Level> levels;
  std::vector<std::pair<double, double>>
      front;  // the points that no other beats, from left to right; may be empty
  std::string front_name;
};
std::string Svg(const CurveChart& chart);

struct Bar {
  std::string name;
  std::vector<double> parts;
  std::string total;  // written after the bar
};
struct BarChart {
  std::string title;
  std::string subtitle;
  std::string axis;
  bool percent = false;
  std::vector<std::string> parts;  // their names
  std::vector<std::string> colours;
  std::vector<Bar> bars;  // from top to bottom
};
std::string Svg(const BarChart& chart);

// Of points, those that no other equals or beats in both coordinates, from left to right: small x is good, and large y
// (small, if `small_y`).
std::vector<std::pair<double, double>> ParetoFront(std::vector<std::pair<double, double>> points,
                                                   bool small_y);

// Round positions for about `wanted` ticks that lie within [min, max].
std::vector<double> Ticks(double min, double max, int wanted);

// Text as it may stand in XML and HTML.
std::string Escaped(std::string_view text);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_CHART_H_
