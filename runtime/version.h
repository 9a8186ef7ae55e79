// The version that `tandem --version` and reports state; CMakeLists.txt has the same.
#ifndef TANDEM_RUNTIME_VERSION_H_
#define TANDEM_RUNTIME_VERSION_H_

namespace tandem {

inline constexpr const char kVersion[] = "0.1.0";

}  // namespace tandem

#endif  // TANDEM_RUNTIME_VERSION_H_
