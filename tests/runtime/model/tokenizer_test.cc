// The tokenizer against Hugging Face `tokenizers` (tests/golden/make_tokenizer_golden.py) and against hostile
// files.
#include "runtime/model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "runtime/model/added_tokens.h"
#include "runtime/model/bpe.h"
#include "runtime/model/nfc.h"
#include "runtime/model/pretokenizer.h"
#include "runtime/model/utf8.h"

namespace tandem {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

const std::string kFolder = TANDEM_SOURCE_DIR "/tests/golden/tokenizer/";
constexpr char kReplacement[] = "\xEF\xBF\xBD";

Json ReadJson(const std::string& name) { return Json::parse(std::ifstream(kFolder + name)); }

std::unique_ptr<const Tokenizer> LoadStyle(const std::string& style) {
  absl::StatusOr<std::unique_ptr<const Tokenizer>> loaded =
      Tokenizer::Load(kFolder + style + ".tokenizer.json");
  if (!loaded.ok()) ADD_FAILURE() << loaded.status();
  return loaded.ok() ? *std::move(loaded) : nullptr;
}

std::string Hash(std::string_view bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  char text[17];
  std::snprintf(text, sizeof(text), "%016lx", static_cast<unsigned long>(hash));
  return text;
}

// `ids` and `text` as the golden files have them (short_ids and short_text of the script).
Json ShortIds(const std::vector<int32_t>& ids) {
  if (ids.size() <= 200) return ids;
  std::string bytes(ids.size() * 4, '\0');
  std::memcpy(bytes.data(), ids.data(), bytes.size());
  return {ids.size(), Hash(bytes)};
}
Json ShortText(const std::string& text) {
  if (text.size() <= 1000) return text;
  return {text.size(), Hash(text)};
}

std::vector<std::string> Texts() {
  std::vector<std::string> texts;
  for (const Json& item : ReadJson("texts.json")) {
    std::string& text = texts.emplace_back();
    if (item.is_string()) {
      text = item.get<std::string>();
    } else {
      for (int i = 0; i < item[1].get<int>(); ++i) text += item[0].get<std::string>();
    }
  }
  return texts;
}

// Pushes `ids` one by one. After each, what came out must be valid UTF-8 and lack at most an unfinished
// character.
std::string Streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  TokenStream stream(tokenizer, skip_special);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string piece = stream.Push(ids[i]);
    EXPECT_EQ(FindInvalidUtf8(piece), std::nullopt);
    text += piece;
    if (ids.size() > 200) continue;  // the check below is quadratic
    const std::string so_far = tokenizer.Decode(std::span(ids).first(i + 1), skip_special);
    EXPECT_TRUE(so_far == text || so_far == text + kReplacement) << so_far << " after " << text;
  }
  return text + stream.Finish();
}

class Golden : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Styles, Golden, testing::Values("gpt2", "llama3", "qwen2", "mixed"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Golden, EncodesAndDecodesTexts) {
  const auto tokenizer = LoadStyle(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const Json expected = ReadJson(GetParam() + std::string(".expected.json"));
  const std::vector<std::string> texts = Texts();
  ASSERT_GE(texts.size(), 300u);
  ASSERT_EQ(texts.size(), expected["encode"].size());
  for (size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "text " << i << ": " << texts[i].substr(0, 200));
    const Json& row = expected["encode"][i];
    const auto ids = tokenizer->Encode(texts[i], /*add_special_tokens=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(ShortIds(*ids), row[0]);

    std::vector<int32_t> with_special = expected["prefix"];
    with_special.insert(with_special.end(), ids->begin(), ids->end());
    for (const Json& id : expected["suffix"]) with_special.push_back(id);
    EXPECT_EQ(*tokenizer->Encode(texts[i]), with_special);

    const Json decoded = row[1].is_null() ? ShortText(texts[i]) : row[1];
    EXPECT_EQ(ShortText(tokenizer->Decode(*ids, /*skip_special_tokens=*/false)), decoded);
    EXPECT_EQ(ShortText(tokenizer->Decode(*ids)), row[2].is_null() ? decoded : row[2]);
    for (const bool skip : {false, true}) {
      EXPECT_EQ(Streamed(*tokenizer, *ids, skip), tokenizer->Decode(*ids, skip));
    }
  }
}

TEST_P(Golden, DecodesAnyIds) {
  const auto tokenizer = LoadStyle(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const Json rows = ReadJson(GetParam() + std::string(".expected.json"))["decode"];
  int n_broken = 0;
  for (const Json& row : rows) {
    const std::vector<int32_t> ids = row[0];
    const std::string decoded = row[1];
    n_broken += decoded.find(kReplacement) != decoded.npos;
    EXPECT_EQ(tokenizer->Decode(ids, false), decoded);
    EXPECT_EQ(tokenizer->Decode(ids, true), row[2].is_null() ? decoded : row[2].get<std::string>());
    EXPECT_EQ(Streamed(*tokenizer, ids, false), decoded);
  }
  if (GetParam() != std::string("mixed")) {  // it has no bytes beyond ASCII
    EXPECT_GT(n_broken, 40);
  }
}

TEST_P(Golden, TableIsTheFiles) {
  const auto tokenizer = LoadStyle(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const Json file = ReadJson(GetParam() + std::string(".tokenizer.json"));
  std::map<int32_t, std::pair<std::string, bool>> table;
  for (const auto& [token, id] : file["model"]["vocab"].items()) table[id] = {token, false};
  for (const Json& added : file["added_tokens"]) table[added["id"]] = {added["content"], added["special"]};
  ASSERT_EQ(tokenizer->n_ids(), table.rbegin()->first + 1);
  for (int32_t id = 0; id < tokenizer->n_ids(); ++id) {
    ASSERT_EQ(tokenizer->token(id), table[id].first);
    EXPECT_EQ(tokenizer->id(table[id].first), id);
    EXPECT_EQ(tokenizer->is_special(id), table[id].second) << table[id].first;
  }
  for (const int32_t id : {-1, tokenizer->n_ids(), INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->token(id), std::nullopt);
    EXPECT_FALSE(tokenizer->is_special(id));
    EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{id}), "");
  }
  EXPECT_EQ(tokenizer->id("no such token"), std::nullopt);
}

TEST(Utf8, InvalidIsRefusedAtItsOffset) {
  const auto tokenizer = LoadStyle("gpt2");
  ASSERT_NE(tokenizer, nullptr);
  const Json rows = ReadJson("invalid_utf8.json");
  ASSERT_GT(rows.size(), 100u);
  for (const Json& row : rows) {
    const std::string hex = row[0];
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2)
      bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    EXPECT_EQ(FindInvalidUtf8(bytes), row[1].get<size_t>()) << hex;
    const auto ids = tokenizer->Encode(bytes);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte " + row[1].dump() + " ")) << hex;
  }
}

TEST(Utf8, ValidPassesAndRoundTrips) {
  std::string all;
  std::vector<char32_t> code_points;
  for (char32_t c = 0; c < 0x110000; c = c == 0xD7FF ? 0xE000 : c + 1) {
    AppendUtf8(c, all);
    code_points.push_back(c);
  }
  EXPECT_EQ(FindInvalidUtf8(all), std::nullopt);
  size_t at = 0;
  for (const char32_t c : code_points) ASSERT_EQ(NextCodePoint(all, at), c);
  EXPECT_EQ(at, all.size());
  for (size_t i = code_points.size(); i-- > 0;) ASSERT_EQ(PreviousCodePoint(all, at), code_points[i]);
  EXPECT_EQ(at, 0u);
}

// The ranges of the code points for which `holds`, as the golden file has them.
template <typename Holds>
Json Ranges(Holds holds) {
  Json ranges = Json::array();
  for (char32_t c = 0; c < 0x110000; c = c == 0xD7FF ? 0xE000 : c + 1) {
    if (!holds(c)) continue;
    if (!ranges.empty() && ranges.back()[1] == c - 1) {
      ranges.back()[1] = c;
    } else {
      ranges.push_back({c, c});
    }
  }
  return ranges;
}

TEST(Unicode, ClassesOfEveryCodePoint) {
  const Json golden = ReadJson("unicode.json");
  ASSERT_EQ(golden["classes"].size(), 8u);
  for (const Json& row : golden["classes"]) {
    const auto pattern = Pattern::Compile(row[0].get<std::string>());
    ASSERT_TRUE(pattern.ok()) << pattern.status();
    std::vector<ByteSpan> matches;
    EXPECT_EQ(Ranges([&](char32_t c) {
                std::string text;
                AppendUtf8(c, text);
                matches.clear();
                EXPECT_TRUE(pattern->FindAll(text, matches).ok());
                return !matches.empty();
              }),
              row[1])
        << row[0];
    if (row[0] == "\\s") {
      EXPECT_EQ(Ranges(IsWhiteSpace), row[1]);
    }
  }
}

TEST(Unicode, WordCharactersOfEveryCodePoint) {
  auto added = AddedTokens::New();
  ASSERT_TRUE(added.ok());
  added->Add("<W>", {.id = 0, .single_word = true, .lstrip = false, .rstrip = false});
  std::vector<TextSegment> before, after;
  EXPECT_EQ(Ranges([&](char32_t c) {
              std::string character;
              AppendUtf8(c, character);
              before.clear();
              after.clear();
              EXPECT_TRUE(added->Split(character + "<W>", before).ok());
              EXPECT_TRUE(added->Split("<W>" + character, after).ok());
              EXPECT_EQ(before.size(), after.size());
              return before.size() == 1;  // one text: the token was not found
            }),
            ReadJson("unicode.json")["word"]);
}

TEST(Unicode, NfcOfEveryCodePoint) {
  const Json golden = ReadJson("unicode.json")["nfc"];
  ASSERT_EQ(golden.size(), 4u);
  for (const Json& row : golden) {
    const std::string form = row[0];
    const size_t hole = form.find("{}");
    for (char32_t block = 0; block < 0x110; ++block) {
      std::string normal;
      for (char32_t c = block << 12; c < (block + 1) << 12; ++c) {
        if (c >= 0xD800 && c < 0xE000) continue;
        std::string text = form.substr(0, hole);
        AppendUtf8(c, text);
        text += form.substr(hole + 2);
        normal += NormalizeNfc(text).value_or(text);
      }
      EXPECT_EQ(Hash(normal), row[1][block]) << form << " in block " << static_cast<uint32_t>(block);
    }
  }
}

TEST(PreTokenizer, SplitsAsTheGoldens) {
  const Json golden = ReadJson("splits.json");
  const std::map<std::string, SplitBehavior> behaviors = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  ASSERT_GT(golden["cases"].size(), 20u);
  for (const Json& row : golden["cases"]) {
    auto pattern = Pattern::Compile(row[0].get<std::string>());
    ASSERT_TRUE(pattern.ok()) << pattern.status();
    PreTokenizer pre_tokenizer;
    pre_tokenizer.splits.push_back({*std::move(pattern), behaviors.at(row[1]), row[2]});
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const std::string text = golden["texts"][i];
      std::vector<std::string_view> words;
      std::deque<std::string> prefixed;
      ASSERT_TRUE(pre_tokenizer.Run(text, words, prefixed).ok());
      EXPECT_EQ(Json(words), row[3][i]) << row[0] << " " << row[1] << " " << row[2] << ": " << text;
    }
  }
}

TEST(Oniguruma, RefusesWhatPcre2ReadsOtherwise) {
  for (const char* regex : {"\\w+",
                            "\\b",
                            "\\h",
                            "\\R",
                            "\\X",
                            "\\K",
                            "\\1",
                            "\\Qa\\E",
                            "(?i)a",
                            "(?<n>a)",
                            "(?#x)",
                            "(*UTF)a",
                            "[a[b]]",
                            "[a&&b]",
                            "[]a]",
                            "[[:alpha:]]",
                            "a{2}+",
                            "a{2}?",
                            "\\p{Han}",
                            "\\p{Nope}",
                            "\\p",
                            "\\p{L",
                            "\\pL",
                            "[\\P{L}]",
                            "(?i:ss)",
                            "(?i:\\p{Lu})",
                            "(?i:\xC3\xA9)",
                            "\\xff",
                            "\\x{110000}",
                            "\\x{fffffffff}",
                            "\\x{",
                            "\\u12",
                            "(",
                            ")",
                            "[",
                            "\\",
                            "a**"}) {
    EXPECT_EQ(Pattern::Compile(regex).status().code(), absl::StatusCode::kFailedPrecondition) << regex;
  }
}

// What the header of bpe.h says, word for word: quadratic, no heap, no list.
std::vector<int32_t> MergeNaively(const Bpe& bpe, std::vector<int32_t> ids) {
  while (true) {
    const Bpe::Merge* best = nullptr;
    size_t where = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto it = bpe.merges.find(Bpe::PairKey(ids[i], ids[i + 1]));
      if (it != bpe.merges.end() && (best == nullptr || it->second.rank < best->rank)) {
        best = &it->second;
        where = i;
      }
    }
    if (best == nullptr) return ids;
    ids[where] = best->id;
    ids.erase(ids.begin() + where + 1);
  }
}

TEST(Bpe, MergesLowestRankFirstThenLeftmost) {
  std::mt19937 random(1);
  BpeScratch scratch;
  for (int round = 0; round < 300; ++round) {
    Bpe bpe;
    bpe.byte_ids.fill(-1);
    const int n_letters = 1 + round % 4;
    for (int i = 0; i < n_letters; ++i) bpe.byte_ids['a' + i] = i;
    int32_t n_ids = n_letters;
    for (uint32_t rank = 0; rank < 24; ++rank) {
      const int32_t left = random() % n_ids, right = random() % n_ids;
      if (bpe.merges.try_emplace(Bpe::PairKey(left, right), Bpe::Merge{rank, n_ids}).second) ++n_ids;
    }
    std::string word;
    std::vector<int32_t> bytes;
    for (size_t n = random() % 80; n > 0; --n) {
      bytes.push_back(random() % n_letters);
      word.push_back(static_cast<char>('a' + bytes.back()));
    }
    std::vector<int32_t> ids = {-7};
    bpe.Encode(word, scratch, ids);
    ASSERT_EQ(ids.front(), -7);
    ids.erase(ids.begin());
    EXPECT_EQ(ids, MergeNaively(bpe, bytes)) << word;
  }
}

// A file of a few tokens for the tests of errors: a, b, ab, and the added <s>.
Json SmallFile() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+|b"}, "behavior": "Isolated", "invert": false},
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})");
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadText(const std::string& text) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "tokenizer_test.json";
  std::ofstream(path, std::ios::binary) << text;
  auto tokenizer = Tokenizer::Load(path);
  std::remove(path.c_str());
  return tokenizer;
}

void ExpectOneLineError(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer_test.json: "));
  EXPECT_EQ(status.message().find('\n'), status.message().npos) << status;
}

TEST(Load, SmallFileLoads) {
  const auto tokenizer = LoadText(SmallFile().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("aab<s>a"), (std::vector<int32_t>{3, 0, 0, 1, 3, 0}));
}

TEST(Load, MissingFileIsNotFound) {
  const auto tokenizer = Tokenizer::Load("/no/such/tokenizer.json");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("/no/such/tokenizer.json"));
  EXPECT_EQ(Tokenizer::Load(testing::TempDir()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Load, RefusesByNameAndPlace) {
  struct Case {
    const char* pointer;
    const char* value;  // empty: the key is removed
    const char* message;
  };
  const Case cases[] = {
      {"/normalizer/normalizers/0/type", R"("Lowercase")",
       "normalizer.normalizers[0]: \"Lowercase\" is not supported; supported: NFC, Sequence"},
      {"/normalizer", "7", "normalizer: expected an object with a type, got 7"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})",
       "pre_tokenizer: \"Metaspace\" is not supported; supported: ByteLevel, Split, Digits, Sequence"},
      {"/pre_tokenizer", "", "pre_tokenizer: expected ByteLevel"},
      {"/pre_tokenizer/pretokenizers/2", R"({"type": "Digits"})", "pre_tokenizer: expected ByteLevel"},
      {"/pre_tokenizer/pretokenizers/1", R"({"type": "ByteLevel"})",
       "pre_tokenizer.pretokenizers[2]: \"ByteLevel\" after ByteLevel is not supported"},
      {"/pre_tokenizer/pretokenizers/0/behavior", R"("Shredded")", "pretokenizers[0].behavior: \"Shredded\""},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("\\bx")",
       "pretokenizers[0].pattern: `\\b` at byte 0"},
      {"/pre_tokenizer/pretokenizers/0/pattern", R"({"Glob": "*"})",
       "pretokenizers[0].pattern: expected {\"Regex\""},
      {"/decoder", R"({"type": "WordPiece"})", "decoder: \"WordPiece\" is not supported"},
      {"/decoder/decoders/0/type", R"("Fuse")", "decoder.decoders[0]: \"Fuse\" is not supported"},
      {"/decoder", "null", "decoder: null is not supported"},
      {"/post_processor/type", R"("ColBert")",
       "post_processor: \"ColBert\" is not supported; supported: TemplateProcessing"},
      {"/post_processor/single/0/SpecialToken/id", R"("<x>")",
       "post_processor.single[0]: \"<x>\" is not in special_tokens"},
      {"/post_processor/special_tokens/<s>/ids/0", "17", "no token has id 17"},
      {"/post_processor/single/1", "", "post_processor.single: expected sequence A, once"},
      {"/model/type", R"("Unigram")", "model.type: \"Unigram\" is not supported; supported: BPE"},
      {"/model/dropout", "0.1", "model.dropout: expected null, got 0.1"},
      {"/model/continuing_subword_prefix", R"("##")",
       "model.continuing_subword_prefix: expected null, got \"##\""},
      {"/model/end_of_word_suffix", R"("</w>")", "model.end_of_word_suffix: expected null, got \"</w>\""},
      {"/model/byte_fallback", "true", "model.byte_fallback: true is not supported"},
      {"/model/ignore_merges", "1", "model.ignore_merges: expected true or false, got 1"},
      {"/model/unk_token", R"("<unk>")",
       "model.unk_token: token \"<unk>\" is not in model.vocab, and 254 bytes need it"},
      {"/model/vocab", "[]", "model.vocab: expected an object"},
      {"/model/vocab/b", "-1", "model.vocab[\"b\"]: expected an id from 0 to 2097151, got -1"},
      {"/model/vocab/b", "2097152", "model.vocab[\"b\"]: expected an id from 0 to 2097151, got 2097152"},
      {"/model/vocab/b", "18446744073709551615", "model.vocab[\"b\"]: expected an id"},
      {"/model/vocab/b", "1.0", "model.vocab[\"b\"]: expected an id"},
      {"/model/vocab/b", "0", "model.vocab[\"b\"]: id 0 is also that of \"a\""},
      {"/model/vocab/ab", "", "model.merges[0]: token \"ab\" is not in model.vocab"},
      {"/model/merges/0", R"(["a", "c"])", "model.merges[0]: token \"c\" is not in model.vocab"},
      {"/model/merges/0", R"("a  b")", "model.merges[0]: expected two tokens with one space between"},
      {"/model/merges/0", R"(["a"])", "model.merges[0]: expected two tokens, got array"},
      {"/model/merges", "", "model.merges: the key is missing"},
      {"/model", "", "model: the key is missing"},
      {"/added_tokens/0/id", "5", "added_tokens[0].id: \"<s>\" has id 5, expected 3"},
      {"/added_tokens/0/content", R"("b")",
       "added_tokens[0].id: \"b\" has id 3, expected 1 as in model.vocab"},
      {"/added_tokens/0/content", "[]", "added_tokens[0].content: expected a string, got array"},
      {"/added_tokens/0/special", R"("yes")", "added_tokens[0].special: expected true or false, got \"yes\""},
      {"/added_tokens", "{}", "added_tokens: expected a list, got object"},
      {"/truncation", R"({"max_length": 8})", "truncation: expected null"},
      {"/padding", "{}", "padding: expected null"},
      {"/version", R"("2.0")", "version: expected \"1.0\", got \"2.0\""},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.pointer + std::string(" = ") + c.value);
    Json file = SmallFile();
    const Json::json_pointer pointer(c.pointer);
    ASSERT_TRUE(file.contains(pointer));
    if (*c.value == 0) {
      Json& parent = file[pointer.parent_pointer()];
      if (parent.is_array()) {
        parent.erase(std::stoul(pointer.back()));
      } else {
        parent.erase(pointer.back());
      }
    } else {
      file[pointer] = Json::parse(c.value);
    }
    const auto tokenizer = LoadText(file.dump());
    ExpectOneLineError(tokenizer.status());
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(c.message));
  }
}

TEST(Load, RefusesTwoTokensOfOneKind) {
  Json file = SmallFile();
  file["added_tokens"].push_back(file["added_tokens"][0]);
  EXPECT_THAT(std::string(LoadText(file.dump()).status().message()),
              HasSubstr("added_tokens[1]: \"<s>\" comes twice"));
  file = SmallFile();
  file["model"]["vocab"]["b"] = 3;  // where Hugging Face would put <s>
  file["added_tokens"][0]["id"] = 3;
  EXPECT_THAT(std::string(LoadText(file.dump()).status().message()),
              HasSubstr("added_tokens[0].id: 3 is also that of \"b\""));
}

TEST(Load, IdsMayHaveHoles) {
  Json file = SmallFile();
  file["model"]["vocab"]["ab"] = 9;
  const auto tokenizer = LoadText(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->n_ids(), 10);
  EXPECT_EQ((*tokenizer)->token(2), std::nullopt);
  EXPECT_EQ((*tokenizer)->token(9), "ab");
  EXPECT_EQ((*tokenizer)->Decode(std::vector<int32_t>{0, 2, 9, 8}), "aab");
}

TEST(Load, AnyCutIsAnError) {
  const std::string text = SmallFile().dump();
  for (size_t n = 0; n < text.size(); ++n) ExpectOneLineError(LoadText(text.substr(0, n)).status());
}

TEST(Load, DeepNestingIsAnError) {
  const int n = 100000;
  ExpectOneLineError(LoadText(std::string(n, '[')).status());
  ExpectOneLineError(LoadText(std::string(n, '[') + std::string(n, ']')).status());
  std::string value = R"({"type":"NFC"})";
  for (int i = 0; i < 1000; ++i) value = R"({"type":"Sequence","normalizers":[)" + value + "]}";
  Json file = SmallFile();
  file["normalizer"] = Json::parse(value);
  const absl::Status status = LoadText(file.dump()).status();
  ExpectOneLineError(status);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nested too deeply"));
}

// Loads what may be anything; what loads must then work.
void LoadAndUse(const std::string& text) {
  const auto tokenizer = LoadText(text);
  if (!tokenizer.ok()) return ExpectOneLineError(tokenizer.status());
  const auto ids = (*tokenizer)->Encode("ab <s>a1\xC3\xA9  b\xCC\x81 ab<s>");
  if (ids.ok()) {
    EXPECT_EQ(FindInvalidUtf8((*tokenizer)->Decode(*ids)), std::nullopt);
  }
}

TEST(Load, AnyValueInAnyPlace) {
  const Json values = Json::parse(
      R"([null, true, -1, 4294967296, 1e300, "", "a", "\u0000\n", "ab ab", [], [[]], {}, {"type": 1},
    ["a", "b"], {"type": "Sequence"}, {"type": "ByteLevel"}, {"id": 0, "content": "a"}])");
  const Json file = SmallFile();
  const Json flat = file.flatten();
  int n = 0;
  for (auto it = flat.begin(); it != flat.end(); ++it) {
    for (Json::json_pointer at(it.key()); !at.empty(); at.pop_back()) {
      for (const Json& value : values) {
        Json changed = file;
        changed[at] = value;
        LoadAndUse(changed.dump());
        ++n;
      }
    }
  }
  EXPECT_GT(n, 1000);
}

TEST(Load, AnyByteInAnyPlace) {
  std::mt19937 random(2);
  const std::string text = SmallFile().dump();
  for (int round = 0; round < 4000; ++round) {
    std::string changed = text;
    for (int i = 0; i <= round % 3; ++i) {
      const size_t at = random() % changed.size();
      switch (random() % 3) {
        case 0:
          changed[at] = static_cast<char>(random());
          break;
        case 1:
          changed.erase(at, 1 + random() % 4);
          break;
        default:
          changed.insert(at, text.substr(random() % text.size(), random() % 6));
      }
    }
    LoadAndUse(changed);
  }
}

}  // namespace
}  // namespace tandem
