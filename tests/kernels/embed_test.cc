#include "kernels/embed/embed.h"

#include "tests/kernels/util.h"

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

}  // namespace
}  // namespace tandem
