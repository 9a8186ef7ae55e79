#include "runtime/core/device.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

namespace tandem {

absl::StatusOr<Device> ParseDevice(std::string_view text) {
  if (text == "cpu") return Device{};
  if (text == "cuda") return Device{.cuda_index = 0};
  absl::string_view index(text.data(), text.size());
  int32_t number = 0;
  if (absl::ConsumePrefix(&index, "cuda:") && absl::SimpleAtoi(index, &number) && number >= 0)
    return Device{.cuda_index = number};
  return absl::InvalidArgumentError(
      absl::StrCat("expected cpu, cuda or cuda:N with a number N from 0, got '", std::string(text), "'"));
}

std::string Name(Device device) {
  return device.is_cuda() ? absl::StrCat("cuda:", device.cuda_index) : "cpu";
}

}  // namespace tandem
