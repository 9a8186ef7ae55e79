#include "runtime/config_print.h"

#include <absl/strings/str_cat.h>

#include <string_view>
#include <utility>
#include <vector>

#include "runtime/config_keys.h"
#include "runtime/wrap.h"

namespace tandem {
namespace {

struct Line {
  std::string yaml;
  std::string origin;  // empty: a section's name
};

std::string OriginOf(const std::string& path, const Config& config) {
  const auto found = config.origins.find(path);
  return found == config.origins.end() ? "default" : found->second.Text();
}

// Adds the names of the sections of `path` that are not in `open`, and returns the indentation of what stands
// in them.
std::string OpenSections(const std::string& path, const std::string& open, std::vector<Line>* lines) {
  std::string indent;
  size_t begin = 0;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    if (open.compare(0, dot + 1, path, 0, dot + 1) != 0) {
      lines->push_back({absl::StrCat(indent, path.substr(begin, dot - begin), ":"), ""});
    }
    indent += "  ";
    begin = dot + 1;
  }
  return indent;
}

}  // namespace

std::string PrintConfig(const Config& config) {
  std::vector<Line> lines;
  std::string open;
  bool draft_done = false;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string path = key.path;
    if (!IsInUse(key, config)) {
      if (path.rfind("draft.", 0) == 0 && config.draft_kind == DraftKind::kNone && !draft_done) {
        lines.push_back({"draft: none", OriginOf("draft", config)});
        draft_done = true;
      }
      continue;
    }
    const std::string indent = OpenSections(path, open, &lines);
    open = path;
    if (path == "prompts" && config.prompts.file.text.empty() && !config.prompts.prompts.empty()) {
      lines.push_back({"prompts:", OriginOf(path, config)});
      for (const Prompt& prompt : config.prompts.prompts)
        lines.push_back({absl::StrCat("  - ", YamlValue(prompt)), ""});
      continue;
    }
    lines.push_back({absl::StrCat(indent, path.substr(path.rfind('.') + 1), ": ", YamlValue(key, config)),
                     OriginOf(path, config)});
    if (const auto* parameters = ParametersAfter(key, config)) {
      for (const auto& [name, parameter] : *parameters) {
        const std::string origin = parameter.where.source.empty() ? "default" : parameter.where.Text();
        lines.push_back({absl::StrCat(indent, name, ": ", ShortestNumber(parameter.value)), origin});
      }
    }
  }
  constexpr size_t kCommentColumn = 44;
  std::string text;
  for (const Line& line : lines) {
    text += line.yaml;
    if (!line.origin.empty()) {
      text.append(line.yaml.size() < kCommentColumn ? kCommentColumn - line.yaml.size() : 2, ' ');
      absl::StrAppend(&text, "# ", line.origin);
    }
    text += '\n';
  }
  return text;
}

std::string ConfigHelp() {
  std::string text =
      "Keys of a configuration (YAML). A dot stands for one level: `speculation: {gamma: 4}` is "
      "speculation.gamma.\n"
      "Relative paths are taken from the file's folder. `--set KEY=VALUE` replaces a key, or a whole "
      "section:\n"
      "--set speculation.gamma=4, --set 'rule={name: opt, alpha: 0.2}', --set draft=none.\n\n";
  const Config defaults;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string path = key.path;
    std::string help = absl::StrCat(key.help, " (", Expectation(key));
    if (path == "target.model") {
      help += "; required)";
    } else if (path == "prompts" || path == "sweep.items" || path == "sweep.texts") {
      help = key.help;
    } else {
      absl::StrAppend(&help, "; default ", YamlValue(key, defaults), ")");
    }
    if (*key.alias != 0) absl::StrAppend(&help, ". Also ", key.alias);
    text += Entry(path, help, 36);
  }
  text += Entry("rule.PARAMETER",
                "a parameter of the rule, as in {name: opt, alpha: 0.2}; tandem rules info NAME", 36);
  text += Entry("cascade.PARAMETER",
                "a parameter of cascade.rule, as in {mode: token, rule: chow, alpha: 0.3}", 36);
  return text;
}

}  // namespace tandem
