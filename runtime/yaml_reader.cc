#include "runtime/yaml_reader.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <sstream>
#include <tuple>

namespace tandem {
namespace {

// Builds the tree from the parser's events, which, unlike YAML::Node, tell quoted text from plain text and an
// alias from what it stands for.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const Where& where, std::vector<Complaint>* complaints)
      : where_(where), complaints_(complaints) {}

  YamlNode TakeRoot() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Put(NodeAt(YamlNode::Kind::kNull, mark, "", anchor));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Complain(mark, "aliases (*name) are not supported here; write the value out");
    Put(NodeAt(YamlNode::Kind::kNull, mark, "", YAML::NullAnchor));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node = NodeAt(YamlNode::Kind::kScalar, mark, tag, anchor);
    node.text = value;
    node.quoted = tag == "!";
    Put(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open_.push_back({NodeAt(YamlNode::Kind::kList, mark, tag, anchor), {}, false});
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open_.push_back({NodeAt(YamlNode::Kind::kMap, mark, tag, anchor), {}, false});
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Open {
    YamlNode node;
    YamlEntry entry;  // kMap: the key that waits for its value
    bool has_key = false;
  };

  Where At(const YAML::Mark& mark) const {
    if (where_.line == 0) return where_;
    return {where_.source, mark.line + 1, mark.column + 1};
  }

  void Complain(const YAML::Mark& mark, std::string message) {
    complaints_->push_back({At(mark), std::move(message)});
  }

  YamlNode NodeAt(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
                  YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor)
      Complain(mark, "anchors (&name) are not supported here; write values out");
    if (!tag.empty() && tag != "?" && tag != "!") {
      Complain(mark, absl::StrCat("tags (", tag,
                                  ") are not supported here; quote a text that looks like a number"));
    }
    YamlNode node;
    node.kind = kind;
    node.where = At(mark);
    return node;
  }

  void Close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    Put(std::move(node));
  }

  void Put(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kList) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.has_key) {
      if (node.kind != YamlNode::Kind::kScalar) {
        complaints_->push_back({node.where, absl::StrCat("expected a key, got ", node.Describe())});
      }
      parent.entry = {node.text, node.where, {}};
      parent.has_key = true;
    } else {
      parent.entry.value = std::move(node);
      parent.has_key = false;
      const auto first = std::find_if(parent.node.entries.begin(), parent.node.entries.end(),
                                      [&](const YamlEntry& entry) { return entry.key == parent.entry.key; });
      if (first == parent.node.entries.end()) {
        parent.node.entries.push_back(std::move(parent.entry));
      } else {
        complaints_->push_back(
            {parent.entry.where,
             absl::StrCat(parent.entry.key, ": duplicate key, first at ", first->where.Text())});
      }
    }
  }

  const Where where_;
  std::vector<Complaint>* complaints_;
  std::vector<Open> open_;
  YamlNode root_;
};

}  // namespace

std::string Where::Text() const {
  if (line == 0) return source;
  return column == 0 ? absl::StrCat(source, ":", line) : absl::StrCat(source, ":", line, ":", column);
}

bool operator<(const Where& a, const Where& b) {
  return std::tie(a.source, a.line, a.column) < std::tie(b.source, b.line, b.column);
}

absl::Status ToStatus(std::vector<Complaint> complaints) {
  if (complaints.empty()) return absl::OkStatus();
  std::stable_sort(complaints.begin(), complaints.end(),
                   [](const Complaint& a, const Complaint& b) { return a.where < b.where; });
  return absl::InvalidArgumentError(
      absl::StrJoin(complaints, "\n", [](std::string* out, const Complaint& complaint) {
        absl::StrAppend(out, complaint.where.Text(), ": ", complaint.message);
      }));
}

const YamlNode* YamlNode::Find(std::string_view key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

std::string YamlNode::Describe() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  size_t n_shown = std::min<size_t>(text.size(), 40);
  while (n_shown < text.size() && (text[n_shown] & 0xC0) == 0x80) --n_shown;  // not half a character
  std::string shown = text.substr(0, n_shown);
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  if (n_shown < text.size()) shown += "...";
  return quoted ? absl::StrCat("the text \"", shown, "\"") : shown;
}

YamlNode ReadYaml(std::string_view text, const Where& where, std::vector<Complaint>* complaints) {
  TreeBuilder builder(where, complaints);
  bool any = false;
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    any = parser.HandleNextDocument(builder);
    TreeBuilder ignored(where, complaints);
    if (any && parser.HandleNextDocument(ignored)) {
      const Where second = ignored.TakeRoot().where;
      complaints->push_back({second, "a second YAML document; a configuration is one"});
    }
  } catch (const YAML::Exception& error) {
    Where at = where;
    if (where.line != 0 && !error.mark.is_null()) {
      at.line = error.mark.line + 1;
      at.column = error.mark.column + 1;
    }
    complaints->push_back({at, absl::StrCat("not valid YAML: ", error.msg)});
  }
  YamlNode root = builder.TakeRoot();
  if (!any || (root.kind == YamlNode::Kind::kNull && root.where.source.empty())) {
    root.kind = YamlNode::Kind::kMap;
    root.where = where;
  }
  return root;
}

}  // namespace tandem
