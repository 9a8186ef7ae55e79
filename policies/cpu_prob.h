// p(v) and p1(v) of one token, as the CPU's judge and deferral test ask for them.
#ifndef TANDEM_POLICIES_CPU_PROB_H_
#define TANDEM_POLICIES_CPU_PROB_H_

#include "kernels/law/law.h"

namespace tandem {

inline float CpuProb(const Law& law, int32_t v) {
  float p = 0;
  LawProbs(law, v, v + 1, &p);
  return p;
}
inline float CpuProb1(const Law& law, int32_t v) {
  float p = 0;
  LawProbs1(law, v, v + 1, &p);
  return p;
}

}  // namespace tandem

#endif  // TANDEM_POLICIES_CPU_PROB_H_
