#ifndef TANDEM_POLICIES_RULES_BILD_H_
#define TANDEM_POLICIES_RULES_BILD_H_

#include <cmath>

#include "policies/rule.h"

namespace tandem::rules {

struct Bild {
  static constexpr RuleInfo kInfo{
      .name = "bild",
      .params = {{"fallback",
                  0,
                  1,
                  0.6f,
                  "hand over where max q1 is under it; drafting stops there too",
                  {0.4f, 0.6f}},
                 {"rollback",
                  0,
                  100,
                  5,
                  "roll back to the first token of which -log p1(x) is over it",
                  {0.5f, 1.5f}}},
      .about =
          "big little decoder: the draft runs until it is unsure, the target rolls back what it finds "
          "unlikely",
      .tests = "q1, p1",
      .fallback = "p",
      .at_zero = "keep x iff max q1 >= fallback and (-log p1(x) <= rollback or x = argmax p)",
      .source = "arXiv 2302.07863"};
  float fallback_below, rollback;

  TANDEM_HD bool defers(const Row& r) const {
    if (r.q1.max < fallback_below) return true;
    return r.x != r.p.argmax && -std::log(r.p1.x) > rollback;
  }
  TANDEM_HD float accept(const Row& r) const { return !defers(r); }
  TANDEM_HD float fallback(const Token& t, const Row&) const { return t.p; }
  TANDEM_HD float draft_stop() const { return fallback_below; }
};

}  // namespace tandem::rules

#endif  // TANDEM_POLICIES_RULES_BILD_H_
