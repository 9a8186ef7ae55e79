// LaneOrder: which steps of a program can have no step of the other lane beside them. For kernels whose blocks wait for each
// other (kernels/stream): two of them at a time could wait for room that the other one holds. Plain values, any thread.
#ifndef TANDEM_RUNTIME_LANE_ORDER_H_
#define TANDEM_RUNTIME_LANE_ORDER_H_

#include <vector>

#include "runtime/core/program.h"

namespace tandem {

// [steps] whether all steps of the other lane that stand before the step have been waited for: by events of this program, since
// programs follow each other. So of two steps that may run at the same time the later one has false.
std::vector<bool> FollowsOtherLane(const Program& program);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_LANE_ORDER_H_
