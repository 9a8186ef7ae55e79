# Finds every rule header (policies/rules and TANDEM_RULES_DIR) and generates the list that policies/registry.cc
# compiles: a rule is added by dropping one header into either folder. The struct's name is the file's name in CamelCase.
file(GLOB rule_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/policies/rules/*.h)
if(TANDEM_RULES_DIR)
  file(GLOB own_headers CONFIGURE_DEPENDS ${TANDEM_RULES_DIR}/*.h)
  if(NOT own_headers)
    message(WARNING "TANDEM_RULES_DIR=${TANDEM_RULES_DIR} holds no *.h: no rule of yours is built in")
  endif()
  list(APPEND rule_headers ${own_headers})
endif()
set(rule_stems "")
foreach(header ${rule_headers})
  get_filename_component(stem ${header} NAME_WE)
  if(NOT stem MATCHES "^[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*$")
    message(FATAL_ERROR "${header}: expected a file name like my_rule.h (the rule is then my_rule, its struct MyRule)")
  endif()
  if(stem IN_LIST rule_stems)
    message(FATAL_ERROR "${header}: there is a rule ${stem} already, in ${header_of_${stem}}; rename the file, its struct "
                        "and kInfo.name")
  endif()
  list(APPEND rule_stems ${stem})
  set(header_of_${stem} ${header})
endforeach()
list(SORT rule_stems)
set(rule_includes "")
set(rule_types "")
foreach(stem ${rule_stems})
  string(REPLACE "_" ";" words ${stem})
  set(type "")
  foreach(word ${words})
    string(SUBSTRING ${word} 0 1 first)
    string(SUBSTRING ${word} 1 -1 rest)
    string(TOUPPER ${first} first)
    string(APPEND type "${first}${rest}")
  endforeach()
  string(APPEND rule_includes "#include \"${header_of_${stem}}\"\n")
  # The comment is for the compiler's message about a struct that is not there.
  string(APPEND rule_types "TANDEM_RULE(${type})  // expected in ${header_of_${stem}}: struct tandem::rules::${type}\n")
endforeach()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/rule_headers.inc CONTENT "${rule_includes}")
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/rule_types.inc CONTENT "${rule_types}")
# Every rule's kernels: the judge's, and the deferral test's.
set(rules_cuda_source ${PROJECT_BINARY_DIR}/generated/rules_cuda.cu)
file(CONFIGURE OUTPUT ${rules_cuda_source} CONTENT "#include \"policies/defer.cuh\"
#include \"policies/judge.cuh\"
#include \"rule_headers.inc\"
namespace tandem {
#define TANDEM_RULE(Type) template void JudgeCuda<rules::Type>(const JudgeArgs&, CudaStream); \\
    template void DeferCuda<rules::Type>(const DeferArgs&, CudaStream);
#include \"rule_types.inc\"
}  // namespace tandem
")
