#include "runtime/names.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

namespace tandem {

int EditDistance(std::string_view a, std::string_view b) {
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before = last;
    last = row;
  }
  return last[b.size()];
}

std::string NearestName(std::string_view got, const std::vector<std::string>& names) {
  std::string nearest;
  int best = 0;
  for (const std::string& name : names) {
    const int distance = EditDistance(got, name);
    const int most = std::max<int>(1, static_cast<int>(name.size()) / 3);
    if (distance <= most && (nearest.empty() || distance < best)) {
      nearest = name;
      best = distance;
    }
  }
  return nearest;
}

std::string Suggestion(std::string_view got, const std::vector<std::string>& names) {
  const std::string nearest = NearestName(got, names);
  if (!nearest.empty()) return absl::StrCat("; did you mean ", nearest, "?");
  return names.empty() ? "" : absl::StrCat("; expected one of ", absl::StrJoin(names, ", "));
}

}  // namespace tandem
