// PagedCache: the KV memory of one model for every slot of a batch, in pages of a fixed number of positions.
//
// The host owns it and hands out pages: Reserve before a sequence's first step, Grow while it runs, Release after its last
// step. Steps read the page table in memory of the device's, which steps alone write. Reserve writes the slot's row into
// memory of the host's, and the admit step copies it: so Reserve is called only while no queued admission of that slot is
// unfinished. Grow tells entries by value, which the grow step writes: what was staged stays as it is, so a sequence may
// grow while its admission is still queued. How many positions of a page are valid is not the cache's business but
// SeqState's: settle cuts by lowering a number.
#ifndef TANDEM_RUNTIME_MODEL_CACHE_H_
#define TANDEM_RUNTIME_MODEL_CACHE_H_

#include <cstdint>
#include <vector>

#include "runtime/core/buffer.h"
#include "runtime/core/kv.h"
#include "runtime/model/model.h"

namespace tandem {

struct CacheOptions {
  int32_t n_slots = 1;
  int32_t page_size = 16;
  int64_t n_tokens = 0;     // positions in all, rounded up to pages
  int32_t max_context = 0;  // positions of one sequence
  DType dtype = DType::kF32;
  Device device;
};

class PagedCache {
 public:
  PagedCache(const ModelShape& shape, const CacheOptions& options);

  // Makes room for `n_tokens` positions of the slot; false, changing nothing, if the free pages do not reach.
  // REQUIRES: n_tokens <= max_context; Reserve: the slot has no pages.
  [[nodiscard]] bool Reserve(int32_t slot, int64_t n_tokens);
  // The same for a slot in use: adds to `entries` what the page table lacks, at most one for every page_size positions
  // more than before, rounded up.
  [[nodiscard]] bool Grow(int32_t slot, int64_t n_tokens, std::vector<PageTableEntry>* entries);
  void Release(int32_t slot);

  // Whether every slot may have pages for max_context positions at a time.
  bool HoldsAllSlots() const { return n_pages_ >= int64_t{options_.n_slots} * max_pages_; }
  int64_t free_tokens() const { return static_cast<int64_t>(free_.size()) * options_.page_size; }
  int64_t total_tokens() const { return n_pages_ * options_.page_size; }
  int64_t reserved_tokens(int32_t slot) const {
    return static_cast<int64_t>(held_[slot].size()) * options_.page_size;
  }
  PageTableRow page_row(int32_t slot) const;  // for the admit step
  int64_t bytes() const { return static_cast<int64_t>(arena_.bytes()); }
  static int64_t BytesPerToken(const ModelShape& shape, DType dtype);

  // [n_layers]
  const KvLayer* layers() const { return layers_.data(); }

 private:
  bool Take(int32_t slot, int64_t n_tokens);

  CacheOptions options_;
  int64_t n_pages_;
  int32_t max_pages_;  // of one sequence
  Arena arena_;
  Arena staging_;
  int32_t* page_table_;                     // [n_slots, max_pages]
  int32_t* staged_;                         // [n_slots, max_pages] what Reserve writes
  std::vector<std::vector<int32_t>> held_;  // [n_slots] pages, as in the page table
  std::vector<int32_t> free_;               // a stack
  std::vector<KvLayer> layers_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_MODEL_CACHE_H_
