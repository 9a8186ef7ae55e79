// The subcommands: one file each. Every one returns the exit code (console.h).
#ifndef TANDEM_RUNTIME_CLI_COMMANDS_H_
#define TANDEM_RUNTIME_CLI_COMMANDS_H_

#include <span>
#include <string>
#include <vector>

#include "runtime/cli/args.h"
#include "runtime/config.h"

namespace tandem {

int RunGenerate(const Args& args);      // run CONFIG
int RunBench(const Args& args);         // bench CONFIG
int RunBenchPlanted(const Args& args);  // bench --planted
int RunSweep(const Args& args);         // sweep CONFIG
int RunReport(const Args& args);        // report RESULTS
int RunConfigCheck(const Args& args);   // config check CONFIG
int RunConfigPrint(const Args& args);   // config print CONFIG
int RunInfo(const Args& args);          // info FOLDER
int RunRulesList(const Args& args);     // rules list
int RunRulesInfo(const Args& args);     // rules info NAME
int RunRulesCheck(const Args& args);    // rules check NAME
int RunHelp(const Args& args);          // help [TOPIC]

// All of them, in the order that help shows them.
std::span<const Command> Commands();

// "tandem: ..." and a line for every command.
std::string Overview();

// What a command's flags replace in a configuration: --set, --prompt, --prompts, --preset, --json,
// --require-lossless. Returns kExitOk, or the exit code, having said what is wrong.
int ReadOverrides(const Args& args, std::vector<Override>* overrides);
// Reads the configuration that a command's operand names, with its flags' overrides. Returns kExitOk, or the exit code, having said what is wrong.
int ReadConfig(const Args& args, Config* config);
// The flags that it reads; of commands that run prompts, or of every command with a configuration.
std::vector<Flag> ConfigFlags();
std::vector<Flag> RunFlags();
std::vector<Flag> PlantedFlags();  // of bench --planted

// The whole program, but for main.
int RunTandem(int argc, char** argv);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CLI_COMMANDS_H_
