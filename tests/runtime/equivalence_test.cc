// Greedy speculation equals plain decoding, bit for bit, on real checkpoints: every drafter x exact rule x gamma x
// stream mode, with fp32 and with bf16 products, in batches of 1 to 4. (engine_test takes the whole product of all of
// these on a model whose output is known by definition.)
#include <gtest/gtest.h>

#include <map>

#include "policies/registry.h"
#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

std::shared_ptr<const Model> Golden(const std::string& name, Device device) {
  auto model = LoadModel(TANDEM_SOURCE_DIR "/tests/golden/models/" + name, device);
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

struct Case {
  ActivationDType dtype;
  StreamMode streams;
  Device device;
};

std::string Describe(const testing::TestParamInfo<Case>& info) {
  const char* streams[] = {"Inline", "Threaded", "Adversarial"};
  return std::string(info.param.dtype == ActivationDType::kF32 ? "Fp32" : "Bf16") +
         (info.param.device.is_cuda() ? "Cuda" : streams[static_cast<int>(info.param.streams)]);
}

constexpr ActivationDType kF32 = ActivationDType::kF32;
constexpr ActivationDType kBf16 = ActivationDType::kBf16;

class Equivalence : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam().device); }
};
INSTANTIATE_TEST_SUITE_P(Modes, Equivalence,
                         testing::Values(Case{kF32, StreamMode::kInline}, Case{kF32, StreamMode::kThreaded},
                                         Case{kF32, StreamMode::kAdversarial},
                                         Case{kF32, StreamMode::kInline, kCudaDevice},
                                         Case{kBf16, StreamMode::kInline, kCudaDevice},
                                         Case{kBf16, StreamMode::kInline}, Case{kBf16, StreamMode::kThreaded},
                                         Case{kBf16, StreamMode::kAdversarial}),
                         Describe);

// Prompts of ids that both models have; the target has more of them than the draft.
std::vector<Request> Requests(int32_t n_shared) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 4; ++i) {
    requests.push_back(
        {.id = std::to_string(i), .prompt = SomePrompt(3 + 11 * i, 40 + i, n_shared), .max_new_tokens = 8});
  }
  return requests;
}

TEST_P(Equivalence, SpeculationIsPlainDecoding) {
  const auto [dtype, streams, device] = GetParam();
  for (const auto& [target_name, draft_name] :
       std::map<std::string, std::string>{{"llama3_gqa", "llama2_mha"}, {"qwen3_gqa", "llama_mqa_sharded"}}) {
    const ModelSpec target{.model = Golden(target_name, device), .dtype = dtype};
    const ModelSpec small{.model = Golden(draft_name, device), .dtype = dtype};
    const int32_t n_shared = small.model->shape().n_vocab;
    ASSERT_LT(n_shared, target.model->shape().n_vocab);
    const std::vector<Request> requests = Requests(n_shared);

    std::vector<std::vector<int32_t>> plain;
    for (const Request& request : requests) {
      auto engine = MakeEngine({.max_context = 64}, {.target = target}, MakePolicy());
      plain.push_back(RunAll(*engine, {request})[0].token_ids);
      ASSERT_EQ(plain.back().size(), 8u);
    }
    const std::map<std::string, PairSpec> pairs = {
        {"model", {.target = target, .draft = small, .n_vocab = n_shared}},
        {"self", {.target = target, .draft = target}},
        {"ngram", {.target = target, .ngram = NgramSpec{.min = 1, .max = 4}}}};
    for (const auto& [drafter, pair] : pairs) {
      for (const RuleEntry& rule : Rules()) {
        for (const Verification verification : {Verification::kToken, Verification::kBlock}) {
          const PolicyOptions policy{.rule = rule.info->name, .verification = verification};
          const auto made = Policy::Create(policy, drafter != "ngram");
          if (!made.ok() || (*made)->guarantee(/*greedy=*/true) != Guarantee::kExact) continue;
          for (int32_t gamma = 1; gamma <= 8; ++gamma) {
            for (int32_t n_slots = 1; n_slots <= 4; ++n_slots) {
              // Greedy verdicts of the exact rules are one function; engine_test goes through every batch for each.
              if (policy.rule != "lossless" && n_slots != 1 + gamma % 4) continue;
              // To make an engine takes a tenth of a second there.
              if (device.is_cuda() && (policy.rule != "lossless" || n_slots != 1 + gamma % 4)) continue;
              const EngineOptions options{.n_slots = n_slots,
                                          .gamma = gamma,
                                          .max_context = 64,
                                          .page_size = 3 + gamma,
                                          .prefill_chunk = 16,
                                          .streams = streams,
                                          .n_threads = 1 + gamma % 2,
                                          .adversary_seed = static_cast<uint64_t>(gamma * 10 + n_slots)};
              auto engine = MakeEngine(options, pair, MakePolicy(policy, drafter != "ngram"));
              const std::vector<RequestResult> results = RunAll(*engine, requests);
              for (size_t i = 0; i < results.size(); ++i) {
                ASSERT_EQ(results[i].token_ids, plain[i])
                    << target_name << " " << drafter << " " << policy.rule << " gamma " << gamma << " batch "
                    << n_slots;
                if (drafter == "self") {
                  ASSERT_EQ(results[i].counts.num_accepted_tokens, results[i].counts.num_draft_tokens);
                }
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem
