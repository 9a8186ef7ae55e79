// Configurations: what is accepted, the exact text of every complaint, and that printing reads back.
#include "runtime/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "runtime/config_keys.h"
#include "runtime/config_print.h"
#include "runtime/names.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kFile[] = "/etc/tandem/x.yaml";

std::vector<Override> Sets(const std::vector<std::string>& arguments) {
  std::vector<Override> overrides;
  for (const std::string& argument : arguments) overrides.push_back(*ParseSet(argument));
  return overrides;
}

Config MustParse(const std::string& text, const std::vector<std::string>& sets = {}) {
  absl::StatusOr<Config> config = ParseConfig(text, kFile, Sets(sets));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : Config();
}

// The message without the file's name, which every line starts with.
std::string ErrorOf(const std::string& text, const std::vector<std::string>& sets = {}) {
  absl::StatusOr<Config> config = ParseConfig(text, kFile, Sets(sets));
  if (config.ok()) return "accepted";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  std::string message(config.status().message());
  for (size_t at; (at = message.find(std::string(kFile) + ":")) != std::string::npos;) {
    message.erase(at, sizeof kFile);
  }
  return message;
}

TEST(Config, ReadsEveryKindOfValue) {
  const Config config = MustParse(R"(
target: {model: models/big, dtype: bf16}
draft: {model: /abs/small}
rule: {name: opt, alpha: 0.2, verification: block, bonus: pi}
require_lossless: true
speculation: {gamma: 3, schedule: heuristic, draft_confidence_min: 0.25}
sampling: {temperature: 0.7, top_k: 40, top_p: 0.9, min_p: 1e-2, seed: 18446744073709551615, max_new_tokens: 7,
           stop: ["\n\n", END], stop_token_ids: [3, 0], ignore_eos: true}
cache: {page_size: 8, tokens: 4096, max_context: 512}
execution: {batch: 4, threads: 2, streams: threaded, prefill_chunk: 64, rounds_ahead: 0}
prompts: [Hello, [1, 2], {id: z, category: c, prompt: "Hi", max_new_tokens: 3, seed: 9}]
report: {json: out.json, text: false}
)");
  EXPECT_EQ(config.target.model.text, "/etc/tandem/models/big");
  EXPECT_EQ(config.target.dtype, "bf16");
  EXPECT_EQ(config.draft_kind, DraftKind::kModel);
  EXPECT_EQ(config.draft.model.text, "/abs/small");
  EXPECT_EQ(config.rule.name, "opt");
  EXPECT_EQ(config.rule.parameters.at("alpha").value, 0.2);
  EXPECT_EQ(config.rule.parameters.at("alpha").where.Text(), "/etc/tandem/x.yaml:4:26");
  EXPECT_EQ(config.rule.verification, "block");
  EXPECT_EQ(config.rule.bonus, "pi");
  EXPECT_TRUE(config.require_lossless);
  EXPECT_EQ(config.speculation.gamma, 3);
  EXPECT_EQ(config.speculation.schedule, "heuristic");
  EXPECT_EQ(config.speculation.draft_confidence_min, 0.25);
  EXPECT_EQ(config.sampling.temperature, 0.7);
  EXPECT_EQ(config.sampling.top_k, 40);
  EXPECT_EQ(config.sampling.top_p, 0.9);
  EXPECT_EQ(config.sampling.min_p, 0.01);
  EXPECT_EQ(config.sampling.seed, 18446744073709551615u);
  EXPECT_EQ(config.sampling.max_new_tokens, 7);
  EXPECT_THAT(config.sampling.stop, ElementsAre("\n\n", "END"));
  EXPECT_THAT(config.sampling.stop_token_ids, ElementsAre(3, 0));
  EXPECT_TRUE(config.sampling.ignore_eos);
  EXPECT_EQ(config.cache.page_size, 8);
  EXPECT_EQ(config.cache.tokens, 4096);
  EXPECT_EQ(config.cache.max_context, 512);
  EXPECT_EQ(config.execution.batch, 4);
  EXPECT_EQ(config.execution.threads, 2);
  EXPECT_EQ(config.execution.streams, "threaded");
  EXPECT_EQ(config.execution.prefill_chunk, 64);
  EXPECT_EQ(config.execution.rounds_ahead, 0);
  ASSERT_EQ(config.prompts.prompts.size(), 3u);
  EXPECT_EQ(config.prompts.prompts[0].text, "Hello");
  EXPECT_EQ(config.prompts.prompts[0].id, "1");
  EXPECT_THAT(*config.prompts.prompts[1].token_ids, ElementsAre(1, 2));
  EXPECT_EQ(config.prompts.prompts[2].id, "z");
  EXPECT_EQ(config.prompts.prompts[2].category, "c");
  EXPECT_EQ(config.prompts.prompts[2].max_new_tokens, 3);
  EXPECT_EQ(config.prompts.prompts[2].seed, 9u);
  EXPECT_EQ(config.report.json.text, "/etc/tandem/out.json");
  EXPECT_FALSE(config.report.text);
}

TEST(Config, Defaults) {
  const Config config = MustParse("target: {model: m}");
  EXPECT_EQ(config.draft_kind, DraftKind::kNone);
  EXPECT_EQ(config.rule.name, "lossless");
  EXPECT_EQ(config.speculation.gamma, 5);
  EXPECT_EQ(config.sampling.temperature, 0);
  EXPECT_EQ(config.target.dtype, "fp32");
  EXPECT_EQ(MustParse("target: {model: m}\ndraft: none").draft_kind, DraftKind::kNone);
  const Config ngram = MustParse("target: {model: m}\ndraft: {ngram: {min: 3}}");
  EXPECT_EQ(ngram.draft_kind, DraftKind::kNgram);
  EXPECT_EQ(ngram.ngram.min, 3);
  EXPECT_EQ(ngram.ngram.max, 5);
  EXPECT_EQ(MustParse("target: {model: m}\ndraft: {ngram: {}}").draft_kind, DraftKind::kNgram);
}

TEST(Config, AliasOfGamma) {
  EXPECT_EQ(MustParse("target: {model: m}\nspeculation: {num_speculative_tokens: 2}").speculation.gamma, 2);
  EXPECT_EQ(ErrorOf("target: {model: m}\nspeculation:\n  gamma: 2\n  num_speculative_tokens: 3"),
            "4:3: speculation.num_speculative_tokens: the same key as the one at 3:10; keep one");
  EXPECT_EQ(MustParse("target: {model: m}\nspeculation: {num_speculative_tokens: 2}", {"speculation.gamma=9"})
                .speculation.gamma,
            9);
}

struct Bad {
  const char* text;  // after a first line `target: {model: m}`
  const char* error;
};

TEST(Config, OneComplaint) {
  const Bad bad[] = {
      {"samplin: {}", "2:1: samplin: unknown key; did you mean sampling?"},
      {"temperature: 1", "2:1: temperature: unknown key; did you mean sampling.temperature?"},
      {"sampling:\n  temprature: 1", "3:3: sampling.temprature: unknown key; did you mean temperature?"},
      {"require_lossless: yes", "2:19: require_lossless: expected true or false, got yes"},
      {"require_lossless: on", "2:19: require_lossless: expected true or false, got on"},
      {"require_lossless: \"true\"", "2:19: require_lossless: expected true or false, got the text \"true\""},
      {"speculation: {gamma: \"5\"}",
       "2:22: speculation.gamma: expected a whole number from 0 to 31, got the text \"5\""},
      {"speculation: {gamma: 40}", "2:22: speculation.gamma: expected a whole number from 0 to 31, got 40"},
      {"speculation: {gamma: -1}", "2:22: speculation.gamma: expected a whole number from 0 to 31, got -1"},
      {"speculation: {gamma: 5.0}", "2:22: speculation.gamma: expected a whole number from 0 to 31, got 5.0"},
      {"speculation: {gamma: 0x5}", "2:22: speculation.gamma: expected a whole number from 0 to 31, got 0x5"},
      {"speculation: {gamma: [5]}",
       "2:22: speculation.gamma: expected a whole number from 0 to 31, got a list"},
      {"speculation: {gamma: }",
       "2:22: speculation.gamma: expected a whole number from 0 to 31, got nothing"},
      {"speculation: 5",
       "2:14: speculation: expected a map of gamma, num_speculative_tokens, schedule, draft_confidence_min, "
       "got 5"},
      {"speculation: {schedule: heuristc}",
       "2:25: speculation.schedule: expected fixed or heuristic, got heuristc; did you mean heuristic?"},
      {"sampling: {temperature: .nan}",
       "2:25: sampling.temperature: expected a number from 0 to 100, got .nan"},
      {"sampling: {temperature: inf}",
       "2:25: sampling.temperature: expected a number from 0 to 100, got inf"},
      {"sampling: {top_p: 0}", "2:19: sampling.top_p: expected a number over 0 and up to 1, got 0"},
      {"sampling: {top_k: 3000000000}",
       "2:19: sampling.top_k: expected a whole number, at least 0, got 3000000000"},
      {"sampling: {seed: -1}", "2:18: sampling.seed: expected a whole number from 0 to 2^64 - 1, got -1"},
      {"sampling: {stop: [a, \"\"]}",
       "2:22: sampling.stop[1]: expected a text that is not empty, got the text \"\""},
      {"sampling: {stop_token_ids: [1, x]}",
       "2:32: sampling.stop_token_ids[1]: expected a token id, a whole number from 0, got x"},
      {"sampling: {stop_token_ids: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
       "2:28: sampling.stop_token_ids: expected at most 16 ids, got 17"},
      {"sampling: {seed: 1, seed: 2}", "2:21: seed: duplicate key, first at 2:12"},
      {"target: {model: n}", "2:1: target: duplicate key, first at 1:1"},
      {"draft: {device: cpu}", "2:8: draft: expected model or ngram (or `draft: none`), got neither"},
      {"draft: {model: d, ngram: {min: 2}}",
       "2:26: draft: expected model or ngram, got both (model at 2:16)"},
      {"draft: {ngram: {min: 4, max: 3}}",
       "2:30: draft.ngram.max: expected at least draft.ngram.min = 4, got 3"},
      {"draft: nothing", "2:8: draft: expected none or a map of model, device, dtype, ngram, got nothing"},
      {"rule: {name: opt, alpha: high}", "2:26: rule.alpha: expected a number from -10 to 10, got high"},
      {"sampling: &a {seed: 1}", "2:11: anchors (&name) are not supported here; write values out"},
      {"sampling: {seed: !!str 1}",
       "2:18: tags (tag:yaml.org,2002:str) are not supported here; quote a text that looks like a number"},
      {"prompts: []\n---\nx: 1", "4:1: a second YAML document; a configuration is one"},
      {"prompts: [\"\"]", "2:11: prompts[0]: prompt: empty; expected some text"},
      {"prompts: [[]]", "2:11: prompts[0]: prompt_token_ids: empty; expected at least one id"},
      {"prompts: [[1, -2]]",
       "2:15: prompts[0]: prompt_token_ids: expected a list of whole numbers from 0, got -2 in it"},
      {"prompts: [{prompt: a, promt: b}]", "2:23: prompts[0]: promt: unknown key; did you mean prompt?"},
      {"prompts: [{prompt: a, prompt_token_ids: [1]}]",
       "2:11: prompts[0]: expected prompt or prompt_token_ids, got both"},
      {"prompts: [{id: a}]", "2:11: prompts[0]: expected prompt or prompt_token_ids, got neither"},
      {"prompts: [{id: a, prompt: b}, {id: a, prompt: c}]", "2:31: id \"a\": already used at 2:11"},
      {"prompts: {file: /nowhere/p.jsonl}",
       "2:17: prompts.file: /nowhere/p.jsonl: no such file, or it cannot be read"},
      {"report: {text: 1}", "2:16: report.text: expected true or false, got 1"},
  };
  for (const Bad& one : bad)
    EXPECT_EQ(ErrorOf(std::string("target: {model: m}\n") + one.text), one.error) << one.text;
}

TEST(ConfigCascade, ReadsBothModes) {
  const std::string pair = "target: {model: m}\ndraft: {model: d}\n";
  const Config token = MustParse(pair + "cascade: {mode: token, rule: entropy, alpha: 0.25}");
  EXPECT_TRUE(token.cascade.is_token());
  EXPECT_EQ(token.cascade.rule, "entropy");
  EXPECT_EQ(token.cascade.parameters.at("alpha").value, 0.25);
  // The rule's own default where no parameter is written.
  EXPECT_EQ(MustParse(pair + "cascade: {mode: token}").cascade.parameters.at("alpha").value, 0.5);
  const Config query = MustParse(
      pair +
      "cascade: {mode: query, score: quantile, quantile: 0.3, threshold: -1.5}\nrule: {verification: block}");
  EXPECT_TRUE(query.cascade.is_query());
  EXPECT_EQ(query.cascade.score, "quantile");
  EXPECT_EQ(query.cascade.quantile, 0.3);
  EXPECT_EQ(query.cascade.threshold, -1.5);
  // A cascade is turned off by its mode alone, and a pair made a cascade by emptying what it cannot have.
  EXPECT_EQ(MustParse(pair + "cascade: {mode: token, alpha: 0.1}", {"cascade.mode=none"}).cascade.mode,
            "none");
  EXPECT_TRUE(MustParse(pair + "rule: {name: opt}\nspeculation: {gamma: 3}",
                        {"cascade={mode: token, alpha: 0.1}", "rule={}", "speculation={}"})
                  .cascade.is_token());
}

TEST(ConfigCascade, OneComplaint) {
  const std::string judges =
      "a token cascade judges no block; its rule is cascade.rule. Remove rule (--set 'rule={}')";
  const std::string speculates =
      "a token cascade does not speculate; remove speculation (--set 'speculation={}'), or cascade";
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"cascade: {mode: tokens}",
       "3:17: cascade.mode: expected none or token or query, got tokens; did you mean token?"},
      {"cascade: {rule: chow}", "3:17: cascade.rule: cascade.mode is missing; expected token or query"},
      {"cascade: {alpha: 1}", "3:18: cascade.alpha: cascade.mode is missing; expected token or query"},
      {"cascade: {mode: token, rule: chwo}",
       "3:30: cascade.rule: expected the name of a rule, got chwo; did you mean chow?"},
      {"cascade: {mode: token, rule: opt}",
       "3:30: cascade.rule: opt looks at more than the draft's law, and a token cascade decides before the "
       "target is "
       "asked; use chow or entropy, or speculate: rule: {name: opt} and no cascade"},
      {"cascade: {mode: token, alpha: 2}", "3:31: cascade.alpha: expected a number from 0 to 1, got 2"},
      {"cascade: {mode: token, alhpa: 0.2}", "3:31: cascade.alhpa: unknown key; did you mean alpha?"},
      {"cascade: {mdoe: token}", "3:17: cascade.mdoe: cascade.mode is missing; expected token or query"},
      {"cascade: {mode: token, alpha: high}", "3:31: cascade.alpha: expected a number from 0 to 1, got high"},
      {"cascade: {mode: token, threshold: -1}",
       "3:35: cascade.threshold: belongs to cascade.mode query; mode token defers by cascade.rule. Remove "
       "it"},
      {"cascade: {mode: token}\nrule: {name: chow}", "4:14: rule.name: " + judges},
      {"cascade: {mode: token}\nrule: {alpha: 0.2}", "4:15: rule.alpha: " + judges},
      {"cascade: {mode: token}\nspeculation: {gamma: 5}", "4:22: speculation.gamma: " + speculates},
      {"cascade: {mode: token}\nspeculation: {schedule: fixed}", "4:25: speculation.schedule: " + speculates},
      {"cascade: {mode: token}\nrequire_lossless: true",
       "accepted"},  // known once the temperature is: CheckLossless
      {"cascade: {mode: query}",
       "3:17: cascade.threshold: missing; expected the score under which an answer is redone, such as -0.5"},
      {"cascade: {mode: query, threshold: low}",
       "3:35: cascade.threshold: expected a number from -1e+09 to 1, got low"},
      {"cascade: {mode: query, threshold: 2}",
       "3:35: cascade.threshold: expected a number from -1e+09 to 1, got 2"},
      {"cascade: {mode: query, threshold: -1, quantile: 0.5}",
       "3:49: cascade.quantile: belongs to cascade.score quantile; write it, or remove the quantile"},
      {"cascade: {mode: query, threshold: -1, rule: chow}",
       "3:45: cascade.rule: belongs to cascade.mode token; mode query defers by score and threshold. Remove "
       "it"},
      {"cascade: {mode: query, threshold: -1, treshold: -2}",
       "3:49: cascade.treshold: unknown key; did you mean threshold?"},
      {"cascade: {mode: query, threshold: -1}\nrule: {name: token_v3}",
       "4:14: rule.name: token_v3 is lossy, and a query cascade redoes answers as the target's own; use "
       "lossless or "
       "sample_match"},
  };
  for (const auto& [text, error] : bad)
    EXPECT_EQ(ErrorOf("target: {model: m}\ndraft: {model: d}\n" + text), error) << text;
  for (const std::string mode : {"{mode: token}", "{mode: query, threshold: -1}"}) {
    const std::string what = mode.substr(7, 5);
    EXPECT_EQ(ErrorOf("target: {model: m}\ncascade: " + mode),
              "2:17: cascade.mode: " + what +
                  " needs a draft model, and there is no draft; write draft: {model: FOLDER}");
    EXPECT_EQ(
        ErrorOf("target: {model: m}\ncascade: " + mode + "\ndraft: {ngram: {min: 2}}"),
        "2:17: cascade.mode: " + what +
            " needs a draft model, and n-gram lookup has no law and answers nothing; write draft: {model: "
            "FOLDER}");
  }
}

TEST(Config, AliasIsRefusedInWords) {
  EXPECT_THAT(ErrorOf("target: &t {model: m}\ndraft: *t"),
              HasSubstr("2:8: aliases (*name) are not supported here; write the value out"));
}

TEST(Config, SyntaxErrorHasItsPlace) {
  EXPECT_THAT(ErrorOf("target: {model: m}\nrule: {name: [}"), HasSubstr("2:15: not valid YAML: "));
}

TEST(Config, TargetIsRequired) {
  EXPECT_EQ(ErrorOf(""), "1:1: target.model: missing; expected the folder of the target's checkpoint");
  EXPECT_EQ(ErrorOf("rule: {name: opt}\ntarget: {dtype: fp32}"),
            "2:9: target.model: missing; expected the folder of the target's checkpoint");
  EXPECT_THAT(ErrorOf("- a"),
              HasSubstr("1:1: expected a map of target, draft, rule, require_lossless, speculation"));
}

TEST(Config, AllComplaintsInOrderOfPlace) {
  EXPECT_EQ(
      ErrorOf("sampling: {temperature: hot, temperature: 1}\nspeculation: {gama: 1}\nrule: {name: [a]}"),
      "1:1: target.model: missing; expected the folder of the target's checkpoint\n"
      "1:25: sampling.temperature: expected a number from 0 to 100, got hot\n"
      "1:30: temperature: duplicate key, first at 1:12\n"
      "2:15: speculation.gama: unknown key; did you mean gamma?\n"
      "3:14: rule.name: expected a text, got a list");
}

TEST(Config, InvalidUtf8IsNamedByItsByte) {
  absl::StatusOr<Config> config = ParseConfig("target: {model: m\xff}", kFile, {});
  EXPECT_EQ(config.status().message(), "/etc/tandem/x.yaml: not valid UTF-8 at byte 17");
}

TEST(ConfigSet, ReplacesLeavesAndSections) {
  const std::string text =
      "target: {model: m}\ndraft: {model: d}\nrule: {name: chow, alpha: 0.1}\nsampling: {seed: 1}";
  EXPECT_EQ(MustParse(text, {"sampling.seed=2"}).sampling.seed, 2u);
  EXPECT_EQ(MustParse(text, {"sampling.top_k=3"}).sampling.seed, 1u);
  EXPECT_EQ(MustParse(text, {"sampling.seed=2", "sampling.seed=3"}).sampling.seed, 3u);
  EXPECT_EQ(MustParse(text, {"draft=none"}).draft_kind, DraftKind::kNone);
  EXPECT_EQ(MustParse(text, {"draft={ngram: {max: 7}}", "rule={name: lossless}"}).ngram.max, 7);
  EXPECT_EQ(MustParse(text, {"draft=none", "draft.model=x"}).draft_kind, DraftKind::kModel);
  const Config replaced = MustParse(text, {"rule={name: diff, alpha: 0.5}"});
  EXPECT_EQ(replaced.rule.name, "diff");
  EXPECT_EQ(replaced.rule.parameters.at("alpha").value, 0.5);
  EXPECT_THAT(MustParse(text, {"sampling.stop=[\"\\n\"]"}).sampling.stop, ElementsAre("\n"));
}

TEST(ConfigSet, PathsAreTakenFromTheCurrentFolder) {
  const Config config = MustParse("target: {model: m}", {"target.model=sub/m/"});
  EXPECT_EQ(config.target.model.text, (std::filesystem::current_path() / "sub/m").string());
}

TEST(ConfigSet, ErrorsNameTheFlag) {
  EXPECT_EQ(ErrorOf("target: {model: m}", {"speculation.gamma=99"}),
            "--set speculation.gamma=99: speculation.gamma: expected a whole number from 0 to 31, got 99");
  EXPECT_EQ(ErrorOf("target: {model: m}", {"speculation.gama=9"}),
            "--set speculation.gama=9: speculation.gama: unknown key; did you mean gamma?");
  EXPECT_EQ(
      ErrorOf("target: {model: m}", {"sampling.temperature.x=1"}),
      "--set sampling.temperature.x=1: sampling.temperature: expected a number from 0 to 100, got a map");
  EXPECT_EQ(ParseSet("gamma").status().message(),
            "--set gamma: expected KEY=VALUE, as in --set speculation.gamma=4");
  EXPECT_FALSE(ParseSet("=4").ok());
}

TEST(ConfigPrint, ReadsBackAsTheSame) {
  const std::string texts[] = {
      "target: {model: m}",
      "target: {model: \"a b: c\"}\ndraft: {model: d, dtype: bf16}\nrule: {name: opt, alpha: -0.125}\n"
      "sampling: {temperature: 0.7, stop: [\"\\n\", \"no\", \"it's \\\"x\\\" \\\\ \\x01\"], stop_token_ids: "
      "[1, 2]}\n"
      "prompts: [\"5\", yes, [1, 2, 3], {id: q, category: k, seed: 4, max_new_tokens: 2, prompt: \"é: #\"}]\n"
      "report: {json: o.json}",
      "target: {model: m}\ndraft: {ngram: {min: 1, max: 9}}",
      "target: {model: m}\ndraft: {model: d}\ncascade: {mode: token, rule: entropy, alpha: 0.75}",
      "target: {model: m}\ndraft: {model: d}\ncascade: {mode: query, score: quantile, quantile: 0.25, "
      "threshold: "
      "-2}\nspeculation: {gamma: 0}",
  };
  for (const std::string& text : texts) {
    const std::string printed = PrintConfig(MustParse(text));
    const Config again = MustParse(printed);
    for (const ConfigKey& key : ConfigKeys()) {
      EXPECT_EQ(YamlValue(key, again), YamlValue(key, MustParse(text))) << key.path;
    }
    EXPECT_EQ(again.draft_kind, MustParse(text).draft_kind);
    for (const auto& [name, parameter] : MustParse(text).cascade.parameters)
      EXPECT_EQ(again.cascade.parameters.at(name).value, parameter.value);
  }
}

TEST(ConfigPrint, SaysWhereValuesCameFrom) {
  const std::string printed = PrintConfig(
      MustParse("target: {model: /m}\nspeculation:\n  num_speculative_tokens: 3", {"sampling.seed=4"}));
  EXPECT_THAT(printed,
              HasSubstr("target:\n  model: /m                                 # /etc/tandem/x.yaml:1:17\n"));
  EXPECT_THAT(printed,
              HasSubstr("\n  gamma: 3                                  # /etc/tandem/x.yaml:3:27\n"));
  EXPECT_THAT(printed, HasSubstr("\n  seed: 4                                   # --set sampling.seed=4\n"));
  EXPECT_THAT(printed, HasSubstr("\n  top_k: 0                                  # default\n"));
  EXPECT_THAT(printed, HasSubstr("\ndraft: none                                 # default\n"));
}

TEST(ConfigKeys, AreUniqueAndHelpNamesThemAll) {
  std::set<std::string> paths;
  const std::string help = ConfigHelp();
  for (const ConfigKey& key : ConfigKeys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path;
    EXPECT_THAT(help, HasSubstr(std::string("  ") + key.path));
    Config config;
    EXPECT_FALSE(Expectation(key).empty());
    EXPECT_FALSE(YamlValue(key, config).empty()) << key.path;
  }
}

// Every example in configs/ is a valid configuration and opens with one line that says what it shows.
TEST(ConfigExamples, AreValid) {
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TANDEM_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++n;
    absl::StatusOr<Config> config = LoadConfig(entry.path().string(), {});
    EXPECT_TRUE(config.ok()) << config.status();
    std::ifstream stream(entry.path());
    std::string first, second;
    std::getline(stream, first);
    std::getline(stream, second);
    EXPECT_EQ(first.substr(0, 2), "# ") << entry.path();
    EXPECT_NE(second.substr(0, 1), "#") << entry.path();
  }
  EXPECT_GT(n, 0);
}

TEST(LoadConfig, FileErrors) {
  EXPECT_EQ(LoadConfig("/nowhere/x.yaml", {}).status(), absl::NotFoundError("/nowhere/x.yaml: no such file"));
  EXPECT_EQ(LoadConfig("/etc", {}).status(), absl::NotFoundError("/etc: expected a YAML file, got a folder"));
}

TEST(Names, NearestIsNearEnough) {
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("ab", "ba"), 1);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(NearestName("lossles", {"lossless", "lossy_sd"}), "lossless");
  EXPECT_EQ(NearestName("zzz", {"lossless", "lossy_sd"}), "");
  EXPECT_EQ(Suggestion("zzz", {"a", "b"}), "; expected one of a, b");
}

}  // namespace
}  // namespace tandem
