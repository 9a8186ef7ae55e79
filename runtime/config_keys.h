// The table of every key that a configuration may have: what it is, what it may be, and the member that holds
// it.
#ifndef TANDEM_RUNTIME_CONFIG_KEYS_H_
#define TANDEM_RUNTIME_CONFIG_KEYS_H_

#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/config.h"

namespace tandem {

// The member behind a key; its type is the type of value that the key takes.
using ConfigField = std::variant<bool*, int32_t*, int64_t*, uint64_t*, double*, std::string*, Path*,
                                 std::vector<std::string>*, std::vector<int32_t>*, std::vector<double>*,
                                 PromptConfig*, std::vector<RuleGrid>*>;

struct ConfigKey {
  const char* path;
  const char* help;  // what it does, what its default means
  ConfigField (*field)(Config&);
  double min = 0;  // of numbers; the ends belong to the range
  double max = 0;
  bool above_min = false;  // `min` itself does not belong
  // Of texts: "a|b|c:N", N any number; empty: any. Of paths: "none" if it may be absent. Of lists of numbers: what a number
  // is.
  const char* choices = "";
  const char* alias = "";  // a second spelling of the path
};

std::span<const ConfigKey> ConfigKeys();
// By path or alias; null if there is none.
const ConfigKey* FindConfigKey(std::string_view path);

// The names that may stand in a section; "": at the top.
std::vector<std::string> KeyNamesIn(const std::string& section);

// Whether the key says anything in this configuration: those of a draft that is not there do not.
bool IsInUse(const ConfigKey& key, const Config& config);

// The parameters of the rule that are printed after this key; null if it is not the last of a rule's keys.
const std::map<std::string, RuleParameter>* ParametersAfter(const ConfigKey& key, const Config& config);

// "a whole number from 0 to 32", "fixed or heuristic", "a list of texts": what an error expects.
std::string Expectation(const ConfigKey& key);

// The key's value as YAML on one line.
std::string YamlValue(const ConfigKey& key, const Config& config);
// A prompt as a YAML map on one line.
std::string YamlValue(const Prompt& prompt);
// A text as YAML: plain if that reads back as the same text, else quoted.
std::string YamlText(std::string_view text);
// The shortest decimal that reads back as the same double.
std::string ShortestNumber(double value);
// The double that is written as this float is, at its shortest: 0.6 of 0.6f, not 0.60000002.
double ShortestDecimal(float value);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CONFIG_KEYS_H_
