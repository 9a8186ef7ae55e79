// What the documents for people name is there: commands with their flags, example configurations, links.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "runtime/cli/commands.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = TANDEM_SOURCE_DIR;
constexpr const char* kDocuments[] = {"README.md", "CONTRIBUTING.md", "runtime/README.md"};

std::string ReadText(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// The command that `line` starts with, behind "build/tandem "; null if there is none of that name.
const Command* FindCommand(const std::string& line) {
  for (const Command& command : Commands()) {
    if ((line + " ").starts_with(std::string(command.name) + " ")) return &command;
  }
  return nullptr;
}

TEST(Documents, NameCommandsAndFlagsThatExist) {
  const std::regex invocation("build/tandem ([^`\n]+)");
  const std::regex flag("(--[a-z-]+)");
  std::set<std::string> named;
  for (const char* document : kDocuments) {
    const std::string text = ReadText(kRoot / document);
    for (std::sregex_iterator match(text.begin(), text.end(), invocation), end; match != end; ++match) {
      const std::string line = (*match)[1];
      const Command* command = FindCommand(line);
      ASSERT_NE(command, nullptr) << document << ": build/tandem " << line;
      named.insert(command->name);
      for (std::sregex_iterator given(line.begin(), line.end(), flag); given != end; ++given) {
        const auto has = [&](const Flag& known) { return (*given)[1] == known.name; };
        EXPECT_TRUE(std::any_of(command->flags.begin(), command->flags.end(), has))
            << document << ": build/tandem " << line;
      }
    }
  }
  EXPECT_EQ(named.size(), Commands().size()) << "a command that no document names, or none were found";
}

TEST(Documents, NameFilesThatExist) {
  const std::regex link("\\]\\(([^)#:]+)\\)");
  const std::regex config("configs/[A-Za-z0-9_/]+\\.(yaml|jsonl)");
  int n_links = 0, n_configs = 0;
  for (const char* document : kDocuments) {
    const std::string text = ReadText(kRoot / document);
    const fs::path folder = (kRoot / document).parent_path();
    for (std::sregex_iterator match(text.begin(), text.end(), link), end; match != end; ++match, ++n_links) {
      EXPECT_TRUE(fs::exists(folder / (*match)[1].str())) << document << ": " << (*match)[1];
    }
    for (std::sregex_iterator match(text.begin(), text.end(), config), end; match != end;
         ++match, ++n_configs) {
      EXPECT_TRUE(fs::exists(kRoot / match->str())) << document << ": " << match->str();
    }
  }
  EXPECT_GT(n_links, 10);
  EXPECT_GT(n_configs, 5);
}

}  // namespace
}  // namespace tandem
