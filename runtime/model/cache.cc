#include "runtime/model/cache.h"

#include <algorithm>

namespace tandem {
namespace {

int64_t PagesFor(int64_t n_tokens, int32_t page_size) { return (n_tokens + page_size - 1) / page_size; }

}  // namespace

PagedCache::PagedCache(const ModelShape& shape, const CacheOptions& options)
    : options_(options),
      n_pages_(PagesFor(options.n_tokens, options.page_size)),
      max_pages_(static_cast<int32_t>(PagesFor(options.max_context, options.page_size))),
      arena_(options.device),
      staging_(options.device, Access::kShared),
      page_table_(arena_.New<int32_t>(static_cast<size_t>(options.n_slots) * max_pages_)),
      staged_(staging_.New<int32_t>(static_cast<size_t>(options.n_slots) * max_pages_)),
      held_(options.n_slots) {
  const size_t layer_bytes = static_cast<size_t>(n_pages_) * options.page_size * shape.n_kv_heads *
                             shape.head_dim * SizeOf(options.dtype);
  for (int32_t layer = 0; layer < shape.n_layers; ++layer) {
    layers_.push_back({.k = arena_.New<std::byte>(layer_bytes),
                       .v = arena_.New<std::byte>(layer_bytes),
                       .dtype = options.dtype,
                       .page_size = options.page_size,
                       .n_kv_heads = shape.n_kv_heads,
                       .head_dim = shape.head_dim,
                       .page_table = page_table_,
                       .max_pages = max_pages_});
  }
  free_.reserve(n_pages_);
  for (int64_t page = n_pages_; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
}

bool PagedCache::Take(int32_t slot, int64_t n_tokens) {
  const int64_t n_pages = PagesFor(n_tokens, options_.page_size);
  TANDEM_CHECK(n_pages <= max_pages_) << n_tokens << " positions, of at most " << options_.max_context;
  std::vector<int32_t>& held = held_[slot];
  const int64_t n_more = n_pages - static_cast<int64_t>(held.size());
  if (n_more > static_cast<int64_t>(free_.size())) return false;
  for (int64_t i = 0; i < n_more; ++i) {
    held.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

bool PagedCache::Reserve(int32_t slot, int64_t n_tokens) {
  TANDEM_CHECK(held_[slot].empty()) << "slot " << slot << " has pages";
  if (!Take(slot, n_tokens)) return false;
  std::copy(held_[slot].begin(), held_[slot].end(), staged_ + static_cast<int64_t>(slot) * max_pages_);
  return true;
}

bool PagedCache::Grow(int32_t slot, int64_t n_tokens, std::vector<PageTableEntry>* entries) {
  const std::vector<int32_t>& held = held_[slot];
  size_t i = held.size();
  if (!Take(slot, n_tokens)) return false;
  for (int32_t* row = page_table_ + static_cast<int64_t>(slot) * max_pages_; i < held.size(); ++i) {
    entries->push_back({row + i, held[i]});
  }
  return true;
}

void PagedCache::Release(int32_t slot) {
  std::vector<int32_t>& held = held_[slot];
  free_.insert(free_.end(), held.rbegin(), held.rend());
  held.clear();
}

PageTableRow PagedCache::page_row(int32_t slot) const {
  const int64_t first = static_cast<int64_t>(slot) * max_pages_;
  return {staged_ + first, page_table_ + first, max_pages_};
}

int64_t PagedCache::BytesPerToken(const ModelShape& shape, DType dtype) {
  return int64_t{2} * shape.n_layers * shape.n_kv_heads * shape.head_dim *
         static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace tandem
