// DeviceClock: writes down a CUDA device's own clock where a round begins and where it ends, so that what the device idles
// between two rounds is seen apart from what the rounds take.
//
// The stamps are steps like others, and an executor needs to know nothing of them: each is a judge step whose rule judges
// nothing and launches a kernel of one thread. CUDA alone. One thread, the host; read after the executor has finished.
#ifndef TANDEM_RUNTIME_DEVICE_CLOCK_H_
#define TANDEM_RUNTIME_DEVICE_CLOCK_H_

#include <cstdint>
#include <vector>

#include "policies/judge.h"
#include "runtime/core/buffer.h"
#include "runtime/core/program.h"

namespace tandem {

class DeviceClock {
 public:
  static constexpr int32_t kCapacity = 1024;  // of each list; later stamps are lost
  struct Log {
    int32_t n[2] = {0, 0};
    int64_t ns[2][kCapacity] = {};
  };

  explicit DeviceClock(Device device);

  // Appends to `out`: a stamp, the round, a stamp. The round's first step is on the draft's lane, its last on the target's.
  void Around(const Program& round, Program* out);

  struct Times {
    double idle_us =
        0;  // from a round's last stamp to the next one's first (the end of the stamp's own kernel
            // is in it): the middle nine tenths, averaged
    double round_ms = 0;  // from a round's first stamp to its last, likewise
    int n_rounds = 0;
  };
  // Of the executions so far; n_rounds is 0 if the stamps make no sense (steps that did not run, or not in order).
  Times Read() const;

 private:
  JudgeArgs Stamp(int which) const;

  Arena arena_;
  Log* log_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_DEVICE_CLOCK_H_
