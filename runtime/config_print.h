// A configuration for people: resolved values with where each came from, and the reference of every key.
#ifndef TANDEM_RUNTIME_CONFIG_PRINT_H_
#define TANDEM_RUNTIME_CONFIG_PRINT_H_

#include <string>

#include "runtime/config.h"

namespace tandem {

// YAML that reads back as the same configuration; every line ends in a comment that says where its value came
// from.
std::string PrintConfig(const Config& config);

// The text of `tandem help config`: every key, what it may be, its default.
std::string ConfigHelp();

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CONFIG_PRINT_H_
