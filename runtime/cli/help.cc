#include <absl/strings/str_cat.h>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/config_print.h"
#include "runtime/metrics_help.h"
#include "runtime/names.h"

namespace tandem {

int RunHelp(const Args& args) {
  std::string topic = args.operand(0);
  if (!args.operand(1).empty()) absl::StrAppend(&topic, " ", args.operand(1));
  std::string text;
  if (topic.empty()) {
    text = Overview();
  } else if (topic == "metrics") {
    text = MetricsHelp();
  } else if (topic == "config") {
    text = ConfigHelp();
  } else {
    std::vector<std::string> topics = {"metrics", "config"};
    for (const Command& command : Commands()) {
      const std::string name = command.name;
      if (name == topic || name.rfind(topic + " ", 0) == 0)
        text += (text.empty() ? "" : "\n") + HelpText(command);
      topics.push_back(topic.find(' ') == std::string::npos ? name.substr(0, name.find(' ')) : name);
    }
    if (text.empty()) {
      Log(absl::StrCat("help: unknown topic ", topic, Suggestion(topic, topics)));
      return kExitUsage;
    }
  }
  return Print(text).ok() ? kExitOk : kExitFailure;
}

}  // namespace tandem
