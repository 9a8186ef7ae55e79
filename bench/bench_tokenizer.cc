// Speed of one thread's Encode and Decode:
//   build/bench_tokenizer TOKENIZER.json TEXT_FILE [flags of Google Benchmark: --help]
#include <benchmark/benchmark.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/model/tokenizer.h"

namespace {

// Rates are of text: bytes that Encode reads, bytes that Decode writes.
void Encode(benchmark::State& state, const tandem::Tokenizer* tokenizer, const std::string* text) {
  size_t n_ids = 0;
  for (auto _ : state) n_ids = tokenizer->Encode(*text)->size();
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text->size()));
  state.counters["ids"] = static_cast<double>(n_ids);
}

void Decode(benchmark::State& state, const tandem::Tokenizer* tokenizer, const std::vector<int32_t>* ids) {
  size_t n_bytes = 0;
  for (auto _ : state) n_bytes = tokenizer->Decode(*ids).size();
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(n_bytes));
}

void Load(benchmark::State& state, const std::string* path) {
  for (auto _ : state) benchmark::DoNotOptimize(tandem::Tokenizer::Load(*path));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc != 3) {
    std::cerr << "usage: bench_tokenizer TOKENIZER.json TEXT_FILE\n";
    return 2;
  }
  const std::string path = argv[1];
  const auto tokenizer = tandem::Tokenizer::Load(path);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status().message() << "\n";
    return 4;
  }
  std::ifstream file(argv[2], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto ids = (*tokenizer)->Encode(text);
  if (!ids.ok()) {
    std::cerr << ids.status().message() << "\n";
    return 1;
  }
  benchmark::RegisterBenchmark("load", Load, &path)->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("encode", Encode, tokenizer->get(), &text)->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("decode", Decode, tokenizer->get(), &*ids)->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
