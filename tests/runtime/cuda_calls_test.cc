// What the host asks of CUDA while rounds run: one graph and one event a round, for however many slots it is, the same once
// more where sequences get more pages, and nothing that waits, allocates or copies.
// The calls are counted where the linker wraps them.
// ctest-link: -Wl,--wrap=cudaMalloc,--wrap=cudaFree,--wrap=cudaHostAlloc,--wrap=cudaMemcpy,--wrap=cudaMemcpyAsync
// ctest-link: -Wl,--wrap=cudaMemset,--wrap=cudaDeviceSynchronize,--wrap=cudaStreamSynchronize
// ctest-link: -Wl,--wrap=cudaEventSynchronize,--wrap=cudaGraphLaunch,--wrap=cudaLaunchKernelExC,--wrap=cudaEventRecord
#include <gtest/gtest.h>

#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

#ifdef TANDEM_CUDA
#include <cuda_runtime.h>

namespace {

struct Calls {
  int graphs = 0;
  int events = 0;
  int others = 0;  // that a round must not make
} calls;

}  // namespace

#define TANDEM_WRAP(counter, name, parameters, arguments) \
  extern "C" cudaError_t __real_##name parameters;        \
  extern "C" cudaError_t __wrap_##name parameters {       \
    ++calls.counter;                                      \
    return __real_##name arguments;                       \
  }
TANDEM_WRAP(graphs, cudaGraphLaunch, (cudaGraphExec_t graph, cudaStream_t stream), (graph, stream))
TANDEM_WRAP(events, cudaEventRecord, (cudaEvent_t event, cudaStream_t stream), (event, stream))
TANDEM_WRAP(others, cudaMalloc, (void** data, size_t bytes), (data, bytes))
TANDEM_WRAP(others, cudaFree, (void* data), (data))
TANDEM_WRAP(others, cudaHostAlloc, (void** data, size_t bytes, unsigned flags), (data, bytes, flags))
TANDEM_WRAP(others, cudaMemcpy, (void* to, const void* from, size_t bytes, cudaMemcpyKind kind),
            (to, from, bytes, kind))
TANDEM_WRAP(others, cudaMemcpyAsync,
            (void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream),
            (to, from, bytes, kind, stream))
TANDEM_WRAP(others, cudaMemset, (void* data, int value, size_t bytes), (data, value, bytes))
TANDEM_WRAP(others, cudaDeviceSynchronize, (), ())
TANDEM_WRAP(others, cudaStreamSynchronize, (cudaStream_t stream), (stream))
TANDEM_WRAP(others, cudaEventSynchronize, (cudaEvent_t event), (event))
TANDEM_WRAP(others, cudaLaunchKernelExC, (const cudaLaunchConfig_t* config, const void* kernel, void** args),
            (config, kernel, args))
#endif  // TANDEM_CUDA

namespace tandem {
namespace {

#ifdef TANDEM_CUDA
// Counts from the 5th round that it reads to the 25th.
class Counter : public EngineListener {
 public:
  void OnRound(std::span<const SlotRecord> slots) override { n_slots = slots.size(); }
  bool Cancelled() override {
    ++n_rounds;
    if (n_rounds == 5) {
      first = calls;
      n_first_slots = n_slots;
    }
    if (n_rounds == 25) {
      last = calls;
      n_last_slots = n_slots;
    }
    return false;
  }
  int n_rounds = 0;
  Calls first, last;
  size_t n_slots = 0, n_first_slots = 0, n_last_slots = 0;  // of a round
};

// Of two sequences, the second of which has `n_new` tokens.
void CountCalls(int32_t page_size, int64_t cache_tokens, int32_t n_new, bool time_phases, Counter* counter) {
  PairSpec pair{.target = {.model = HashTarget(kCudaDevice)},
                .draft = ModelSpec{.model = HashDraft(kCudaDevice)}};
  const EngineOptions options{.n_slots = 2,
                              .gamma = 3,
                              .max_context = 512,
                              .page_size = page_size,
                              .cache_tokens = cache_tokens,
                              .time_phases = time_phases};
  auto engine = MakeEngine(options, pair, MakePolicy());
  EXPECT_GT(calls.others, 0);  // the wrapping works
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(engine
                    ->Submit({.prompt = SomePrompt(9, i),
                              .sampling = {.temperature = 1},
                              .max_new_tokens = i == 0 ? 200 : n_new})
                    .ok());
  }
  std::vector<RequestResult> results;
  ASSERT_TRUE(engine->Run(counter, &results).ok());
  ASSERT_GT(counter->n_rounds, 25);
  for (const RequestResult& result : results) ASSERT_EQ(result.counts.num_preemptions, 0);
  EXPECT_EQ(engine->times().any(), time_phases);
}
#endif  // TANDEM_CUDA

// With the stamps of a trace or a bench too.
class CudaCalls : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(, CudaCalls, testing::Bool(),
                         [](const auto& info) { return info.param ? "Stamped" : "Plain"; });

TEST_P(CudaCalls, ARoundIsOneGraphAndOneEvent) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
#ifdef TANDEM_CUDA
  Counter counter;
  CountCalls(16, 0, 200, GetParam(), &counter);
  EXPECT_EQ(counter.last.graphs - counter.first.graphs, 20);
  EXPECT_EQ(counter.last.events - counter.first.events, 20);
  EXPECT_EQ(counter.last.others - counter.first.others, 0);
  EXPECT_EQ(counter.n_last_slots, 2u);
#endif
}

// The second sequence ends after 5 to 20 rounds, and the rounds that follow are for one slot.
TEST_P(CudaCalls, ASmallerRoundIsNoMore) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
#ifdef TANDEM_CUDA
  Counter counter;
  CountCalls(16, 0, 20, GetParam(), &counter);
  EXPECT_EQ(counter.n_first_slots, 2u);
  EXPECT_EQ(counter.n_last_slots, 1u);
  EXPECT_EQ(counter.last.graphs - counter.first.graphs, 20);
  EXPECT_EQ(counter.last.events - counter.first.events, 20);
  EXPECT_EQ(counter.last.others - counter.first.others, 0);
#endif
}

// The cache does not hold two of the longest, so that pages are handed out as sequences grow; what they need is there.
TEST_P(CudaCalls, MorePagesAreAGraphAndAnEvent) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
#ifdef TANDEM_CUDA
  Counter counter;
  CountCalls(2, 2 * 512 - 2, 200, GetParam(), &counter);
  const int n_graphs = counter.last.graphs - counter.first.graphs;
  EXPECT_GT(n_graphs, 20);
  EXPECT_LE(n_graphs, 40);
  EXPECT_EQ(counter.last.events - counter.first.events, n_graphs);
  EXPECT_EQ(counter.last.others - counter.first.others, 0);
#endif
}

}  // namespace
}  // namespace tandem
