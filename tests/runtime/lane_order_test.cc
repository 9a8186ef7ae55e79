#include "runtime/lane_order.h"

#include <gmock/gmock.h>

#include "kernels/linear/linear.h"
#include "kernels/plan/plan.h"
#include "runtime/model/planted.h"
#include "tests/on_device.h"
#include "tests/runtime/pairs.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;

TEST(LaneOrder, OfLanesThatWait) {
  Program program;
  program.At(Lane::kDraft, Phase::kDraft);
  program.Wait(0);  // of a program before this one
  program.Add(PlanArgs{});
  program.Record(1);
  program.At(Lane::kTarget, Phase::kVerify);
  program.Add(PlanArgs{});  // beside the draft's
  program.Wait(1);
  program.Add(PlanArgs{});
  program.Record(0);
  program.At(Lane::kDraft, Phase::kDraft);
  program.Add(PlanArgs{});  // beside the target's
  program.Wait(0);
  program.Add(PlanArgs{});
  EXPECT_THAT(FollowsOtherLane(program), ElementsAre(true, true, true,         //
                                                     false, true, true, true,  //
                                                     false, true, true));
}

// Through an event of the lane that waited itself.
TEST(LaneOrder, WhatHasBeenWaitedForStaysSo) {
  Program program;
  program.At(Lane::kDraft, Phase::kPrefill);
  program.Add(PlanArgs{});
  program.Record(0);
  program.Add(PlanArgs{});
  program.At(Lane::kTarget, Phase::kPrefill);
  program.Wait(0);  // for the first alone
  program.Add(PlanArgs{});
  program.Add(PlanArgs{});
  EXPECT_THAT(FollowsOtherLane(program), ElementsAre(true, true, true, false, false, false));
}

// The products of a round follow each other, so that a device may run each forward as one kernel.
TEST(LaneOrder, OfAnEnginesRound) {
  const PlantedShape& shape = **FindPlantedShape("llama-tiny");
  const ModelSpec model{MakePlanted(shape, PlantSuccessors(shape.n_vocab, 1), 2, kCpuDevice),
                        ActivationDType::kBf16};
  const auto engine = MakeEngine({.n_slots = 2, .gamma = 3, .max_context = 64},
                                 {.target = model, .draft = model}, MakePolicy());
  const Program& round = engine->round();
  const std::vector<bool> follows = FollowsOtherLane(round);
  int n_products = 0;
  for (size_t i = 0; i < round.steps().size(); ++i) {
    if (round.steps()[i].op != Op::kLinear) continue;
    ++n_products;
    EXPECT_TRUE(follows[i]) << "step " << i;
  }
  EXPECT_EQ(n_products, 4 * (4 * shape.n_layers + 1));  // three draft steps, and the target's forward
}

}  // namespace
}  // namespace tandem
