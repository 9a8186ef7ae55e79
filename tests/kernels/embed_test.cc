#include "kernels/embed/embed.h"

#include "tests/kernels/util.h"
#include "tests/on_device.h"

namespace tandem {
namespace {

// Widening is exact: every output equals the table's value, and nothing else is written or read.
TEST(Embed, CopiesTheTokensRows) {
  std::mt19937 random(1);
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int hidden : {1, 7, 16, 24, 100, 512}) {
      for (size_t gap : {0, 1}) {
        const Matrix table(11, hidden, dtype, random, gap);
        const PlanOf plan({{0, 0, 10}, {1, 4, 0}, {1, 5, 10}, {2, 0, 3}});
        Output out(4 * hidden);
        const EmbedArgs args = {table.view(), plan.plan(), out.data()};
        const auto check = [&] {
          for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < hidden; ++i) {
              ASSERT_EQ(out.data()[r * hidden + i], static_cast<float>(table.at(plan.plan().token[r], i)))
                  << "row " << r << ", element " << i << " of " << hidden;
            }
          }
          out.CheckEdges();
          out.Reset();
        };
        EmbedReference(args);
        check();
        ForEachTarget([&] {
          for (int n_workers = 1; n_workers <= 5; ++n_workers) {
            RunOnWorkers(n_workers, [&](Worker worker) { EmbedCpu(args, worker); });
            check();
          }
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Embed, OnACudaDevice) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  std::mt19937 random(1);
  ProgramRunner runner(kCudaDevice);
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int hidden : {1, 7, 100, 512, 2050}) {
      Arena arena(kCudaDevice, Access::kShared);
      const Matrix table(11, hidden, dtype, random);
      View view = table.view();
      view.data = arena.Copy(static_cast<const unsigned char*>(view.data), view.bytes());
      const PlanOf plan({{0, 0, 10}, {1, 4, 0}, {1, 5, 10}, {2, 0, 3}});
      float* out = arena.New<float>(5 * hidden);
      std::fill_n(out, 5 * hidden, Poison());
      RowPlan rows = plan.CopyTo(arena);
      rows.capacity = 6;  // more than there are
      runner.RunStep(EmbedArgs{view, rows, out});
      for (int i = 0; i < 4 * hidden; ++i)
        ASSERT_EQ(out[i], static_cast<float>(table.at(plan.plan().token[i / hidden], i % hidden))) << i;
      for (int i = 4 * hidden; i < 5 * hidden; ++i) ASSERT_TRUE(IsPoison(out[i]));
    }
  }
}

}  // namespace
}  // namespace tandem
