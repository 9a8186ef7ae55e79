// Greedy speculation equals plain decoding, bit for bit, also after preemption and recovery: on checkpoints, on a planted
// pair whose text is known, and on the demo pair; every drafter, gamma 1 to 8, batches of 1 to 4, fp32 and bf16. The cache
// holds little more than one request, so all that run beside another are computed again, most of them several times.
// Prompts are longer than a prefill chunk, and a chunk has more rows than the decode class on a CUDA device.
#include <gtest/gtest.h>

#include <cstring>

#include "runtime/model/planted.h"
#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

constexpr ActivationDType kF32 = ActivationDType::kF32;
constexpr ActivationDType kBf16 = ActivationDType::kBf16;
constexpr int32_t kChunk = 72;

struct Case {
  ActivationDType dtype;
  StreamMode streams;
  Device device;
};

class Recovery : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam().device); }
};
INSTANTIATE_TEST_SUITE_P(, Recovery,
                         testing::Values(Case{kF32, StreamMode::kThreaded}, Case{kBf16, StreamMode::kInline},
                                         Case{kF32, StreamMode::kInline, kCudaDevice},
                                         Case{kBf16, StreamMode::kInline, kCudaDevice}),
                         [](const auto& info) {
                           return std::string(info.param.dtype == kF32 ? "Fp32" : "Bf16") +
                                  (info.param.device.is_cuda() ? "Cuda" : "Cpu");
                         });

ModelSpec Load(const std::string& folder, const Case& on) {
  auto model = LoadModel(std::string(TANDEM_SOURCE_DIR "/") + folder, on.device);
  EXPECT_TRUE(model.ok()) << model.status();
  return {.model = *model, .dtype = on.dtype};
}

// Prompts of more than a chunk, and one of a few tokens.
std::vector<Request> Requests(int32_t n_vocab, int32_t n_new) {
  std::vector<Request> requests;
  for (const int32_t n_prompt : {75, 74, 80, 5}) {
    Request request{.id = std::to_string(requests.size()), .max_new_tokens = n_new};
    for (int32_t i = 0; i < n_prompt; ++i)
      request.prompt.push_back(static_cast<int32_t>(HashMix(40 + n_prompt, i) % n_vocab));
    requests.push_back(std::move(request));
  }
  return requests;
}

// A request alone, without a drafter.
RequestResult Plain(const ModelSpec& target, const Request& request) {
  auto engine = MakeEngine({.max_context = 128, .prefill_chunk = kChunk, .log_probs = true},
                           {.target = target}, MakePolicy());
  return RunAll(*engine, {request})[0];
}

// The first two requests fit with what queued rounds may write, up to two of them, and not when one of them has `n_new`
// tokens more: the other is preempted by then.
int64_t TightCache(int32_t n_new, int32_t gamma) {
  const int32_t tokens = 75 + 74 + 2 * 2 * (gamma + 1) + 2;
  EXPECT_LT(tokens, 75 + n_new + 74);
  return tokens;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// How much of gamma 1 to 8 x batch 1 to 4.
enum class Sizes { kAll, kOneBatchOfEachGamma, kFew };

// `n_shared`: token ids that both have.
void ExpectPlainDecoding(const ModelSpec& target, const ModelSpec& draft, int32_t n_shared, int32_t n_new,
                         StreamMode streams, Sizes sizes = Sizes::kAll) {
  const std::vector<Request> requests = Requests(n_shared, n_new);
  std::vector<RequestResult> plain;
  for (const Request& request : requests) {
    plain.push_back(Plain(target, request));
    ASSERT_EQ(plain.back().token_ids.size(), static_cast<size_t>(n_new));
  }
  for (const std::string drafter : {"model", "ngram", "none"}) {
    PairSpec pair{.target = target};
    if (drafter == "model") {
      pair.draft = draft;
      pair.n_vocab = n_shared;
    }
    if (drafter == "ngram") pair.ngram = NgramSpec{.min = 1, .max = 4};
    for (int32_t gamma = 1; gamma <= 8; ++gamma) {
      if (drafter == "none" && gamma > 1) continue;
      if (sizes == Sizes::kFew && gamma % 4 > 1) continue;
      for (int32_t n_slots = 1; n_slots <= 4; ++n_slots) {
        // N-gram lookup has no cache of its own: the model goes through every batch.
        if ((drafter == "ngram" || sizes != Sizes::kAll) && n_slots != 1 + gamma % 4) continue;
        EngineOptions options{.n_slots = n_slots,
                              .gamma = gamma,
                              .max_context = 128,
                              .page_size = 2,
                              .cache_tokens = TightCache(n_new, gamma),
                              .prefill_chunk = kChunk,
                              .streams = streams,
                              .n_threads = 2,
                              .log_probs = true};
        auto engine = MakeEngine(options, pair, MakePolicy({}, drafter == "model"));
        const std::vector<RequestResult> results = RunAll(*engine, requests);
        int64_t n_preemptions = 0;
        for (size_t i = 0; i < results.size(); ++i) {
          const RequestResult& result = results[i];
          ASSERT_EQ(result.token_ids, plain[i].token_ids)
              << drafter << " gamma " << gamma << " batch " << n_slots << " request " << i << ", preempted "
              << result.counts.num_preemptions << " times";
          ASSERT_TRUE(SameBits(result.log_probs, plain[i].log_probs))
              << drafter << " gamma " << gamma << " batch " << n_slots << " request " << i;
          n_preemptions += result.counts.num_preemptions;
        }
        ASSERT_EQ(n_preemptions > 0, n_slots > 1) << drafter << " gamma " << gamma << " batch " << n_slots;
      }
    }
  }
}

TEST_P(Recovery, OfCheckpointsIsPlainDecoding) {
  const std::vector<std::pair<std::string, std::string>> pairs = {{"llama3_gqa", "llama2_mha"},
                                                                  {"qwen3_gqa", "llama2_mha"}};
  for (const auto& [target_name, draft_name] : pairs) {
    const ModelSpec target = Load("tests/golden/models/" + target_name, GetParam());
    const ModelSpec draft = Load("tests/golden/models/" + draft_name, GetParam());
    ExpectPlainDecoding(target, draft, draft.model->shape().n_vocab, 40, GetParam().streams);
    if (HasFatalFailure()) FAIL() << target_name << " and " << draft_name;
  }
}

TEST_P(Recovery, OfAPlantedPairIsWhatWasPlanted) {
  const PlantedShape& target_shape = **FindPlantedShape("llama-tiny");
  const PlantedShape& draft_shape = **FindPlantedShape("qwen3-tiny");
  const std::vector<int32_t> successor = PlantSuccessors(target_shape.n_vocab, 3);
  const Device device = GetParam().device;
  const ModelSpec target{.model = MakePlanted(target_shape, successor, 5, device), .dtype = GetParam().dtype};
  const ModelSpec draft{.model = MakePlanted(draft_shape, PlantAgreement(successor, 0.8, 4), 6, device),
                        .dtype = GetParam().dtype};
  for (const Request& request : Requests(target_shape.n_vocab, 40)) {
    int32_t token = request.prompt.back();
    for (const int32_t next : Plain(target, request).token_ids) ASSERT_EQ(next, token = successor[token]);
  }
  ExpectPlainDecoding(target, draft, target_shape.n_vocab, 40, GetParam().streams);
}

TEST_P(Recovery, OfTheDemoPairIsPlainDecoding) {
  const ModelSpec target = Load("configs/models/demo/target", GetParam());
  const ModelSpec draft = Load("configs/models/demo/draft", GetParam());
#ifdef NDEBUG
  const bool is_slow = GetParam().dtype == kF32 && !GetParam().device.is_cuda();
  const Sizes sizes = is_slow ? Sizes::kOneBatchOfEachGamma : Sizes::kAll;
#else
  const Sizes sizes = Sizes::kFew;  // under a sanitizer, most of an hour else
#endif
  ExpectPlainDecoding(target, draft, target.model->shape().n_vocab, 40, GetParam().streams, sizes);
}

// At temperature 1 every bit of both models' laws has its say: rounds begin at the same lengths and draw the same numbers.
TEST_P(Recovery, SampledOutputIsThatOfARoomyCache) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"tests/golden/models/llama3_gqa", "tests/golden/models/llama2_mha"},
      {"configs/models/demo/target", "configs/models/demo/draft"}};
  for (const auto& [target_folder, draft_folder] : pairs) {
    PairSpec pair{.target = Load(target_folder, GetParam()), .draft = Load(draft_folder, GetParam())};
    pair.n_vocab = std::min(pair.target.model->shape().n_vocab, pair.draft->model->shape().n_vocab);
    std::vector<Request> requests = Requests(pair.n_vocab, 32);
    for (Request& request : requests) {
      request.sampling.temperature = 1;
      request.seed = 11;
    }
    for (const int32_t gamma : {2, 5}) {
      const auto run = [&](int64_t cache_tokens) {
        const EngineOptions options{.n_slots = 3,
                                    .gamma = gamma,
                                    .max_context = 128,
                                    .page_size = 2,
                                    .cache_tokens = cache_tokens,
                                    .prefill_chunk = kChunk,
                                    .streams = GetParam().streams,
                                    .n_threads = 2};
        auto engine = MakeEngine(options, pair, MakePolicy());
        return RunAll(*engine, requests);
      };
      const std::vector<RequestResult> roomy = run(0), tight = run(TightCache(32, gamma));
      int64_t n_preemptions = 0;
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_EQ(tight[i].token_ids, roomy[i].token_ids) << target_folder << " gamma " << gamma;
        ASSERT_EQ(tight[i].origin, roomy[i].origin);
        ASSERT_EQ(roomy[i].counts.num_preemptions, 0);
        n_preemptions += tight[i].counts.num_preemptions;
      }
      ASSERT_GT(n_preemptions, 0);
    }
  }
}

}  // namespace
}  // namespace tandem
