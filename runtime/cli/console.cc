#include "runtime/cli/console.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tandem {

bool StdoutHasColour() {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_colour != nullptr && *no_colour != 0) return false;
  if (term == nullptr || std::strcmp(term, "dumb") == 0) return false;
  return StdoutIsTerminal();
}

bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }
bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // C1 controls are the bytes C2 80 to C2 9F.
    const bool is_c1 = c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (is_c1) {
      out += "\u2426";
      ++i;
    } else if (c == 127) {
      out += "\u2421";
    } else if (c < ' ' && c != '\n' && c != '\t') {
      out += "\xe2\x90";
      out += static_cast<char>(0x80 + c);
    } else {
      out += text[i];
    }
  }
  return out;
}

absl::Status Print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
    return absl::OkStatus();
  }
  return absl::UnknownError(absl::StrCat("stdout: cannot write: ", std::strerror(errno)));
}

void Log(const std::string& text) { std::fprintf(stderr, "tandem: %s\n", text.c_str()); }
void Warn(const std::string& text) { Log(absl::StrCat("warning: ", text)); }

int Fail(const absl::Status& status, int otherwise) {
  const std::string message(status.message());
  const char* prefix = otherwise == kExitConfig ? "" : "tandem: ";
  for (size_t begin = 0; begin <= message.size();) {
    const size_t end = std::min(message.find('\n', begin), message.size());
    std::fprintf(stderr, "%s%s\n", prefix, message.substr(begin, end - begin).c_str());
    begin = end + 1;
  }
  // kInternal: a device that failed in a run (executor.h).
  const bool device =
      absl::IsResourceExhausted(status) || absl::IsUnavailable(status) || absl::IsInternal(status);
  return device ? kExitDevice : otherwise;
}

ProgressBar::ProgressBar() : on_(StderrIsTerminal()) {}

ProgressBar::~ProgressBar() { Hide(); }

void ProgressBar::Hide() {
  if (shown_.empty()) return;
  std::fputs("\r\033[K", stderr);
  shown_.clear();
}

void ProgressBar::Show(const std::string& what, double done) {
  if (!on_) return;
  constexpr int kWidth = 30;
  const int n_full = static_cast<int>(kWidth * std::clamp(done, 0.0, 1.0));
  std::string bar;
  for (int i = 0; i < kWidth; ++i) bar += i < n_full ? "━" : "╌";
  const std::string line = absl::StrFormat("%s %3.0f %%  %s", bar, 100 * std::clamp(done, 0.0, 1.0), what);
  if (line == shown_) return;
  shown_ = line;
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
}

}  // namespace tandem
