// The command line as a table: what each subcommand takes. The same table parses, prints `--help` and finds
// the nearest name to one that is unknown. Plain values; no thread owns them.
#ifndef TANDEM_RUNTIME_CLI_ARGS_H_
#define TANDEM_RUNTIME_CLI_ARGS_H_

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"

namespace tandem {

struct Flag {
  const char* name;   // "--json"
  const char* value;  // "FILE"; empty: takes none
  const char* help;   // what it does, and its default
  bool repeats = false;
};

class Args;

struct Command {
  const char* name;      // "run", "config check"
  const char* operands;  // one word each: "CONFIG"; "[TOPIC]" may be left out
  const char* summary;   // one line
  const char* details;   // what `--help` says more; may be empty
  std::vector<Flag> flags;
  int (*run)(const Args& args);
};

// What was given to a command.
class Args {
 public:
  bool Has(std::string_view flag) const { return values_.contains(std::string(flag)); }
  // The flag's last value; `otherwise` if it was not given.
  std::string Value(std::string_view flag, std::string_view otherwise = "") const;
  // Every flag that takes a value, in the order given: {"--set", "a.b=c"}.
  const std::vector<std::pair<std::string, std::string>>& ordered() const { return ordered_; }
  // Empty if it was left out.
  std::string operand(size_t i) const { return i < operands_.size() ? operands_[i] : ""; }
  bool wants_help() const { return wants_help_; }

 private:
  friend absl::StatusOr<Args> ParseArgs(const Command& command, std::span<const std::string> words);
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::pair<std::string, std::string>> ordered_;
  std::vector<std::string> operands_;
  bool wants_help_ = false;
};

// `words` are those after the command's name. `--flag value` and `--flag=value`; `--` ends flags; -h and
// --help. kInvalidArgument: an unknown flag, a flag without its value or given twice, too many or too few
// operands.
absl::StatusOr<Args> ParseArgs(const Command& command, std::span<const std::string> words);

// "usage: tandem run CONFIG [flags]" and every flag.
std::string HelpText(const Command& command);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CLI_ARGS_H_
