#include "runtime/model/planted.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "runtime/core/buffer.h"
#include "runtime/core/view.h"
#include "runtime/model/planted_fill.h"
#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

const PlantedShape& Shape(const std::string& name) { return **FindPlantedShape(name); }

std::vector<int32_t> Follow(const std::vector<int32_t>& successor, int32_t token, int n) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(token = successor[static_cast<size_t>(token)]);
  return tokens;
}

TEST(Planted, SuccessorsArePermutationsThatAgreeAsAsked) {
  constexpr int32_t kVocabulary = 1000;
  const std::vector<int32_t> target = PlantSuccessors(kVocabulary, 1);
  EXPECT_NE(target, PlantSuccessors(kVocabulary, 2));
  std::vector<int32_t> all(kVocabulary);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_THAT(target, testing::UnorderedElementsAreArray(all));
  for (double agreement : {0., 0.25, 0.8, 1.}) {
    const std::vector<int32_t> draft = PlantAgreement(target, agreement, 3);
    EXPECT_THAT(draft, testing::UnorderedElementsAreArray(all));
    int n_equal = 0;
    for (size_t v = 0; v < all.size(); ++v) n_equal += draft[v] == target[v];
    EXPECT_EQ(n_equal, agreement * kVocabulary);
  }
}

TEST(Planted, UnknownShapesAreRefusedWithTheKnownOnes) {
  const auto found = FindPlantedShape("llama-9b");
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(found.status().message()), testing::HasSubstr("llama-8b, llama-3b"));
  EXPECT_THAT(std::string(found.status().message()), testing::HasSubstr("got llama-9b"));
}

// From config.json and the files of the published checkpoints: the weights that a forward reads.
TEST(Planted, FullShapesReadAsManyBytesAsTheirModels) {
  for (const auto& [name, gigabytes] :
       {std::pair{"llama-8b", 15.01}, {"llama-1b", 2.472}, {"qwen3-0.6b", 1.192}}) {
    const PlantedShape& s = Shape(name);
    const double layer = static_cast<double>(s.hidden) *
                         (2. * s.n_heads * s.head_dim + 2. * s.n_kv_heads * s.head_dim + 3. * s.intermediate);
    EXPECT_NEAR(2e-9 * (s.n_layers * layer + static_cast<double>(s.n_vocab) * s.hidden), gigabytes,
                0.002 * gigabytes)
        << name;
  }
}

TEST(Planted, BytesAreThoseOfTheModel) {
  for (const std::string name : {"llama-tiny", "qwen3-tiny"}) {
    const PlantedShape& shape = Shape(name);
    const auto model = MakePlanted(shape, PlantSuccessors(shape.n_vocab, 5), 6);
    EXPECT_EQ(PlantedBytes(shape), 2 * model->shape().n_parameters) << name;
  }
}

class PlantedOnDevice : public testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(, PlantedOnDevice, testing::Values(kCpuDevice, kCudaDevice),
                         [](const auto& info) { return info.param.is_cuda() ? "Cuda" : "Cpu"; });

TEST_P(PlantedOnDevice, GreedyTextIsWhatWasPlanted) {
  TANDEM_SKIP_WITHOUT(GetParam());
  for (const std::string name : {"llama-tiny", "qwen3-tiny"}) {
    for (ActivationDType dtype : {ActivationDType::kF32, ActivationDType::kBf16}) {
      const PlantedShape& shape = Shape(name);
      const std::vector<int32_t> successor = PlantSuccessors(shape.n_vocab, 5);
      const ModelSpec target{.model = MakePlanted(shape, successor, 6, GetParam()), .dtype = dtype};
      for (int32_t seed = 0; seed < 4; ++seed) {
        auto engine = MakeEngine({.max_context = 128}, {.target = target}, MakePolicy());
        const std::vector<int32_t> prompt = SomePrompt(5, seed, shape.n_vocab);
        const auto results = RunAll(*engine, {{.id = "x", .prompt = prompt, .max_new_tokens = 40}});
        EXPECT_EQ(results[0].token_ids, Follow(successor, prompt.back(), 40)) << name << ", prompt " << seed;
      }
    }
  }
}

// A pair keeps a block as far as the two permutations agree along the text.
TEST(Planted, APairAgreesWhereItWasPlanted) {
  const PlantedShape& shape = Shape("llama-tiny");
  const std::vector<int32_t> successor = PlantSuccessors(shape.n_vocab, 5);
  const std::vector<int32_t> draft_successor = PlantAgreement(successor, 0.7, 7);
  const ModelSpec target{.model = MakePlanted(shape, successor, 6)};
  const ModelSpec draft{.model = MakePlanted(shape, draft_successor, 8)};
  constexpr int32_t kGamma = 4, kNew = 100;
  auto engine =
      MakeEngine({.gamma = kGamma, .max_context = 128}, {.target = target, .draft = draft}, MakePolicy());
  const auto result = RunAll(*engine, {{.id = "x", .prompt = {3}, .max_new_tokens = kNew}})[0];
  const std::vector<int32_t> text = Follow(successor, 3, kNew);
  EXPECT_EQ(result.token_ids, text);

  int rounds = 0;
  for (int32_t token = 3, n = 0; n < kNew; ++rounds) {
    int32_t kept = 0;
    while (kept < kGamma && draft_successor[token] == successor[token]) token = successor[token], ++kept;
    token = successor[token];
    n += kept + 1;
  }
  int64_t judged = 0;
  for (const Origin origin : result.origin) judged += origin != Origin::kDraft;
  // Every round ends with one token of the target side, but for the last, which the length may cut.
  EXPECT_NEAR(judged, rounds, 1);
}

TEST(Planted, WeightsFollowFromTheSeed) {
  const PlantedShape& shape = Shape("llama-tiny");
  const std::vector<int32_t> successor = PlantSuccessors(shape.n_vocab, 5);
  const auto text = [&](uint64_t seed) {
    const ModelSpec model{.model = MakePlanted(shape, successor, seed)};
    auto engine = MakeEngine({.max_context = 64}, {.target = model}, MakePolicy());
    Request request{.id = "x", .prompt = {1, 2}, .max_new_tokens = 30};
    request.sampling.temperature = 3;
    return RunAll(*engine, {request})[0].token_ids;
  };
  EXPECT_EQ(text(1), text(1));
  EXPECT_NE(text(1), text(2));
}

// The formulas of the CPU, against what kernels wrote.
TEST(Planted, KernelsWriteTheSameBits) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  constexpr int64_t kVocabulary = 7000, kHidden = 96;  // more elements than one wave of threads
  constexpr int64_t kN = kVocabulary * kHidden;
  Arena arena(kCudaDevice);
  auto* embedding = arena.New<uint16_t>(kN);
  auto* head = arena.New<uint16_t>(kN);
  const std::vector<int32_t> successor = PlantSuccessors(kVocabulary, 5);
  planted::FillRandomCuda(kCudaDevice, embedding, kN, 9, 0.02f);
  planted::FillHeadCuda(kCudaDevice, head, embedding, successor.data(), kVocabulary, kHidden);
  std::vector<uint16_t> got_embedding(kN), got_head(kN), want_embedding(kN), want_head(kN);
  cuda::Download(kCudaDevice, got_embedding.data(), embedding, kN * sizeof(uint16_t));
  cuda::Download(kCudaDevice, got_head.data(), head, kN * sizeof(uint16_t));
  for (int64_t i = 0; i < kN; ++i) {
    want_embedding[i] = planted::RandomWeight(9, i, 0.02f);
    want_head[successor[i / kHidden] * kHidden + i % kHidden] =
        planted::HeadWeight(want_embedding[i], kHidden);
  }
  EXPECT_EQ(got_embedding, want_embedding);
  EXPECT_EQ(got_head, want_head);
  planted::FillCuda(kCudaDevice, head, kN, 7);
  cuda::Download(kCudaDevice, got_head.data(), head, kN * sizeof(uint16_t));
  EXPECT_EQ(got_head, std::vector<uint16_t>(kN, 7));
}

}  // namespace
}  // namespace tandem
