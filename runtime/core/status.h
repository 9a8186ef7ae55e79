// Errors that a user can cause: absl::Status with a message that names the file, the place, what was expected and the
// cure. The code chooses the exit code of the command line (runtime/cli):
//
//   kInvalidArgument     what a configuration, prompt or flag says        (usage 2 or config 3, by the caller)
//   kFailedPrecondition  a checkpoint, tokenizer or pair that cannot run   4
//   kNotFound            a file or folder that is not there                4 for models, 3 for configurations
//   kResourceExhausted   memory, cache or context too small                5
//   kUnavailable         a device that is not there                        5
#ifndef TANDEM_RUNTIME_CORE_STATUS_H_
#define TANDEM_RUNTIME_CORE_STATUS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#define TANDEM_RETURN_IF_ERROR(expression)                                  \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define TANDEM_STATUS_CONCAT_INNER_(a, b) a##b
#define TANDEM_STATUS_CONCAT_(a, b) TANDEM_STATUS_CONCAT_INNER_(a, b)
#define TANDEM_ASSIGN_OR_RETURN(left, expression) \
  TANDEM_ASSIGN_OR_RETURN_IMPL_(TANDEM_STATUS_CONCAT_(or_, __LINE__), left, expression)
#define TANDEM_ASSIGN_OR_RETURN_IMPL_(temporary, left, expression) \
  auto temporary = (expression);                                   \
  if (!temporary.ok()) return temporary.status();                  \
  left = *std::move(temporary)

#endif  // TANDEM_RUNTIME_CORE_STATUS_H_
