// Where every random number comes from: Philox4x32-10 (Salmon et al., SC 2011) of a key that names the number's use.
//
// A key holds the committed length at the round's START and the offset in the round, not the absolute position: in block
// verification the number of kept tokens depends on later coins, and a key by position would draw those again in the
// next round (biased). Rules and kernels hold no generator: a uniform is a function of its key.
#ifndef TANDEM_RUNTIME_CORE_UNIFORMS_H_
#define TANDEM_RUNTIME_CORE_UNIFORMS_H_

#include <cstdint>

#include "runtime/core/platform.h"

namespace tandem {

enum class Purpose : uint32_t { kDraft = 0, kKeep = 1, kReplace = 2 };

struct UniformKey {
  uint64_t seed = 0;
  uint64_t sequence = 0;  // the request's own number, not its slot
  int32_t base = 0;       // committed length at the round's start
  int32_t offset = 0;     // position in the round, from 0
  Purpose purpose = Purpose::kDraft;

  TANDEM_HD friend bool operator==(const UniformKey& a, const UniformKey& b) {
    return a.seed == b.seed && a.sequence == b.sequence && a.base == b.base && a.offset == b.offset &&
           a.purpose == b.purpose;
  }
};

struct Philox4x32 {
  uint32_t word[4];
};

TANDEM_HD inline Philox4x32 Philox(Philox4x32 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {
        {static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// In [0, 1), a multiple of 2^-32.
TANDEM_HD inline double UniformOf(const UniformKey& key) {
  const Philox4x32 counter = {{static_cast<uint32_t>(key.base),
                               static_cast<uint32_t>(key.offset) << 2 | static_cast<uint32_t>(key.purpose),
                               static_cast<uint32_t>(key.sequence),
                               static_cast<uint32_t>(key.sequence >> 32)}};
  const Philox4x32 bits =
      Philox(counter, static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
  return bits.word[0] * (1.0 / 4294967296.0);
}

// UniformProbe: takes the place of the generator so that a caller can enumerate every outcome exactly (`tandem rules
// check`). Draw() answers for a key; after the decision Cell() is told the interval [low, high) of values, around the
// answer, for which the decision would have been the same. Host only; one thread at a time.
class UniformProbe {
 public:
  virtual ~UniformProbe() = default;
  virtual double Draw(const UniformKey& key) = 0;
  virtual void Cell(const UniformKey& key, double low, double high) = 0;
};

// UniformTable: a probe for steps that run where the host's code cannot: plain memory that both see. The host fills in
// the numbers before a run; a key that is not among them gives 0, as a probe gives for one it has not been asked for.
// Steps write down the cells of their decisions, and the host reads them after the run. Slow; for a few numbers. Of
// several, each serves the sequences of some seeds.
struct UniformTable {
  static constexpr int kCapacity = 64;
  struct Number {
    UniformKey key;
    double value = 0;
  };
  struct Cell {
    UniformKey key;
    double low = 0, high = 1;
  };
  int32_t n_numbers = 0;
  int32_t n_cells = 0;  // more than kCapacity: those past it were lost
  Number numbers[kCapacity];
  Cell cells[kCapacity];
};

// What steps are handed: the generator, or a probe or tables in its place.
struct Uniforms {
  UniformProbe* probe = nullptr;
  UniformTable* tables = nullptr;  // [n_tables]
  int32_t n_tables = 1;

  // Where the numbers of a key are.
  TANDEM_HD UniformTable& TableOf(const UniformKey& key) const { return tables[key.seed % n_tables]; }

  TANDEM_HD double Draw(const UniformKey& key) const {
    if (tables != nullptr) {
      const UniformTable& table = TableOf(key);
      for (int32_t i = 0; i < table.n_numbers; ++i) {
        if (table.numbers[i].key == key) return table.numbers[i].value;
      }
      return 0;
    }
#ifndef __CUDA_ARCH__
    if (probe != nullptr) return probe->Draw(key);
#endif
    return UniformOf(key);
  }
  // REQUIRES, with tables: no two threads at a time in one of them.
  TANDEM_HD void Cell(const UniformKey& key, double low, double high) const {
    if (tables != nullptr) {
      UniformTable& table = TableOf(key);
      const int32_t i = table.n_cells++;
      if (i < UniformTable::kCapacity) table.cells[i] = {key, low, high};
      return;
    }
#ifndef __CUDA_ARCH__
    if (probe != nullptr) probe->Cell(key, low, high);
#endif
  }
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_UNIFORMS_H_
