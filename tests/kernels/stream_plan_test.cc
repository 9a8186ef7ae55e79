// What the stream kernel takes of the programs that models emit, and what it leaves to the steps' own kernels: needs no
// device.
#include "kernels/stream/stream_plan.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/silu_gate/silu_gate.h"
#include "runtime/core/buffer.h"
#include "runtime/model/planted.h"
#include "runtime/model/runner.h"

namespace tandem {
namespace {

using stream::Input;
using stream::Kind;
using stream::Output;
using stream::PlanStream;
using stream::StreamPlan;
using stream::StreamStep;

struct What {
  PlantedShape shape = {"test", "LlamaForCausalLM", 2, 128, 192, 4, 2, 64, 96, 1e-5f, 10000};
  ActivationDType dtype = ActivationDType::kBf16;
  PlanKind kind = PlanKind::kVerify;
  int32_t n_slots = 1;
  int32_t block = 5;  // rows of a verification, of a slot
  int32_t page_size = 16;
};

// The program of one forward.
class ForwardProgram {
 public:
  explicit ForwardProgram(const What& what) : arena_(Device{}) {
    model_ = MakePlanted(what.shape, PlantSuccessors(what.shape.n_vocab, 1), 1, Device{});
    const int32_t rows = what.kind == PlanKind::kExtend ? 128 : what.n_slots * what.block;
    runner_ = std::make_unique<ModelRunner>(model_, RunnerOptions{.side = kTarget,
                                                                  .dtype = what.dtype,
                                                                  .cache = {.n_slots = what.n_slots,
                                                                            .page_size = what.page_size,
                                                                            .n_tokens = 256,
                                                                            .max_context = 128},
                                                                  .max_rows = rows});
    batch_.n_slots = what.n_slots;
    batch_.states = arena_.New<SeqState>(what.n_slots);
    Proposal proposal = {};
    proposal.block = what.block;
    const LawBuffer laws = what.kind == PlanKind::kExtend
                               ? LawBuffer{}
                               : NewLaws(arena_, rows, what.shape.n_vocab, what.shape.n_vocab);
    runner_->Extend(program_, batch_, {.kind = what.kind, .chunk = 128, .proposal = proposal}, laws);
  }

  const Program& program() const { return program_; }
  // Of the first product.
  size_t first() const {
    size_t i = 0;
    while (program_.steps()[i].op != Op::kLinear) ++i;
    return i;
  }
  size_t Plan(StreamPlan* plan) const { return PlanStream(program_, first(), plan); }
  size_t Plan() const {
    StreamPlan plan;
    return Plan(&plan);
  }

 private:
  std::shared_ptr<const Model> model_;
  Arena arena_;
  std::unique_ptr<ModelRunner> runner_;
  Batch batch_;
  Program program_;
};

TEST(StreamPlan, TakesAForwardOfEveryArchitectureWhole) {
  for (const char* architecture : {"LlamaForCausalLM", "Qwen3ForCausalLM"}) {
    for (const int head_dim : {64, 128}) {
      for (const PlanKind kind : {PlanKind::kVerify, PlanKind::kDraft}) {
        SCOPED_TRACE(std::string(architecture) + ", heads of " + std::to_string(head_dim));
        What what = {.kind = kind};
        what.shape.architecture = architecture;
        what.shape.head_dim = head_dim;
        const ForwardProgram forward(what);
        StreamPlan plan;
        const size_t n = forward.Plan(&plan);
        // From the first product to the head; then the cache is said to have the rows.
        ASSERT_GT(n, 0u);
        ASSERT_EQ(forward.program().steps()[forward.first() + n].op, Op::kAdvance);
        EXPECT_EQ(plan.n_layers, what.shape.n_layers);
        EXPECT_EQ(plan.head_dim, head_dim);
        EXPECT_EQ(plan.max_rows, kind == PlanKind::kDraft ? 2 : what.block);
        std::vector<Output> outputs;
        for (const StreamStep& step : plan.steps) {
          if (step.kind == Kind::kProduct) outputs.push_back(step.product.output);
        }
        std::vector<Output> expected;
        for (int layer = 0; layer < what.shape.n_layers; ++layer) {
          for (Output output : {Output::kF32, Output::kResidual, Output::kGated, Output::kResidual})
            expected.push_back(output);
        }
        expected.push_back(Output::kLogits);
        EXPECT_EQ(outputs, expected);
      }
    }
  }
}

// Keys are fetched while the product before attention runs: it is told of which.
TEST(StreamPlan, TheProductBeforeAttentionKnowsIt) {
  const ForwardProgram forward(What{});
  StreamPlan plan;
  ASSERT_GT(forward.Plan(&plan), 0u);
  int n_told = 0;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const StreamStep& step = plan.steps[i];
    const bool before = i + 1 < plan.steps.size() && plan.steps[i + 1].kind == Kind::kAttention;
    EXPECT_EQ(step.before_attention, before) << i;
    if (!before) continue;
    const KvLayer &told = step.attend.attention.kv, &kv = plan.steps[i + 1].attend.attention.kv;
    EXPECT_EQ(told.k, kv.k);
    EXPECT_EQ(told.v, kv.v);
    ++n_told;
  }
  EXPECT_EQ(n_told, plan.n_layers);
}

// A residual's norm belongs to the product that reads it; only the first product reads what is there before the launch.
TEST(StreamPlan, WhatAProductReadsIsWhatTheLastOneWrote) {
  const ForwardProgram forward(What{});
  StreamPlan plan;
  ASSERT_GT(forward.Plan(&plan), 0u);
  const stream::Segment* residual = nullptr;
  int n_first = 0;
  for (const StreamStep& step : plan.steps) {
    if (step.kind != Kind::kProduct) continue;
    const stream::Product& product = step.product;
    n_first += product.input == Input::kFirst;
    if (product.scaled && product.input == Input::kBf16) {
      ASSERT_NE(residual, nullptr);
      EXPECT_EQ(product.in.data, residual->out.data);
      EXPECT_EQ(product.squares.data, residual->squares.data);
      EXPECT_NE(residual->gain, nullptr);
    }
    if (product.output == Output::kResidual) residual = &product.segment[0];
  }
  EXPECT_EQ(n_first, 1);
  EXPECT_EQ(plan.steps[0].product.input, Input::kFirst);
}

TEST(StreamPlan, RowsUpToEight) {
  for (const int32_t n_slots : {1, 2, 3}) {
    for (const int32_t block : {1, 2, 4, 5, 8, 9}) {
      const ForwardProgram forward({.n_slots = n_slots, .block = block});
      EXPECT_EQ(forward.Plan() > 0, n_slots * block <= 8) << n_slots << " x " << block;
    }
  }
}

// Each of these differs in one thing from what TakesAForwardOfEveryArchitectureWhole takes.
TEST(StreamPlan, RefusesWhatTheKernelCannotDo) {
  ASSERT_GT(ForwardProgram(What{}).Plan(), 0u);
  EXPECT_EQ(ForwardProgram({.dtype = ActivationDType::kF32}).Plan(), 0u);
  EXPECT_EQ(ForwardProgram({.kind = PlanKind::kExtend}).Plan(), 0u);
  EXPECT_EQ(ForwardProgram({.page_size = 8}).Plan(), 0u);
  What what;
  what.shape.head_dim = 32;
  EXPECT_EQ(ForwardProgram(what).Plan(), 0u);
  what = {};
  what.shape.n_heads = 34;  // 17 a kv head: more queries of a row than a task has
  EXPECT_EQ(ForwardProgram(what).Plan(), 0u);
  what = {};
  what.shape.intermediate = 160;  // no multiple of the columns that a copy takes together
  EXPECT_EQ(ForwardProgram(what).Plan(), 0u);
  what = {};
  what.shape.hidden = 4128;  // more than shared memory holds squares for
  EXPECT_EQ(ForwardProgram(what).Plan(), 0u);
}

// A run that ends in the middle of a forward would keep values that later steps look for elsewhere.
TEST(StreamPlan, RefusesAForwardThatGoesOnElsewhere) {
  const ForwardProgram forward(What{});
  StreamPlan plan;
  const size_t first = forward.first(), n = forward.Plan(&plan);
  ASSERT_GT(n, 0u);
  for (const bool spoiled : {false, true}) {
    Program program;
    for (size_t i = 0; i < n; ++i) {
      const Step& step = forward.program().steps()[first + i];
      switch (step.op) {
        case Op::kLinear: {
          LinearArgs args = forward.program().args_as<LinearArgs>(step);
          if (spoiled && i + 1 == n) args.round_bf16 = false;  // the head
          program.Add(args);
          break;
        }
        case Op::kRopeAppend:
          program.Add(forward.program().args_as<RopeAppendArgs>(step));
          break;
        case Op::kAttention:
          program.Add(forward.program().args_as<AttentionArgs>(step));
          break;
        default:
          program.Add(forward.program().args_as<SiluGateArgs>(step));
      }
    }
    EXPECT_EQ(PlanStream(program, 0, &plan), spoiled ? 0u : n);
  }
}

}  // namespace
}  // namespace tandem
