// The tail of a round: everything after the target's logits are there (laws, rule, resampling, settle, publish), on a CUDA
// device or on the CPU, for a vocabulary and a rule.
//
//   build-cuda/bench_tail [DEVICE [VOCABULARY [GAMMA [RULE [TEMPERATURE [TOP_P]]]]]]
//
// Prints microseconds of each step and of the whole: the time of a program that holds it many times, over that number.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "runtime/tail_bench.h"

int main(int argc, char** argv) {
  using tandem::Program;
  const auto arg = [&](int i, const char* otherwise) { return std::string(argc > i ? argv[i] : otherwise); };
  const auto must = [](auto result) {
    if (!result.ok()) {
      std::fprintf(stderr, "%s\n", std::string(result.status().message()).c_str());
      std::exit(2);
    }
    return *std::move(result);
  };
  const tandem::Device device = must(tandem::ParseDevice(arg(1, "cuda:0")));
  const int32_t n_vocab = std::atoi(arg(2, "128256").c_str());
  const int32_t gamma = std::atoi(arg(3, "4").c_str());
  const std::string rule = arg(4, "opt");
  const tandem::Sampling sampling = {.temperature = static_cast<float>(std::atof(arg(5, "1").c_str())),
                                     .top_p = static_cast<float>(std::atof(arg(6, "1").c_str()))};
  const auto tail = must(tandem::TailBench::Create({.executor = {.device = device},
                                                    .n_vocab = n_vocab,
                                                    .gamma = gamma,
                                                    .rule = rule,
                                                    .sampling = sampling}));
  std::printf("tail of a round: V %d, gamma %d, rule %s, T %g, top_p %g, %s\n", n_vocab, gamma, rule.c_str(),
              sampling.temperature, sampling.top_p, Name(device).c_str());
  const auto line = [&](const std::string& what, const std::function<void(Program&)>& add) {
    std::printf("  %-28s %7.2f us\n", what.c_str(), must(tail->Us(add)));
  };
  line("law, " + std::to_string(gamma + 1) + " rows", [&](Program& p) { tail->Law(p); });
  line("judge", [&](Program& p) { tail->Judge(p); });
  line("settle", [&](Program& p) { tail->Settle(p); });
  line("publish", [&](Program& p) { tail->Publish(p); });
  line("all from law to publish", [&](Program& p) {
    tail->Law(p);
    tail->Judge(p);
    tail->Settle(p);
    tail->Publish(p);
  });
  line("a draft's law and token", [&](Program& p) { tail->Sample(p); });
  std::printf("  (the last round kept %d of %d)\n", tail->last().n_keep, tail->last().n_proposed);
  return 0;
}
