// What Hugging Face `tokenizers` knows of Unicode and the libraries here do not: its canonical forms (Unicode
// 9) and the categories that its regexes have (Unicode 16) over PCRE2 10.42's (Unicode 14). Read-only data.
#ifndef TANDEM_RUNTIME_MODEL_UNICODE_TABLES_H_
#define TANDEM_RUNTIME_MODEL_UNICODE_TABLES_H_

#include <cstdint>

namespace tandem {

// One step; `second` is 0 for a code point that stands for another one. Ordered by `composite`.
struct Decomposition {
  char32_t composite, first, second;
};
struct CombiningClass {
  char32_t first, last;
  uint8_t value;
};
// Of the code points first to last, with the two letters of their general category.
struct LaterCategory {
  char32_t first, last;
  char major, minor;
};

// kCompositions: indices into kDecompositions, of the pairs that compose, ordered by (first, second).
// kComposingStarters: the starters that are second in one of those, Hangul excepted.
#include "runtime/model/unicode_tables.inc"

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_UNICODE_TABLES_H_
