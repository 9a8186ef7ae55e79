// TANDEM_CHECK(condition) << "more": a bug stops the program with the expression, the values and the place.
//
// For what only a mistake in tandem itself can cause. What a user wrote is an absl::Status; a shortage at run time is
// part of a signature. TANDEM_DCHECK is the same in debug builds and nothing in release builds.
#ifndef TANDEM_RUNTIME_CORE_CHECK_H_
#define TANDEM_RUNTIME_CORE_CHECK_H_

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace tandem::internal {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* expression) {
    message_ << file << ":" << line << ": check failed: " << expression << " ";
  }
  [[noreturn]] ~CheckFailure() {
    std::fprintf(stderr, "%s\n", message_.str().c_str());
    std::abort();
  }
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace tandem::internal

#define TANDEM_CHECK(condition)                 \
  (condition) ? (void)0                         \
              : ::tandem::internal::Voidify() & \
                    ::tandem::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
#ifdef NDEBUG
#define TANDEM_DCHECK(condition) TANDEM_CHECK(true || (condition))
#else
#define TANDEM_DCHECK(condition) TANDEM_CHECK(condition)
#endif

#endif  // TANDEM_RUNTIME_CORE_CHECK_H_
