// Worker: which of how many threads runs a step. Work is cut by index into contiguous shares, never by who comes
// first, and no element's arithmetic depends on the cut: a result has the same bits for any number of workers.
#ifndef TANDEM_RUNTIME_CORE_WORKER_H_
#define TANDEM_RUNTIME_CORE_WORKER_H_

#include <algorithm>
#include <cstdint>

namespace tandem {

struct Worker {
  int index = 0;
  int count = 1;
};

struct Share {
  int64_t begin;
  int64_t end;
};

// This worker's share of n items; shares begin at multiples of `granule`.
inline Share ShareOf(int64_t n, Worker worker, int64_t granule = 1) {
  const int64_t n_granules = (n + granule - 1) / granule;
  const int64_t begin = n_granules * worker.index / worker.count * granule;
  const int64_t end = n_granules * (worker.index + 1) / worker.count * granule;
  return {std::min(begin, n), std::min(end, n)};
}

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CORE_WORKER_H_
