#include "runtime/model/nfc.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "runtime/model/unicode_tables.h"
#include "runtime/model/utf8.h"

namespace tandem {
namespace {

// Below this, no code point combines with what is before it.
constexpr char32_t kFirstCombining = 0x300;

// Hangul syllables are arithmetic (Unicode 16, section 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr char32_t kNLeads = 19, kNVowels = 21, kNTails = 28, kNSyllables = kNLeads * kNVowels * kNTails;

struct Mark {
  char32_t code_point;
  uint8_t combining_class;
};

uint8_t CombiningClassOf(char32_t c) {
  if (c < kFirstCombining) return 0;
  const auto* range = std::lower_bound(std::begin(kCombiningClasses), std::end(kCombiningClasses), c,
                                       [](const CombiningClass& r, char32_t c) { return r.last < c; });
  return range != std::end(kCombiningClasses) && range->first <= c ? range->value : 0;
}

const Decomposition* FindDecomposition(char32_t c) {
  const auto* row = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                                     [](const Decomposition& d, char32_t c) { return d.composite < c; });
  return row != std::end(kDecompositions) && row->composite == c ? row : nullptr;
}

// The composite of a pair, or 0.
char32_t Compose(char32_t first, char32_t second) {
  if (first - kLead < kNLeads && second - kVowel < kNVowels) {
    return kSyllable + ((first - kLead) * kNVowels + (second - kVowel)) * kNTails;
  }
  if (first - kSyllable < kNSyllables && (first - kSyllable) % kNTails == 0 && second > kTail &&
      second - kTail < kNTails) {
    return first + (second - kTail);
  }
  const auto* row =
      std::lower_bound(std::begin(kCompositions), std::end(kCompositions), std::pair(first, second),
                       [](uint16_t i, std::pair<char32_t, char32_t> pair) {
                         return std::pair(kDecompositions[i].first, kDecompositions[i].second) < pair;
                       });
  if (row == std::end(kCompositions)) return 0;
  const Decomposition& found = kDecompositions[*row];
  return found.first == first && found.second == second ? found.composite : 0;
}

void Decompose(char32_t c, std::vector<Mark>& out) {
  if (c - kSyllable < kNSyllables) {
    const char32_t index = c - kSyllable;
    out.push_back({kLead + index / (kNVowels * kNTails), 0});
    out.push_back({kVowel + index % (kNVowels * kNTails) / kNTails, 0});
    if (index % kNTails) out.push_back({kTail + index % kNTails, 0});
    return;
  }
  const Decomposition* row = FindDecomposition(c);
  if (row == nullptr) {
    out.push_back({c, CombiningClassOf(c)});
    return;
  }
  Decompose(row->first, out);  // at most three deep, as the data is
  if (row->second) Decompose(row->second, out);
}

// Whether `c` can stand in a normal form whatever is around it.
bool IsInert(char32_t c) {
  if (c < kFirstCombining) return true;
  if (CombiningClassOf(c) != 0 || (c >= kVowel && c < kTail + kNTails)) return false;
  if (c - kSyllable < kNSyllables) return true;
  if (std::binary_search(std::begin(kComposingStarters), std::end(kComposingStarters), c)) return false;
  const Decomposition* row = FindDecomposition(c);
  return row == nullptr || (row->second != 0 && Compose(row->first, row->second) == c);
}

}  // namespace

std::optional<std::string> NormalizeNfc(std::string_view text) {
  bool inert = true;
  for (size_t at = 0; at < text.size() && inert;) inert = IsInert(NextCodePoint(text, at));
  if (inert) return std::nullopt;

  std::vector<Mark> marks;
  marks.reserve(text.size());
  for (size_t at = 0; at < text.size();) Decompose(NextCodePoint(text, at), marks);

  for (auto run = marks.begin(); run != marks.end();) {
    if (run->combining_class == 0) {
      ++run;
      continue;
    }
    const auto end = std::find_if(run, marks.end(), [](const Mark& m) { return m.combining_class == 0; });
    std::stable_sort(run, end,
                     [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    run = end;
  }

  // A mark joins the last starter unless something of its class or a starter stands between (UAX 15, D117).
  size_t n_kept = 0;
  size_t starter = marks.size();  // none yet
  for (size_t i = 0; i < marks.size(); ++i) {
    const Mark mark = marks[i];
    if (starter < n_kept) {
      const bool adjacent = starter + 1 == n_kept;
      if (adjacent || (marks[n_kept - 1].combining_class != 0 &&
                       marks[n_kept - 1].combining_class < mark.combining_class)) {
        if (const char32_t composite = Compose(marks[starter].code_point, mark.code_point)) {
          marks[starter].code_point = composite;
          continue;
        }
      }
    }
    if (mark.combining_class == 0) starter = n_kept;
    marks[n_kept++] = mark;
  }

  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < n_kept; ++i) AppendUtf8(marks[i].code_point, out);
  return out;
}

}  // namespace tandem
