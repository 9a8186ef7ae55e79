// Bpe: byte-pair merging of one word, as Hugging Face's BPE model does it: of the pairs that can merge, the
// one of the lowest rank, and of those the leftmost, until none can. Ids only; what they spell is the
// Tokenizer's.
//
// Filled at loading, const afterwards; any thread, each with its own BpeScratch.
#ifndef TANDEM_RUNTIME_MODEL_BPE_H_
#define TANDEM_RUNTIME_MODEL_BPE_H_

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Working memory of Encode, kept from word to word.
struct BpeScratch {
  struct Symbol {
    int32_t id;        // or kMerged
    int32_t previous;  // index, or -1
    int32_t next;      // index, or the number of symbols
  };
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;  // rank << 32 | index of the left symbol; the smallest on top
};

struct Bpe {
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  std::array<int32_t, 256> byte_ids;            // -1: not in the vocabulary
  int32_t unknown_id = -1;                      // stands for a byte without an id; -1: such a byte is dropped
  bool fuse_unknown = false;                    // one unknown_id for a run of them
  bool ignore_merges = false;                   // a word that is a token is that token
  absl::flat_hash_map<uint64_t, Merge> merges;  // by PairKey
  absl::flat_hash_map<std::string, int32_t> words;  // by the bytes; filled only if ignore_merges

  // Appends the ids of `word`. O(n log n) in its bytes. REQUIRES: fewer than 2^31 bytes.
  void Encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_BPE_H_
