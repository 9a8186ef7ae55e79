#include "runtime/cli/args.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include <algorithm>

#include "runtime/names.h"
#include "runtime/wrap.h"

namespace tandem {
namespace {

std::vector<std::string> OperandsOf(const Command& command) {
  return absl::StrSplit(command.operands, ' ', absl::SkipEmpty());
}

absl::Status Usage(const Command& command, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(what, " (tandem ", command.name, " --help)"));
}

const Flag* FindFlag(const Command& command, const std::string& name) {
  for (const Flag& flag : command.flags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

}  // namespace

std::string Args::Value(std::string_view flag, std::string_view otherwise) const {
  const auto found = values_.find(std::string(flag));
  return found == values_.end() ? std::string(otherwise) : found->second.back();
}

absl::StatusOr<Args> ParseArgs(const Command& command, std::span<const std::string> words) {
  Args args;
  bool flags_ended = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (flags_ended || word.size() < 2 || word[0] != '-') {
      args.operands_.push_back(word);
      continue;
    }
    if (word == "--") {
      flags_ended = true;
      continue;
    }
    if (word == "-h" || word == "--help") {
      args.wants_help_ = true;
      return args;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const Flag* flag = FindFlag(command, name);
    if (flag == nullptr) {
      std::vector<std::string> names = {"--help"};
      for (const Flag& known : command.flags) names.push_back(known.name);
      return Usage(command, absl::StrCat("unknown flag ", name, Suggestion(name, names)));
    }
    if (args.Has(name) && !flag->repeats) return Usage(command, absl::StrCat(name, ": given twice"));
    std::string value;
    if (*flag->value == 0) {
      if (equals != std::string::npos) return Usage(command, absl::StrCat(name, ": takes no value"));
    } else {
      if (equals == std::string::npos && i + 1 == words.size()) {
        return Usage(command, absl::StrCat(name, ": expected ", flag->value, ", got nothing"));
      }
      value = equals == std::string::npos ? words[++i] : word.substr(equals + 1);
      args.ordered_.push_back({name, value});
    }
    args.values_[name].push_back(value);
  }
  const std::vector<std::string> operands = OperandsOf(command);
  for (size_t i = args.operands_.size(); i < operands.size(); ++i) {
    if (operands[i][0] != '[') return Usage(command, absl::StrCat("expected ", operands[i], ", got nothing"));
  }
  if (args.operands_.size() > operands.size()) {
    return Usage(command, absl::StrCat("unexpected argument ", args.operands_[operands.size()]));
  }
  return args;
}

std::string HelpText(const Command& command) {
  constexpr int kColumn = 26;
  std::string text =
      absl::StrCat("usage: tandem ", command.name, *command.operands != 0 ? " " : "", command.operands,
                   command.flags.empty() ? "" : " [flags]", "\n\n", command.summary, "\n");
  if (*command.details != 0) absl::StrAppend(&text, "\n", command.details, "\n");
  text += "\nflags:\n";
  for (const Flag& flag : command.flags) {
    text += Entry(absl::StrCat(flag.name, *flag.value != 0 ? " " : "", flag.value), flag.help, kColumn);
  }
  return text + Entry("-h, --help", "show this", kColumn);
}

}  // namespace tandem
