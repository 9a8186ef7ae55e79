// Speed of one thread's Encode and Decode:  build/bench_tokenizer TOKENIZER.json TEXT_FILE
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/model/tokenizer.h"

namespace {

// The fastest of some runs: what the machine's other work slowed down least.
double Seconds(int n_runs, const std::function<void()>& run) {
  double best = 1e30;
  for (int i = 0; i < n_runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: bench_tokenizer TOKENIZER.json TEXT_FILE\n";
    return 2;
  }
  absl::StatusOr<std::unique_ptr<const tandem::Tokenizer>> loaded;
  const double load = Seconds(3, [&] { loaded = tandem::Tokenizer::Load(argv[1]); });
  if (!loaded.ok()) {
    std::cerr << loaded.status().message() << "\n";
    return 4;
  }
  const tandem::Tokenizer& tokenizer = **loaded;
  std::ifstream file(argv[2], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};

  absl::StatusOr<std::vector<int32_t>> ids;
  const double encode = Seconds(20, [&] { ids = tokenizer.Encode(text); });
  if (!ids.ok()) {
    std::cerr << ids.status().message() << "\n";
    return 1;
  }
  std::string decoded;
  const double decode = Seconds(20, [&] { decoded = tokenizer.Decode(*ids); });
  const double mb = static_cast<double>(text.size()) * 1e-6;
  std::printf("%zu bytes, %zu ids of %d: load %.3f s, encode %.1f MB/s, decode %.1f MB/s\n", text.size(),
              ids->size(), tokenizer.n_ids(), load, mb / encode, mb / decode);
}
