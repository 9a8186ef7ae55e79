// The nearest valid name to one that a user wrote: what an error about an unknown name offers.
#ifndef TANDEM_RUNTIME_NAMES_H_
#define TANDEM_RUNTIME_NAMES_H_

#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Fewest insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string
// alignment).
int EditDistance(std::string_view a, std::string_view b);

// The nearest of `names`; empty if none is near enough to be meant (more than a third of its letters differ).
std::string NearestName(std::string_view got, const std::vector<std::string>& names);

// "; did you mean X?" for the nearest name, else "; expected one of A, B, C".
std::string Suggestion(std::string_view got, const std::vector<std::string>& names);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_NAMES_H_
