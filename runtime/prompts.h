// Prompts: what a user asks for, as text or as token ids, from a configuration, a flag or a file of JSON
// lines.
//
// A line of the file is one object: `prompt` (text) or `prompt_token_ids`, and, all optional, `id`,
// `category`, `max_new_tokens`, `seed`, `answer`, `check`. Blank lines are skipped.
//
// `answer` is a right answer, and `check` says how an output is compared with it (`tandem sweep` does):
//   {"kind": "exact"}          the same text, but for white space at both ends; the default
//   {"kind": "after", "mark": "The answer is"}   what follows the mark's last occurrence (the whole text if
//                              there is none), without white space at both ends and full stops at its end
//   {"kind": "last_number"}    the last number in the text; commas between its digits do not matter
//   {"kind": "json"}           the same JSON value, whatever the order of keys and the white space
#ifndef TANDEM_RUNTIME_PROMPTS_H_
#define TANDEM_RUNTIME_PROMPTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/yaml_reader.h"

namespace tandem {

enum class CheckKind { kExact, kAfter, kLastNumber, kJson };

struct AnswerCheck {
  CheckKind kind = CheckKind::kExact;
  std::string mark;  // kAfter
};

struct Prompt {
  std::string id;                   // unique; without one of its own, its number from 1
  std::string category;             // reports group by it
  std::optional<std::string> text;  // exactly one of text and token_ids
  std::optional<std::vector<int32_t>> token_ids;
  std::optional<int32_t> max_new_tokens;  // else the configuration's
  std::optional<uint64_t> seed;           // else the configuration's
  std::optional<std::string> answer;
  AnswerCheck check;
  Where where;
};

// Reads the text of a JSON lines file; complaints name `file` and the line.
std::vector<Prompt> ParsePromptLines(std::string_view text, const std::string& file,
                                     std::vector<Complaint>* complaints);
// The same of a file on disk.
std::vector<Prompt> ReadPromptFile(const std::string& path, const Where& named_at,
                                   std::vector<Complaint>* complaints, const std::string& key = "prompts");

// Reads `prompts` of a configuration, or another key that holds prompts: a text, or a list of texts, of lists of token ids, or of maps with the
// fields of a line.
std::vector<Prompt> ParsePromptNode(const YamlNode& node, std::vector<Complaint>* complaints,
                                    const std::string& key = "prompts");

const char* Name(CheckKind kind);  // "exact", ...

}  // namespace tandem

#endif  // TANDEM_RUNTIME_PROMPTS_H_
