#include "runtime/lane_order.h"

#include <algorithm>
#include <cstddef>
#include <map>

namespace tandem {

std::vector<bool> FollowsOtherLane(const Program& program) {
  std::vector<bool> follows;
  size_t n_steps[kNumLanes] = {};    // of a lane so far
  size_t n_awaited[kNumLanes] = {};  // by a lane, of the other one's
  // What waiting for an event waits for: so many steps of either lane.
  std::map<EventId, std::vector<size_t>> events;
  for (const Step& step : program.steps()) {
    const int lane = static_cast<int>(step.lane), other = 1 - lane;
    if (step.op == Op::kRecord) {
      std::vector<size_t>& behind = events[*static_cast<const EventId*>(program.args(step))];
      behind.assign(kNumLanes, 0);
      behind[lane] = n_steps[lane];
      behind[other] = n_awaited[lane];
    } else if (step.op == Op::kWait) {
      const auto event = events.find(*static_cast<const EventId*>(program.args(step)));
      if (event != events.end()) n_awaited[lane] = std::max(n_awaited[lane], event->second[other]);
    } else {
      ++n_steps[lane];
    }
    follows.push_back(n_awaited[lane] == n_steps[other]);
  }
  return follows;
}

}  // namespace tandem
