#include "runtime/model/bpe.h"

#include <absl/strings/string_view.h>

#include <algorithm>
#include <functional>

namespace tandem {
namespace {

constexpr int32_t kMerged = -1;

void AppendSymbol(int32_t id, std::vector<BpeScratch::Symbol>& symbols) {
  const int32_t index = static_cast<int32_t>(symbols.size());
  symbols.push_back({id, index - 1, index + 1});
}

}  // namespace

void Bpe::Encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (ignore_merges) {
    if (const auto it = words.find(absl::string_view(word.data(), word.size())); it != words.end()) {
      ids.push_back(it->second);
      return;
    }
  }

  auto& symbols = scratch.symbols;
  symbols.clear();
  bool after_unknown = false;
  for (const char c : word) {
    const int32_t id = byte_ids[static_cast<uint8_t>(c)];
    if (id >= 0) {
      AppendSymbol(id, symbols);
    } else if (unknown_id >= 0 && !(fuse_unknown && after_unknown)) {
      AppendSymbol(unknown_id, symbols);
    }
    after_unknown = id < 0;
  }

  auto& heap = scratch.heap;
  heap.clear();
  const int32_t n_symbols = static_cast<int32_t>(symbols.size());
  const auto find = [&](int32_t left, int32_t right) {
    const auto it = merges.find(PairKey(symbols[left].id, symbols[right].id));
    return it == merges.end() ? nullptr : &it->second;
  };
  const auto offer = [&](int32_t left, int32_t right) {
    if (const Merge* merge = find(left, right)) {
      heap.push_back(static_cast<uint64_t>(merge->rank) << 32 | static_cast<uint32_t>(left));
      return true;
    }
    return false;
  };
  const auto offer_sorted = [&](int32_t left, int32_t right) {
    if (offer(left, right)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (int32_t i = 0; i + 1 < n_symbols; ++i) offer(i, i + 1);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  while (!heap.empty()) {
    const uint32_t rank = static_cast<uint32_t>(heap.front() >> 32);
    const int32_t at = static_cast<int32_t>(heap.front() & 0xFFFFFFFFu);
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[at];
    if (left.id == kMerged || left.next == n_symbols) continue;
    // The pair may be another one by now; then its own entry is in the heap.
    const Merge* merge = find(at, left.next);
    if (merge == nullptr || merge->rank != rank) continue;
    BpeScratch::Symbol& right = symbols[left.next];
    left.id = merge->id;
    left.next = right.next;
    right.id = kMerged;
    if (left.next < n_symbols) {
      symbols[left.next].previous = at;
      offer_sorted(at, left.next);
    }
    if (left.previous >= 0) offer_sorted(left.previous, at);
  }
  for (int32_t i = 0; i < n_symbols; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace tandem
