#include "runtime/read_rate.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "runtime/core/buffer.h"
#include "runtime/core/cuda.h"
#include "runtime/core/worker.h"
#include "runtime/model/planted_fill.h"
#include "runtime/program_timer.h"
#include "runtime/scheduler.h"

namespace tandem {
namespace {

constexpr int kPasses = 7;

uint64_t Sum(const uint64_t* words, int64_t n) {
  uint64_t sums[4] = {};
  for (int64_t i = 0; i + 4 <= n; i += 4) {
    for (int64_t j = 0; j < 4; ++j) sums[j] += words[i + j];
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

double ReadRateCpu(int n_threads) {
  std::vector<uint64_t> words(size_t{1} << 25, 1);
  std::atomic<uint64_t> sum{0};  // so that the reading is not left out
  std::vector<double> seconds;
  for (int pass = 0; pass <= kPasses; ++pass) {
    const int64_t begin = NowNs();
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; ++i) {
      threads.emplace_back([&, i] {
        const Share share = ShareOf(static_cast<int64_t>(words.size()), {i, n_threads}, 64);
        sum += Sum(words.data() + share.begin, share.end - share.begin);
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (pass > 0) seconds.push_back(static_cast<double>(NowNs() - begin) * 1e-9);
  }
  TANDEM_CHECK(sum == (kPasses + 1) * words.size());
  return static_cast<double>(words.size() * sizeof(uint64_t)) / MedianOf(std::move(seconds));
}

}  // namespace

#ifndef TANDEM_CUDA
double ReadRateCuda(Device, const void*, int64_t) { TANDEM_CHECK(false) << "no CUDA in this build"; }
#endif

absl::StatusOr<double> MeasureReadRate(Device device, int n_threads) {
  if (!device.is_cuda()) return ReadRateCpu(n_threads);
  constexpr int64_t kMost = int64_t{8} << 30, kLeast = int64_t{1} << 30;
  const int64_t bytes = std::min(kMost, cuda::Memory(device).free / 2) / 4096 * 4096;
  if (bytes < kLeast) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Name(device), ": no room for a buffer of 1 GiB to read; free some of its memory"));
  }
  const Buffer buffer(static_cast<size_t>(bytes), device);
  // Like weights: zeros take less power, and a device may run faster on them.
  planted::FillRandomCuda(device, reinterpret_cast<uint16_t*>(buffer.data()), bytes / 2, 1, 0.02f);
  return ReadRateCuda(device, buffer.data(), bytes);
}

}  // namespace tandem
