// The program `tandem`: runtime/cli holds the rest.
#include <cstdio>
#include <exception>
#include <new>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"

int main(int argc, char** argv) {
  try {
    return tandem::RunTandem(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("tandem: out of memory\n", stderr);
    return tandem::kExitDevice;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tandem: %s\n", error.what());
    return tandem::kExitFailure;
  }
}
