// A pair, ready for an engine: the models, tokenizer and vocabulary that a configuration names, checked
// against each other, and the requests that its prompts make.
#ifndef TANDEM_RUNTIME_PAIR_H_
#define TANDEM_RUNTIME_PAIR_H_

#include <memory>
#include <string>
#include <vector>

#include "policies/policy.h"
#include "runtime/config.h"
#include "runtime/core/status.h"
#include "runtime/engine.h"
#include "runtime/model/model.h"
#include "runtime/model/tokenizer.h"
#include "runtime/report.h"
#include "runtime/request.h"

namespace tandem {

// Outlives every engine that is made from its spec. Const after loading.
struct Pair {
  PairSpec spec;
  std::unique_ptr<const Tokenizer> tokenizer;  // null: the target's folder has none
  std::vector<int32_t> eos_ids;
  std::vector<std::string> warnings;  // to show
};

// Fills in what generation_config.json in the target's folder says, where neither the file nor a flag does,
// and checks what depends on it: require_lossless. kFailedPrecondition or kNotFound: the folder;
// kInvalidArgument: the rule.
absl::StatusOr<GenerationDefaults> ApplyGenerationDefaults(Config* config);

// Loads. Errors: kNotFound, kFailedPrecondition (a checkpoint, a tokenizer, vocabularies that do not match),
// kUnavailable (a device).
absl::StatusOr<Pair> LoadPair(const Config& config, const GenerationDefaults& defaults);

// One side's vocabulary: a tokenizer, or none, and the rows of the model's head.
struct Vocabulary {
  const Tokenizer* tokenizer = nullptr;
  int32_t n_rows = 0;
  std::string folder;
};

// The number of token ids that both models share. Tables are compared by content; rows of a head beyond its
// table are padding. The draft may lack tokens of the target's as long as its model has rows for them.
// kFailedPrecondition: a mismatch, with the first ids that differ.
absl::StatusOr<int32_t> SharedVocabulary(const Vocabulary& target, const Vocabulary& draft,
                                         std::vector<std::string>* warnings);

// The prompts as requests, in their order. kInvalidArgument, naming the prompt's place: no prompt at all, a
// text without a tokenizer, stop strings without one, a text of no tokens.
absl::StatusOr<std::vector<Request>> MakeRequests(const Config& config, const Pair& pair);

EngineOptions MakeEngineOptions(const Config& config);

// Names of models are their folders' last two parts.
ReportHeader DescribeRun(const Config& config, const Pair& pair, const Policy& policy);

}  // namespace tandem

#endif  // TANDEM_RUNTIME_PAIR_H_
