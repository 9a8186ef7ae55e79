// Includes go down: a file includes its own folder and lower layers only. This list is the design, not to be edited to
// make a change pass.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>

namespace tandem {
namespace {

namespace fs = std::filesystem;

// The layer of a path below the source tree: the longest of these folders that holds it.
const std::map<std::string, int> kLevels = {
    {"runtime/core", 0}, {"kernels", 1}, {"runtime/model", 2}, {"policies", 2},
    {"draft", 3},        {"target", 3},  {"runtime", 4},       {"bench", 5},
};

std::string LayerOf(const std::string& path) {
  std::string layer;
  for (const auto& [folder, level] : kLevels) {
    if (path.starts_with(folder + "/") && folder.size() > layer.size()) layer = folder;
  }
  return layer;
}

bool Allowed(const std::string& from, const std::string& to) {
  if (from.starts_with("policies/rules/")) return to == "policies/rule.h" || to.starts_with("runtime/core/");
  const std::string from_layer = LayerOf(from);
  const std::string to_layer = LayerOf(to);
  return from_layer == to_layer || kLevels.at(to_layer) < kLevels.at(from_layer);
}

TEST(Layering, TheRuleItself) {
  EXPECT_TRUE(Allowed("kernels/law/law.h", "runtime/core/law.h"));
  EXPECT_FALSE(Allowed("runtime/core/law.h", "kernels/law/law.h"));
  EXPECT_FALSE(Allowed("draft/ngram.cc", "target/verifier.h"));
  EXPECT_FALSE(Allowed("policies/judge.cc", "runtime/model/model.h"));
  EXPECT_FALSE(Allowed("policies/rules/opt.h", "kernels/law/law.h"));
  EXPECT_FALSE(Allowed("policies/rules/opt.h", "policies/judge.h"));
  EXPECT_TRUE(Allowed("runtime/engine.cc", "draft/ngram.h"));
}

TEST(Layering, IncludesGoDown) {
  const fs::path root = TANDEM_SOURCE_DIR;
  const std::regex include("^\\s*#\\s*include \"([^\"]+)\"");
  int n_includes = 0;
  for (const char* top : {"runtime", "draft", "target", "policies", "kernels", "bench"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
      const std::string path = fs::relative(entry.path(), root);
      ASSERT_NE(LayerOf(path), "") << path;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        std::smatch match;
        if (!std::regex_search(line, match, include)) continue;
        const std::string included = match[1];
        if (LayerOf(included).empty()) continue;  // generated
        ++n_includes;
        EXPECT_TRUE(Allowed(path, included)) << path << " includes " << included;
      }
    }
  }
  EXPECT_GT(n_includes, 100);
}

}  // namespace
}  // namespace tandem
