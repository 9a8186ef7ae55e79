// Ctrl-C: the first one asks the run to end after its round, the second one kills, as the system does.
#ifndef TANDEM_RUNTIME_CLI_INTERRUPT_H_
#define TANDEM_RUNTIME_CLI_INTERRUPT_H_

namespace tandem {

// Takes SIGINT while it lives. One at a time; Raised() from any thread.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  bool Raised() const;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CLI_INTERRUPT_H_
