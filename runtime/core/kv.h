// KvLayer: one layer of a paged KV cache, as steps see it. A page holds `page_size` positions of every kv head:
//   k, v: [n_pages][n_kv_heads][page_size][head_dim] of `dtype`
// Position t of a slot lies in page page_table[slot * max_pages + t / page_size], at t % page_size.
// The cache (runtime/model/cache.h) owns the memory and the page table.
#ifndef TANDEM_RUNTIME_CORE_KV_H_
#define TANDEM_RUNTIME_CORE_KV_H_

#include <cstddef>
#include <cstdint>

#include "runtime/core/platform.h"
#include "runtime/core/view.h"

namespace tandem {

struct KvLayer {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kF32;
  int32_t page_size = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  const int32_t* page_table = nullptr;  // [n_slots, max_pages]
  int32_t max_pages = 0;

  // Element offset of (slot, kv_head, position) in k and in v.
  TANDEM_HD int64_t offset(int32_t slot, int32_t kv_head, int32_t position) const {
    const int64_t page = page_table[static_cast<int64_t>(slot) * max_pages + position / page_size];
    return ((page * n_kv_heads + kv_head) * page_size + position % page_size) * head_dim;
  }
};

// An entry of a page table, where steps read it, and what belongs there.
struct PageTableEntry {
  int32_t* at = nullptr;
  int32_t page = 0;
};

// A slot's row of a page table, twice: where the host wrote it, and where steps read it once the admit step has copied.
struct PageTableRow {
  const int32_t* staged = nullptr;  // null: there is no such cache
  int32_t* row = nullptr;
  int32_t n_pages = 0;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_KV_H_
