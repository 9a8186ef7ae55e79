// TempCheckpoint: a writable copy of a golden checkpoint in a folder of its own, removed at the end of the
// test.
#ifndef TANDEM_TESTS_RUNTIME_MODEL_TEMP_CHECKPOINT_H_
#define TANDEM_TESTS_RUNTIME_MODEL_TEMP_CHECKPOINT_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace tandem {

inline std::string GoldenFolder(const std::string& name) {
  return std::string(TANDEM_SOURCE_DIR) + "/tests/golden/models/" + name;
}

inline std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void WriteBytes(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good()) << path;
}

// A safetensors file's bytes.
inline std::string SafetensorsFile(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(uint64_t{header.size()} >> (8 * i) & 0xff));
  return bytes.append(header).append(data);
}

inline std::string HeaderOf(const std::string& file) {
  uint64_t length = 0;
  for (int i = 0; i < 8; ++i) length |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  return file.substr(8, length);
}

class TempCheckpoint {
 public:
  // Empty if no golden checkpoint is named.
  explicit TempCheckpoint(const std::string& golden = "") {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    static int n_made = 0;
    std::string name = std::string(test->test_suite_name()) + "." + test->name();
    for (char& c : name) c = c == '/' ? '_' : c;
    folder_ = testing::TempDir() + name + "." + std::to_string(getpid()) + "." + std::to_string(n_made++);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    if (!golden.empty()) std::filesystem::copy(GoldenFolder(golden), folder_);
  }
  ~TempCheckpoint() { std::filesystem::remove_all(folder_); }
  TempCheckpoint(const TempCheckpoint&) = delete;
  TempCheckpoint& operator=(const TempCheckpoint&) = delete;

  const std::string& folder() const { return folder_; }
  std::string path(const std::string& file) const { return folder_ + "/" + file; }
  void Write(const std::string& file, std::string_view bytes) const { WriteBytes(path(file), bytes); }
  std::string Read(const std::string& file) const { return ReadBytes(path(file)); }
  void Remove(const std::string& file) const { ASSERT_TRUE(std::filesystem::remove(path(file))); }
  void Replace(const std::string& file, const std::string& from, const std::string& to) const {
    std::string text = Read(file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    Write(file, text.replace(at, from.size(), to));
  }

 private:
  std::string folder_;
};

}  // namespace tandem

#endif  // TANDEM_TESTS_RUNTIME_MODEL_TEMP_CHECKPOINT_H_
