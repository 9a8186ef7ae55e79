// Prompts: what a user asks for, as text or as token ids, from a configuration, a flag or a file of JSON
// lines.
//
// A line of the file is one object: `prompt` (text) or `prompt_token_ids`, and, all optional, `id`,
// `category`, `max_new_tokens`, `seed`. Blank lines are skipped.
#ifndef TANDEM_RUNTIME_PROMPTS_H_
#define TANDEM_RUNTIME_PROMPTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/yaml_reader.h"

namespace tandem {

struct Prompt {
  std::string id;                   // unique; without one of its own, its number from 1
  std::string category;             // reports group by it
  std::optional<std::string> text;  // exactly one of text and token_ids
  std::optional<std::vector<int32_t>> token_ids;
  std::optional<int32_t> max_new_tokens;  // else the configuration's
  std::optional<uint64_t> seed;           // else the configuration's
  Where where;
};

// Reads the text of a JSON lines file; complaints name `file` and the line.
std::vector<Prompt> ParsePromptLines(std::string_view text, const std::string& file,
                                     std::vector<Complaint>* complaints);
// The same of a file on disk.
std::vector<Prompt> ReadPromptFile(const std::string& path, const Where& named_at,
                                   std::vector<Complaint>* complaints);

// Reads `prompts` of a configuration: a text, or a list of texts, of lists of token ids, or of maps with the
// fields of a line.
std::vector<Prompt> ParsePromptNode(const YamlNode& node, std::vector<Complaint>* complaints);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_PROMPTS_H_
