#include "runtime/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>

#include "tests/runtime/model/temp_checkpoint.h"

namespace tandem {
namespace {

using testing::ElementsAre;

// A copy that ends where the file does, so that a sanitizer sees a read past it.
struct Exact {
  explicit Exact(std::string_view bytes)
      : size(bytes.size()), data(std::make_unique<std::byte[]>(bytes.size())) {
    std::memcpy(data.get(), bytes.data(), bytes.size());
  }
  std::span<const std::byte> span() const { return {data.get(), size}; }
  size_t size;
  std::unique_ptr<std::byte[]> data;
};

constexpr std::string_view kAgain = "; the file is damaged: copy or download it again";

std::string ErrorOf(std::string_view header, std::string_view data) {
  const Exact file(SafetensorsFile(header, data));
  const auto tensors = ParseSafetensors(file.span(), "w.safetensors");
  EXPECT_FALSE(tensors.ok()) << header;
  EXPECT_EQ(tensors.status().code(), absl::StatusCode::kFailedPrecondition);
  return std::string(tensors.status().message());
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
         "}";
}

TEST(Safetensors, ReadsWhatAFileHolds) {
  // 1.0 and -2.0 in bf16 and fp16, 1.5 in fp32; a header length that leaves the data unaligned.
  const std::string data("\x80\x3f\x00\xc0\x00\x3c\x00\xc0\x00\x00\xc0\x3f\x07", 13);
  for (const std::string padding : {"", " ", "  ", "   "}) {
    const std::string header =
        "{\"__metadata__\":{\"format\":\"pt\"}," + Entry("f", "F32", "[1,1]", "[8,12]") + "," +
        Entry("h", "F16", "[2]", "[4,8]") + "," + Entry("b", "BF16", "[2,1]", "[0,4]") + "," +
        Entry("none", "F32", "[3,0]", "[8,8]") + "," + Entry("u", "U8", "[]", "[12,13]") + "}" + padding;
    const Exact file(SafetensorsFile(header, data));
    const auto tensors = ParseSafetensors(file.span(), "w.safetensors");
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    ASSERT_EQ(tensors->size(), 5u);
    const Tensor& b = (*tensors)[0];
    EXPECT_EQ(b.name, "b");
    EXPECT_EQ(b.dtype, DType::kBf16);
    EXPECT_THAT(b.shape, ElementsAre(2, 1));
    EXPECT_EQ(b.n_elements(), 2);
    EXPECT_EQ(LoadFloat(b.data.data(), *b.dtype, 1), -2);
    EXPECT_EQ((*tensors)[1].name, "h");
    EXPECT_EQ(LoadFloat((*tensors)[1].data.data(), DType::kF16, 0), 1);
    EXPECT_EQ(LoadFloat((*tensors)[1].data.data(), DType::kF16, 1), -2);
    EXPECT_EQ((*tensors)[2].name, "none");
    EXPECT_TRUE((*tensors)[2].data.empty());
    EXPECT_EQ(LoadFloat((*tensors)[3].data.data(), DType::kF32, 0), 1.5f);
    EXPECT_EQ((*tensors)[4].dtype, std::nullopt);
    EXPECT_EQ((*tensors)[4].dtype_name, "U8");
    EXPECT_EQ((*tensors)[4].n_elements(), 1);
  }
}

TEST(Safetensors, RefusesADamagedHeader) {
  const std::string path = "w.safetensors";
  const auto parse = [&](std::string_view bytes) {
    const Exact file(bytes);
    return std::string(ParseSafetensors(file.span(), path).status().message());
  };
  EXPECT_EQ(parse("1234"),
            path + ": truncated: 4 bytes, a safetensors file has at least 8" + std::string(kAgain));
  EXPECT_EQ(parse(std::string("\x40\0\0\0\0\0\0\0{}", 10)),
            path + ": truncated: a header of 64 bytes, but only 2 bytes follow" + std::string(kAgain));
  EXPECT_EQ(
      parse(std::string("\x40\0\0\0\0\0\0\x80{}", 10)),
      path + ": not a safetensors file: a header of 9223372036854775872 bytes, expected at most 100000000" +
          std::string(kAgain));
  EXPECT_EQ(ErrorOf("[]", ""),
            path + ": not a safetensors file: the header does not begin with '{'" + std::string(kAgain));
  EXPECT_EQ(ErrorOf("{\"a\":", ""),
            path + " (header):1:6: not valid JSON (it ends too early)" + std::string(kAgain));
  EXPECT_EQ(ErrorOf("{\"a\":\n 1,,}", ""), path + " (header):2:4: not valid JSON" + std::string(kAgain));
}

TEST(Safetensors, RefusesEntriesThatLackOrContradict) {
  const auto tensor_error = [](const std::string& entry, std::string_view data) {
    const std::string prefix = "w.safetensors: tensor \"a\": ";
    std::string message = ErrorOf("{" + entry + "}", data);
    EXPECT_TRUE(message.starts_with(prefix)) << message;
    EXPECT_TRUE(message.ends_with(kAgain)) << message;
    return message.substr(prefix.size(), message.size() - prefix.size() - kAgain.size());
  };
  EXPECT_EQ(tensor_error("\"a\":3", ""), "expected an object with dtype, shape and data_offsets");
  EXPECT_EQ(tensor_error("\"a\":{\"shape\":[],\"data_offsets\":[0,0]}", ""), "dtype: expected a string");
  EXPECT_EQ(tensor_error(Entry("a", "F7", "[1]", "[0,4]"), "0000"),
            "dtype \"F7\" is not one of safetensors'");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[-1]", "[0,4]"), "0000"),
            "shape: expected an array of integers from 0");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[1]", "[0]"), "0000"),
            "data_offsets: expected two integers from 0");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[1]", "[4,0]"), "0000"),
            "data_offsets: expected begin <= end, got 4 and 0");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[2]", "[0,8]"), "0000"),
            "its data ends at byte 8 but the file holds only 4 bytes of data: truncated");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[1]", "[18446744073709551612,18446744073709551615]"), "0000"),
            "its data ends at byte 18446744073709551615 but the file holds only 4 bytes of data: truncated");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[2,3]", "[0,4]"), "0000"),
            "shape [2, 3] of F32 needs 24 bytes, data_offsets give 4");
  EXPECT_EQ(tensor_error(Entry("a", "F32", "[4294967296,4294967296]", "[0,4]"), "0000"),
            "shape [4294967296, 4294967296] of F32 needs too many bytes, data_offsets give 4");
}

TEST(Safetensors, RefusesOverlapsHolesLeftoversAndDuplicates) {
  const std::string a = Entry("a", "F32", "[1]", "[0,4]");
  EXPECT_EQ(ErrorOf("{" + a + "," + Entry("b", "F32", "[1]", "[2,6]") + "}", "000000"),
            "w.safetensors: tensor \"b\": its data overlaps tensor \"a\" by 2 bytes" + std::string(kAgain));
  EXPECT_EQ(ErrorOf("{" + a + "," + Entry("b", "F32", "[1]", "[0,4]") + "}", "0000"),
            "w.safetensors: tensor \"b\": its data overlaps tensor \"a\" by 4 bytes" + std::string(kAgain));
  EXPECT_EQ(
      ErrorOf("{" + a + "," + Entry("b", "U8", "[1]", "[6,7]") + "}", "0000000"),
      "w.safetensors: tensor \"b\": 2 unused bytes lie between it and tensor \"a\"" + std::string(kAgain));
  EXPECT_EQ(ErrorOf("{" + Entry("a", "U8", "[1]", "[1,2]") + "}", "00"),
            "w.safetensors: tensor \"a\": 1 unused bytes lie between it and the start of the data" +
                std::string(kAgain));
  EXPECT_EQ(ErrorOf("{" + a + "}", "00000"),
            "w.safetensors: oversized: 1 bytes follow the last tensor, expected none" + std::string(kAgain));
  EXPECT_EQ(ErrorOf("{" + a + "," + a + "}", "0000"),
            "w.safetensors (header): \"a\" is there twice, expected once; write the file again");
}

std::string SmallFile() {
  return SafetensorsFile("{\"__metadata__\":{\"format\":\"pt\"}," + Entry("w", "F32", "[3,5]", "[0,60]") +
                             "," + Entry("b", "BF16", "[7]", "[60,74]") + "," +
                             Entry("s", "F16", "[]", "[74,76]") + "}",
                         std::string(76, 'x'));
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string whole = SmallFile();
  for (size_t length = 0; length < whole.size(); ++length) {
    const Exact file(std::string_view(whole).substr(0, length));
    EXPECT_FALSE(ParseSafetensors(file.span(), "w").ok()) << length;
  }
  const Exact file(whole);
  EXPECT_TRUE(ParseSafetensors(file.span(), "w").ok());
}

// Whatever a header says, what is accepted lies inside the file and has the size of its shape.
void ExpectSafe(const std::string& bytes) {
  const Exact file(bytes);
  const auto tensors = ParseSafetensors(file.span(), "w");
  if (!tensors.ok()) {
    EXPECT_EQ(tensors.status().message().find('\n'), absl::string_view::npos) << tensors.status();
    return;
  }
  for (const Tensor& tensor : *tensors) {
    if (!tensor.data.empty()) {
      EXPECT_GE(tensor.data.data(), file.span().data());
      EXPECT_LE(tensor.data.data() + tensor.data.size(), file.span().data() + file.size);
    }
    if (tensor.dtype) {
      EXPECT_EQ(tensor.data.size(), tensor.n_elements() * SizeOf(*tensor.dtype));
    }
  }
}

TEST(Safetensors, DamagedHeadersAreErrorsOrHarmless) {
  const std::string whole = SmallFile();
  const size_t header_end = 8 + HeaderOf(whole).size();
  for (size_t i = 0; i < header_end; ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(value);
      ExpectSafe(damaged);
    }
  }
  std::mt19937 random(7);
  for (int trial = 0; trial < 20000; ++trial) {
    std::string damaged = whole;
    for (int n = 0; n < 4; ++n) {
      const size_t i = 8 + random() % (header_end - 8);
      damaged[i] = random() % 2 == 0 ? "0123456789[]{},:\"-.eE "[random() % 22] : static_cast<char>(random());
    }
    ExpectSafe(damaged);
  }
}

TEST(SafetensorsFolder, MapsOneFile) {
  const auto weights = Safetensors::Open(GoldenFolder("qwen3_fp32"));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT((*weights)->files(), ElementsAre(GoldenFolder("qwen3_fp32") + "/model.safetensors"));
  const std::string file = ReadBytes((*weights)->files()[0]);
  const Tensor* norm = (*weights)->Find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_THAT(norm->shape, ElementsAre(36));
  const std::string_view data(reinterpret_cast<const char*>(norm->data.data()), norm->data.size());
  EXPECT_NE(file.find(data), std::string::npos);
  EXPECT_EQ((*weights)->Find("model.norm"), nullptr);
}

TEST(SafetensorsFolder, MapsShards) {
  const auto weights = Safetensors::Open(GoldenFolder("llama_mqa_sharded"));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->files().size(), 4u);
  EXPECT_EQ((*weights)->tensors().size(), 51u);  // as transformers counted when it wrote them
  for (const auto& [name, tensor] : (*weights)->tensors()) EXPECT_EQ(tensor.dtype, DType::kF16) << name;
}

TEST(SafetensorsFolder, ErrorsOfIndexAndShards) {
  const auto error = [](const TempCheckpoint& checkpoint, absl::StatusCode code) {
    const auto weights = Safetensors::Open(checkpoint.folder());
    EXPECT_EQ(weights.status().code(), code) << weights.status();
    std::string message(weights.status().message());
    for (size_t at; (at = message.find(checkpoint.folder())) != std::string::npos;) {
      message.replace(at, checkpoint.folder().size(), "DIR");
    }
    return message;
  };
  const std::string index = "model.safetensors.index.json";
  const std::string third = "model-00003-of-00004.safetensors";
  {
    TempCheckpoint checkpoint("llama_mqa_sharded");
    checkpoint.Remove(third);
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kNotFound),
              "DIR/" + third + ": no such file, but DIR/" + index +
                  " names it; download or copy the missing shard");
  }
  {
    TempCheckpoint checkpoint("llama_mqa_sharded");
    checkpoint.Write("model-00002-of-00004.safetensors", checkpoint.Read(third));
    EXPECT_THAT(error(checkpoint, absl::StatusCode::kFailedPrecondition),
                testing::MatchesRegex(
                    "DIR/model-00003-of-00004.safetensors: tensor \"[a-z0-9_.]*\" is in "
                    "DIR/model-00002-of-00004.safetensors too, expected in one shard; remove one of "
                    "them"));
  }
  {
    TempCheckpoint checkpoint("llama_mqa_sharded");
    checkpoint.Replace(index, "\"lm_head.weight\"", "\"lm_head.wait\"");
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kFailedPrecondition),
              "DIR/" + index +
                  ": weight_map: \"lm_head.wait\" is not in DIR/model-00004-of-00004.safetensors; index "
                  "and shards do not belong together");
  }
  {
    TempCheckpoint checkpoint("llama_mqa_sharded");
    checkpoint.Replace(index, third, "../" + third);
    EXPECT_THAT(error(checkpoint, absl::StatusCode::kFailedPrecondition),
                testing::EndsWith(": expected the name of a file in the folder"));
    checkpoint.Write(index, "{\"weight_map\": []}");
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kFailedPrecondition),
              "DIR/" + index + ": weight_map: expected an object of tensor names and files");
    checkpoint.Write(index, "{\"weight_map\": {");
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kFailedPrecondition),
              "DIR/" + index + ":1:17: not valid JSON (it ends too early)" + std::string(kAgain));
    checkpoint.Remove(index);
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kNotFound),
              "DIR: no weights, expected model.safetensors or model.safetensors.index.json; download or copy "
              "the whole "
              "folder");
    checkpoint.Write("pytorch_model.bin", "");
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kNotFound),
              "DIR: no weights, expected model.safetensors or model.safetensors.index.json; "
              "pytorch_model.bin is not "
              "read: save the model again with safe_serialization=True");
    checkpoint.Write("model.safetensors", "");
    EXPECT_EQ(
        error(checkpoint, absl::StatusCode::kFailedPrecondition),
        "DIR/model.safetensors: truncated: 0 bytes, a safetensors file has at least 8" + std::string(kAgain));
    checkpoint.Remove("model.safetensors");
    std::filesystem::create_directory(checkpoint.path("model.safetensors"));
    EXPECT_EQ(error(checkpoint, absl::StatusCode::kFailedPrecondition),
              "DIR/model.safetensors: expected a file");
  }
}

}  // namespace
}  // namespace tandem
