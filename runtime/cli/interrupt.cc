#include "runtime/cli/interrupt.h"

#include <signal.h>

#include <atomic>

namespace tandem {
namespace {

// A signal handler reaches nothing but statics; InterruptScope alone uses this one.
std::atomic<bool> raised = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not wait for a lock");

void OnSignal(int) { raised = true; }

void SetAction(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace

InterruptScope::InterruptScope() {
  raised = false;
  SetAction(OnSignal);
}

InterruptScope::~InterruptScope() { SetAction(SIG_DFL); }

bool InterruptScope::Raised() const { return raised; }

}  // namespace tandem
