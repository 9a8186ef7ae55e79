// YAML as configurations use it: a tree whose every node knows where it was written. Stricter than the
// language, so that a file means what it says: no anchors, aliases, merge keys, tags, second documents or
// duplicate keys, and only a plain `true` or `false` is a boolean. Plain values; no thread owns them.
#ifndef TANDEM_RUNTIME_YAML_READER_H_
#define TANDEM_RUNTIME_YAML_READER_H_

#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/status.h"

namespace tandem {

// A place in what the user wrote: `source` is a file, or a flag as it was given ("--set a.b=c"; line 0 then).
struct Where {
  std::string source;
  int line = 0;    // from 1
  int column = 0;  // from 1; 0: the whole line

  // "file:line:column", "file:line" or the flag.
  std::string Text() const;
  friend bool operator<(const Where& a, const Where& b);
};

// One thing that is wrong with what the user wrote.
struct Complaint {
  Where where;
  std::string message;  // "key: what was expected, got what"
};

// All complaints as one kInvalidArgument, a line each, in the order of the places; OK if there is none.
absl::Status ToStatus(std::vector<Complaint> complaints);

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  Where where;
  std::string text;                // kScalar
  bool quoted = false;             // kScalar: text, whatever it looks like
  std::vector<YamlNode> items;     // kList
  std::vector<YamlEntry> entries;  // kMap, in the order written

  const YamlNode* Find(std::string_view key) const;
  // What a user would call it in "got ...": `5`, "5" (text), a list, a map, nothing.
  std::string Describe() const;
};

struct YamlEntry {
  std::string key;
  Where where;
  YamlNode value;
};

// Reads one document. A syntax error, or what this file's first paragraph refuses, is added to `complaints`;
// the tree holds the rest. An empty document is an empty map. With `where.line` 0 every node is at `where`: a
// flag's value.
YamlNode ReadYaml(std::string_view text, const Where& where, std::vector<Complaint>* complaints);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_YAML_READER_H_
