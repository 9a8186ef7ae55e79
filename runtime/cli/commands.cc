#include "runtime/cli/commands.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstdio>

#include "runtime/cli/console.h"
#include "runtime/names.h"
#include "runtime/version.h"
#include "runtime/wrap.h"

namespace tandem {
namespace {

template <typename... Lists>
std::vector<Flag> Joined(const Lists&... lists) {
  std::vector<Flag> all;
  (all.insert(all.end(), lists.begin(), lists.end()), ...);
  return all;
}

std::vector<Command> MakeCommands() {
  const std::vector<Flag> bench = {
      {"--repetitions", "N",
       "times that each side runs all prompts after the warm-up, at least 3 (default 3; with --planted 7)"}};
  const std::vector<Flag> run = {
      {"--trace", "FILE",
       "write which step ran when to FILE, for chrome://tracing or ui.perfetto.dev; on a CUDA device which "
       "phase, without execution.check_steps"}};
  const std::vector<Flag> sweep = {
      {"--preset", "NAME", "quick, standard or full: the same as --set sweep.preset=NAME (default quick)"},
      {"--out", "DIR", "folder of the results (default: CONFIG's name with .sweep, in the current folder)"},
      {"--list", "", "print the cells that would run, and how many are done, and stop"}};
  const std::vector<Flag> report = {
      {"--out", "FILE.html", "where the report goes, its charts beside it (default: beside RESULTS)"}};
  const std::vector<Flag> info = {{"--check-weights", "", "read every weight and look for NaN and infinity"}};
  return {
      {"run", "CONFIG", "generate from a configuration's prompts, then report",
       "The text goes to stdout as it comes, in colours if that is a terminal; then the report.\n"
       "tandem help config describes CONFIG, tandem help metrics the report.",
       Joined(RunFlags(), run), RunGenerate},
      {"bench", "[CONFIG]", "the target alone and the pair on the same prompts: speedup and its spread",
       "Both run in this process, in turns. Greedy outputs are compared token by token; where the rule is "
       "exact and\n"
       "they differ, the exit code is 6.\n"
       "With --planted instead of CONFIG: full-size models without a checkpoint, whose greedy text is known. "
       "Prints decoding,\n"
       "rounds, batches, forwards, draft steps, the tail of a round and a prompt, each beside the time that "
       "reading its bytes\n"
       "takes, and writes them with --json FILE; bench/README.md describes each key.",
       Joined(RunFlags(), bench, PlantedFlags()), RunBench},
      {"sweep", "CONFIG", "quality against cost: every rule of a grid, a curve per rule",
       "Runs the grid that CONFIG's section `sweep` describes (tandem help config): rules and their "
       "parameters, "
       "temperatures,\n"
       "gammas, seeds, on items with answers and on texts; and, on the same axes, the target alone, the "
       "draft "
       "alone, lossless\n"
       "speculation, and lossless speculation with both laws cut off by min-p. DIR gets results.jsonl (a "
       "line per "
       "finished\n"
       "cell), results.csv, report.html and its charts as .svg. Stopped (Ctrl-C) and started again, it goes "
       "on "
       "where it\n"
       "stopped: a cell whose models, prompts, configuration, program version and machine are the same is "
       "not run "
       "again.\n"
       "tandem help metrics defines the figures.",
       Joined(sweep, ConfigFlags()), RunSweep},
      {"report", "RESULTS", "draw the report of a sweep again",
       "RESULTS: a sweep's folder or its results.jsonl. Writes one HTML file that needs no network, its "
       "charts as "
       ".svg files,\n"
       "and results.csv.",
       report, RunReport},
      {"config check", "CONFIG", "read a configuration and say what is wrong with it", "", ConfigFlags(),
       RunConfigCheck},
      {"config print", "CONFIG", "show every resolved value and where it came from", "", ConfigFlags(),
       RunConfigPrint},
      {"info", "FOLDER", "what a checkpoint holds, and the memory it needs", "", info, RunInfo},
      {"rules list", "", "every rule, with what it guarantees", "", {}, RunRulesList},
      {"rules info", "NAME", "one rule: what it does, its parameters, its guarantee", "", {}, RunRulesInfo},
      {"rules check",
       "NAME",
       "the exact law of a rule's output through the engine, against what it claims",
       "Enumerates every outcome of the first tokens over several rounds on tiny vocabularies: no sampling. "
       "Prints the\n"
       "largest difference for gamma 1 to 4, and of lossy rules the distance to the target's law. NAME: a "
       "rule, or all.",
       {{"--device", "DEVICE", "run the engine on cpu (default), cuda or cuda:N"}},
       RunRulesCheck},
      {"help", "[TOPIC] [SUBTOPIC]", "this, or help on a command, on config or on metrics", "", {}, RunHelp},
  };
}

std::string FirstWord(const std::string& text) { return text.substr(0, text.find(' ')); }

int UsageError(const std::string& what) {
  Log(absl::StrCat(what, " (tandem --help)"));
  return kExitUsage;
}

// The command that the words name and the words after its name; null, having said why, if there is none.
const Command* FindCommand(std::span<const std::string> words, std::span<const std::string>* rest) {
  std::vector<std::string> first_words;
  std::vector<std::string> second_words;
  for (const Command& command : Commands()) {
    const std::string name = command.name;
    const std::string first = FirstWord(name);
    if (std::find(first_words.begin(), first_words.end(), first) == first_words.end())
      first_words.push_back(first);
    if (first != words[0]) continue;
    if (first == name) {
      *rest = words.subspan(1);
      return &command;
    }
    const std::string second = name.substr(first.size() + 1);
    second_words.push_back(second);
    if (words.size() > 1 && words[1] == second) {
      *rest = words.subspan(2);
      return &command;
    }
  }
  if (second_words.empty()) {
    UsageError(absl::StrCat("unknown command ", words[0], Suggestion(words[0], first_words)));
  } else {
    const std::string got = words.size() > 1 ? words[1] : "nothing";
    UsageError(absl::StrCat(words[0], ": unknown command ", got, Suggestion(got, second_words)));
  }
  return nullptr;
}

// The help of every command that begins with this word and another ("config", "rules"); empty if none does.
std::string GroupHelp(const std::string& word) {
  std::string text;
  for (const Command& command : Commands()) {
    const std::string name = command.name;
    if (FirstWord(name) == word && name != word)
      absl::StrAppend(&text, text.empty() ? "" : "\n", HelpText(command));
  }
  return text;
}

}  // namespace

std::vector<Flag> ConfigFlags() {
  return {{"--set", "KEY=VALUE", "replace a key of CONFIG, or a whole section; may be repeated", true},
          {"--require-lossless", "", "refuse a rule whose output law is not exactly the target's"}};
}

std::vector<Flag> RunFlags() {
  const std::vector<Flag> prompts = {
      {"--prompt", "TEXT", "this prompt instead of those of CONFIG"},
      {"--prompts", "FILE",
       "the prompts of a JSON lines file: prompt or prompt_token_ids; id, category, ..."},
      {"--json", "FILE",
       "write tokens and metrics to FILE; - writes them to stdout instead of text and report"}};
  return Joined(prompts, ConfigFlags());
}

std::span<const Command> Commands() {
  static const std::vector<Command> commands = MakeCommands();
  return commands;
}

int ReadOverrides(const Args& args, std::vector<Override>* overrides) {
  if (args.Has("--prompt") && args.Has("--prompts"))
    return UsageError("--prompt and --prompts: give one of them");
  for (const auto& [flag, value] : args.ordered()) {
    const std::string given = absl::StrCat(flag, " ", value);
    if (flag == "--set") {
      absl::StatusOr<Override> set = ParseSet(value);
      if (!set.ok()) return Fail(set.status(), kExitUsage);
      overrides->push_back(*std::move(set));
    } else if (flag == "--prompt") {
      overrides->push_back({"prompts", value, true, flag});
    } else if (flag == "--prompts") {
      overrides->push_back({"prompts.file", value, true, given});
    } else if (flag == "--preset") {
      overrides->push_back({"sweep.preset", value, true, given});
    } else if (flag == "--json" && value != "-") {
      overrides->push_back({"report.json", value, true, given});
    }
  }
  if (args.Has("--require-lossless"))
    overrides->push_back({"require_lossless", "true", false, "--require-lossless"});
  return kExitOk;
}

int ReadConfig(const Args& args, Config* config) {
  std::vector<Override> overrides;
  if (const int code = ReadOverrides(args, &overrides); code != kExitOk) return code;
  absl::StatusOr<Config> loaded = LoadConfig(args.operand(0), overrides);
  if (!loaded.ok()) return Fail(loaded.status(), kExitConfig);
  *config = *std::move(loaded);
  return kExitOk;
}

std::string Overview() {
  std::string text =
      "tandem: speculative decoding and speculative cascades of a draft and a target model, from one YAML "
      "file\n\n"
      "usage: tandem COMMAND ...\n\n";
  for (const Command& command : Commands()) {
    text += Entry(absl::StrCat(command.name, *command.operands != 0 ? " " : "", command.operands),
                  command.summary, 24);
  }
  return text +
         "\n  tandem COMMAND --help     a command's flags\n"
         "  tandem --version          the version\n\n"
         "Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 "
         "configuration or\n"
         "prompts, 4 model or tokenizer, 5 device or memory, 6 a check failed, 130 interrupted.\n";
}

int RunTandem(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) {
    std::fputs(Overview().c_str(), stderr);
    return kExitUsage;
  }
  if (words[0] == "--help" || words[0] == "-h") return Print(Overview()).ok() ? kExitOk : kExitFailure;
  if (words[0] == "--version") {
    return Print(absl::StrCat("tandem ", kVersion, "\n")).ok() ? kExitOk : kExitFailure;
  }
  if (words[0][0] == '-')
    return UsageError(absl::StrCat("unknown flag ", words[0], Suggestion(words[0], {"--help", "--version"})));
  if (words.size() == 2 && (words[1] == "--help" || words[1] == "-h")) {
    const std::string help = GroupHelp(words[0]);
    if (!help.empty()) return Print(help).ok() ? kExitOk : kExitFailure;
  }
  std::span<const std::string> rest;
  const Command* command = FindCommand(words, &rest);
  if (command == nullptr) return kExitUsage;
  const absl::StatusOr<Args> args = ParseArgs(*command, rest);
  if (!args.ok()) return Fail(args.status(), kExitUsage);
  if (args->wants_help()) return Print(HelpText(*command)).ok() ? kExitOk : kExitFailure;
  return command->run(*args);
}

}  // namespace tandem
