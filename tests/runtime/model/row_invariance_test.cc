// A decode row's logits have the same bits in a forward of 1 row and of 64, whoever its neighbours are: whole forwards
// through ModelRunner, caches filled by forwards of many rows included. The reference computes every row alone, from the
// first token on. On a CUDA device a forward of up to 8 rows is one kernel and one of more is many.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "draft/drafter.h"
#include "runtime/model/runner.h"
#include "tests/on_device.h"
#include "tests/runtime/model/random_checkpoint.h"

namespace tandem {
namespace {

constexpr int kSequences = 6;
constexpr int kLength = 48;  // tokens of a sequence
constexpr int kMostRows = 64;

// Part of a sequence in a slot: the first `length` tokens are committed and the next `n_proposed` are proposed.
struct Part {
  int sequence;
  int length;
  int n_proposed;
};

// A ModelRunner as a verifier has it: its caches, a program of prefill and one of verification.
class Batched {
 public:
  Batched(std::shared_ptr<const Model> model, ActivationDType dtype, int n_slots, int gamma, int chunk)
      : device_(model->device()),
        chunk_(chunk),
        arena_(device_),
        runner_(model, {.dtype = dtype,
                        .cache = {.n_slots = n_slots,
                                  .page_size = 16,
                                  .n_tokens = int64_t{n_slots} * kContext,
                                  .max_context = kContext},
                        .max_rows = std::max(chunk, n_slots * (gamma + 1))}) {
    batch_ = {.n_slots = n_slots,
              .gamma = gamma,
              .states = arena_.New<SeqState>(n_slots),
              .tokens = {.data = arena_.New<int32_t>(size_t(n_slots) * kContext), .stride = kContext},
              .device = device_};
    proposal_ = NewProposal(arena_, batch_);
    const int32_t n_vocab = model->shape().n_vocab;
    laws_ = NewLaws(arena_, int64_t{n_slots} * (gamma + 1), n_vocab, n_vocab);
    runner_.Extend(prefill_, batch_, {.kind = PlanKind::kExtend, .chunk = chunk}, {});
    runner_.Extend(verify_, batch_, {.kind = PlanKind::kVerify, .proposal = proposal_}, laws_);
    for (int slot = 0; slot < n_slots; ++slot) {
      EXPECT_TRUE(runner_.cache().Reserve(slot, kContext));
      const PageTableRow pages = runner_.cache().page_row(slot);
      Put(pages.row, pages.staged, static_cast<size_t>(pages.n_pages));
    }
    auto executor = NewExecutor({.device = device_});
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    for (const Program* program : {&prefill_, &verify_}) EXPECT_TRUE(executor_->Prepare(*program).ok());
  }

  // The cache holds `n_cached` tokens of it already. No part is in the slot if `part` is null.
  void Begin(int slot, const std::vector<int32_t>& tokens, const Part* part, int n_cached) {
    SeqState state;
    if (part != nullptr) {
      state = {.live = true, .length = part->length, .prompt_length = part->length, .length_limit = kContext};
      state.rows[kTarget] = n_cached;
      Put(batch_.tokens.of(slot), tokens.data(), static_cast<size_t>(part->length));
      Put(proposal_.tokens + int64_t{slot} * proposal_.block, tokens.data() + part->length,
          static_cast<size_t>(part->n_proposed));
      Put(proposal_.n_proposed + slot, &part->n_proposed, 1);
    }
    Put(batch_.states + slot, &state, 1);
    if (part == nullptr) return;
    for (int done = n_cached; done < part->length - 1; done += chunk_) Run(prefill_);
  }
  void Verify() { Run(verify_); }
  std::vector<float> Logits(int slot, int i) const {
    std::vector<float> row(laws_.n_vocab);
    const float* from = laws_.logits + (int64_t{slot} * proposal_.block + i) * laws_.stride;
    const size_t bytes = row.size() * sizeof(float);
    device_.is_cuda() ? cuda::Download(device_, row.data(), from, bytes)
                      : static_cast<void>(std::memcpy(row.data(), from, bytes));
    return row;
  }

 private:
  static constexpr int kContext = 64;

  template <typename T>
  void Put(T* to, const T* from, size_t n) {
    if (n == 0) return;
    device_.is_cuda() ? cuda::Upload(device_, to, from, n * sizeof(T))
                      : static_cast<void>(std::memcpy(to, from, n * sizeof(T)));
  }
  void Run(const Program& program) {
    executor_->Enqueue(program);
    const absl::Status status = executor_->WaitFor(0);
    ASSERT_TRUE(status.ok()) << status;
  }

  Device device_;
  int chunk_;
  Arena arena_;
  ModelRunner runner_;
  Batch batch_;
  Proposal proposal_;
  LawBuffer laws_;
  Program prefill_, verify_;
  std::unique_ptr<Executor> executor_;  // last: it ends before what its graphs use is gone
};

class RowInvariance : public testing::TestWithParam<std::tuple<const char*, ActivationDType, Device>> {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(device());
    const std::string name = std::get<0>(GetParam());
    const std::string folder = FolderOf(name, random_);
    aligned_ = folder == random_.folder();
    auto model = LoadModel(folder, device());
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    std::mt19937 rng(9);
    for (int s = 0; s < kSequences; ++s) {
      for (int t = 0; t < kLength; ++t)
        sequences_[s].push_back(static_cast<int32_t>(rng() % model_->shape().n_vocab));
      Batched alone(model_, dtype(), 1, 0, 1);
      for (int length = 1; length <= kLength; ++length) {
        const Part part{s, length, 0};
        alone.Begin(0, sequences_[s], &part, length - 1);
        alone.Verify();
        reference_[s].push_back(alone.Logits(0, 0));
      }
    }
  }

  ActivationDType dtype() const { return std::get<1>(GetParam()); }
  Device device() const { return std::get<2>(GetParam()); }

  // Parts of random sequences with n_rows rows in all, each with up to gamma proposed tokens.
  std::vector<Part> SomeParts(std::mt19937& rng, int n_rows, int gamma) {
    std::vector<Part> parts;
    while (n_rows > 0) {
      const int n = std::min(n_rows, gamma + 1);
      n_rows -= n;
      parts.push_back(
          {static_cast<int>(rng() % kSequences), 1 + static_cast<int>(rng() % (kLength - n + 1)), n - 1});
    }
    std::shuffle(parts.begin(), parts.end(), rng);
    return parts;
  }

  // The parts in slots at random, the others empty.
  void Expect(Batched& batched, int n_slots, const std::vector<Part>& parts, std::mt19937& rng) {
    std::vector<int> slots(n_slots);
    std::iota(slots.begin(), slots.end(), 0);
    std::shuffle(slots.begin(), slots.end(), rng);
    for (int slot = 0; slot < n_slots; ++slot) batched.Begin(slot, {}, nullptr, 0);
    for (size_t i = 0; i < parts.size(); ++i)
      batched.Begin(slots[i], sequences_[parts[i].sequence], &parts[i], 0);
    batched.Verify();
    for (size_t i = 0; i < parts.size(); ++i) {
      const Part& part = parts[i];
      for (int j = 0; j <= part.n_proposed; ++j) {
        const std::vector<float> got = batched.Logits(slots[i], j);
        const std::vector<float>& want = reference_[part.sequence][part.length - 1 + j];
        ASSERT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
            << "sequence " << part.sequence << " position " << part.length - 1 + j;
      }
    }
  }

  // All on a device for the sizes that its fast kernels take; else those at which something may change.
  std::vector<int> RowCounts() const {
    if (!device().is_cuda() || !aligned_) return {1, 2, 5, 8, 9, 16, 17, 33, 64};
    std::vector<int> all(kMostRows);
    std::iota(all.begin(), all.end(), 1);
    return all;
  }

  TempCheckpoint random_;
  bool aligned_ = false;
  std::shared_ptr<const Model> model_;
  std::vector<int32_t> sequences_[kSequences];
  std::vector<std::vector<float>> reference_[kSequences];  // [kLength][n_vocab]
};

// A slot a row, and room for no more.
TEST_P(RowInvariance, OneRowOfEachSequence) {
  std::mt19937 rng(1);
  for (const int n_rows : RowCounts()) {
    SCOPED_TRACE(std::to_string(n_rows) + " rows");
    Batched batched(model_, dtype(), n_rows, 0, 32);
    Expect(batched, n_rows, SomeParts(rng, n_rows, 0), rng);
  }
}

// Blocks of up to 8, the last of fewer.
TEST_P(RowInvariance, BlocksOfRows) {
  std::mt19937 rng(2);
  for (const int n_rows : RowCounts()) {
    SCOPED_TRACE(std::to_string(n_rows) + " rows");
    const int gamma = std::min(n_rows, 8) - 1, n_slots = (n_rows + gamma) / (gamma + 1);
    Batched batched(model_, dtype(), n_slots, gamma, 32);
    Expect(batched, n_slots, SomeParts(rng, n_rows, gamma), rng);
  }
}

// Fewer rows than there is room for, again and again.
TEST_P(RowInvariance, InABatchWithEmptySlots) {
  std::mt19937 rng(3);
  Batched batched(model_, dtype(), kMostRows, 0, 32);
  for (const int n_rows : RowCounts()) {
    SCOPED_TRACE(std::to_string(n_rows) + " rows");
    Expect(batched, kMostRows, SomeParts(rng, n_rows, 0), rng);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RowInvariance,
                         testing::Combine(testing::Values("llama_aligned", "qwen3_aligned", "llama2_mha",
                                                          "llama3_gqa", "llama_mqa_sharded", "qwen3_gqa",
                                                          "qwen3_fp32"),
                                          testing::Values(ActivationDType::kF32, ActivationDType::kBf16),
                                          testing::Values(kCpuDevice, kCudaDevice)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == ActivationDType::kBf16 ? "_bf16" : "_fp32") +
                                  (std::get<2>(info.param).is_cuda() ? "_cuda" : "_cpu");
                         });

}  // namespace
}  // namespace tandem
