// What a configuration says about cascades without speculation, checked: what each mode needs and what it cannot be
// combined with. And the generators that such a configuration asks for.
#ifndef TANDEM_RUNTIME_CASCADE_CASCADE_CONFIG_H_
#define TANDEM_RUNTIME_CASCADE_CASCADE_CONFIG_H_

#include <string>
#include <vector>

#include "runtime/cascade/query_cascade.h"
#include "runtime/config.h"

namespace tandem {

// Of the cascade's own rule and its parameters CheckRuleConfig (runtime/rule_config.h) speaks.
void CheckCascadeConfig(const Config& config, std::vector<Complaint>* complaints);

// REQUIRES: config.cascade.is_query().
QueryCascadeOptions MakeQueryCascadeOptions(const CascadeConfig& config);

// "token by token: ...", "whole answers: ...": the cascade in a report; empty without one.
std::string DescribeCascade(const Config& config);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_CASCADE_CASCADE_CONFIG_H_
