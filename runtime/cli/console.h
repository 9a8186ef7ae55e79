// What the command line writes: data to stdout, everything else to stderr, and how a failure becomes an exit
// code.
#ifndef TANDEM_RUNTIME_CLI_CONSOLE_H_
#define TANDEM_RUNTIME_CLI_CONSOLE_H_

#include <string>
#include <string_view>

#include "runtime/core/status.h"

namespace tandem {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitConfig = 3,
  kExitModel = 4,
  kExitDevice = 5,
  kExitCheck = 6,
  kExitInterrupt = 130,
};

// Whether stdout is a terminal that wants colours: not with NO_COLOR set, nor with TERM=dumb.
bool StdoutHasColour();
bool StdoutIsTerminal();
bool StderrIsTerminal();

// Text for a terminal: control characters, which would act on it, as pictures (U+2400 on); newline and tab
// stay.
std::string Printable(std::string_view text);

// To stdout, at once. kUnknown if it cannot be written (a full disk).
absl::Status Print(std::string_view text);
// "tandem: text" to stderr.
void Log(const std::string& text);
void Warn(const std::string& text);

// Says on stderr what went wrong and returns the exit code: of memory, cache and devices, one that failed too, 5, else
// `otherwise`.
// What a configuration says is wrong starts with its place, for editors to jump to; other lines start with
// "tandem: ".
int Fail(const absl::Status& status, int otherwise);

// A bar on stderr for work that takes long, if stderr is a terminal; gone when it ends.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  void Show(const std::string& what, double done);  // done: 0 to 1
  void Hide();                                      // before something else is written

 private:
  const bool on_;
  std::string shown_;
};

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CLI_CONSOLE_H_
