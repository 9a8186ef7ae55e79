// Checkpoint folders for tests of the command line: the golden models, copied, with a tokenizer, or broken on
// purpose.
#ifndef TANDEM_TESTS_RUNTIME_TINY_CHECKPOINTS_H_
#define TANDEM_TESTS_RUNTIME_TINY_CHECKPOINTS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>

namespace tandem {

inline std::string ReadAll(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

inline std::string WriteAll(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

// A fresh folder, gone at the end.
class TestFolder {
 public:
  TestFolder() {
    std::string path = testing::TempDir() + "/tandem_XXXXXX";
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    path_ = std::filesystem::canonical(path).string();
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A copy of a golden model under `to`.
inline void CopyModel(const std::string& name, const std::string& to) {
  std::filesystem::create_directories(to);
  for (const auto& entry :
       std::filesystem::directory_iterator(TANDEM_SOURCE_DIR "/tests/golden/models/" + name)) {
    if (entry.path().filename() == "expected.safetensors") continue;
    std::filesystem::copy_file(entry.path(), to + "/" + entry.path().filename().string());
  }
}

inline void EditJson(const std::string& path, const std::function<void(nlohmann::ordered_json&)>& edit) {
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(ReadAll(path));
  edit(json);
  WriteAll(path, json.dump());
}

// The character that byte-level BPE writes for a byte: the byte itself where it is a printable character of
// Latin-1, else the next unused one from U+0100 on (GPT-2's bytes_to_unicode).
inline std::string ByteCharacter(int byte) {
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

// A tokenizer of one token per byte, id = byte; then words that no text encodes to; and last, as id n_ids -
// 1,
// `<|end|>`.
inline nlohmann::ordered_json ByteTokenizer(int n_ids = 257) {
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 256, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {}, "merges": []}})");
  for (int byte = 0; byte < 256; ++byte) json["model"]["vocab"][ByteCharacter(byte)] = byte;
  for (int id = 256; id < n_ids - 1; ++id) json["model"]["vocab"]["word" + std::to_string(id)] = id;
  json["added_tokens"][0]["id"] = n_ids - 1;
  return json;
}

// Sets the first element of a bf16 tensor to NaN.
inline void PlantNan(const std::string& path, const std::string& tensor) {
  std::string bytes = ReadAll(path);
  uint64_t n_header;
  std::memcpy(&n_header, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, n_header));
  ASSERT_EQ(header.at(tensor).at("dtype"), "BF16");
  const size_t at = 8 + n_header + header.at(tensor).at("data_offsets").at(0).get<size_t>();
  const uint16_t nan = 0x7FC0;
  std::memcpy(bytes.data() + at, &nan, 2);
  WriteAll(path, bytes);
}

}  // namespace tandem

#endif  // TANDEM_TESTS_RUNTIME_TINY_CHECKPOINTS_H_
