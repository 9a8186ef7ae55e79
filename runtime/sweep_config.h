// The section `sweep` of a configuration (config.h: SweepConfig): reading its grid of rules, the presets, and the
// values that a rule is tried at if none were written. Pure functions.
#ifndef TANDEM_RUNTIME_SWEEP_CONFIG_H_
#define TANDEM_RUNTIME_SWEEP_CONFIG_H_

#include <string>
#include <utility>
#include <vector>

#include "policies/rule.h"
#include "runtime/config.h"

namespace tandem {

using ParameterGrid = std::vector<std::pair<std::string, std::vector<double>>>;

// A list of names of rules, or of maps: name, verification, bonus, and for each parameter a number or a list of
// numbers. Complains at the place of what is wrong; every combination is one that Policy::Create takes.
std::vector<RuleGrid> ReadRuleGrids(const YamlNode& node, const std::string& path,
                                    std::vector<Complaint>* complaints);

// The entry as YAML on one line.
std::string YamlValue(const RuleGrid& grid);

// What is tried of a rule whose entry names no parameter: one parameter, from near the target to near the draft. Of
// a rule that is not built in, its check values, else five steps through its range.
ParameterGrid DefaultGrid(const RuleInfo& info);

// Every combination of the grid's values, each as {name, value} pairs in the order written; one, empty, of a rule
// without parameters.
std::vector<std::vector<std::pair<std::string, double>>> Combinations(const RuleGrid& grid);

// Gives the keys of `sweep` that nothing has set the values of its preset. REQUIRES: sweep.preset is one of them.
void ApplyPreset(Config* config);

// Whether anything sets a key of `sweep`.
bool HasSweep(const Config& config);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_SWEEP_CONFIG_H_
