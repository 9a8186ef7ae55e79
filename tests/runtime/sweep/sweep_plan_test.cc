// The grid of a configuration as cells, what is left out of it, what is wrong with it and where, and the cells' keys.
#include "runtime/sweep/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "policies/policy.h"
#include "policies/registry.h"
#include "runtime/config_print.h"
#include "runtime/report_json.h"
#include "runtime/sweep/results.h"
#include "runtime/sweep_config.h"
#include "tests/runtime/tiny_checkpoints.h"

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Plan : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* side : {"target", "draft"}) CopyModel("llama3_gqa", folder_ / side);
    WriteAll(folder_ / "i.jsonl",
             "{\"prompt\": \"1 + 1 =\", \"category\": \"a\", \"answer\": \"2\"}\n"
             "{\"prompt\": \"1 + 2 =\", \"category\": \"b\", \"answer\": \"3\"}\n"
             "{\"prompt\": \"1 + 3 =\", \"category\": \"a\", \"answer\": \"4\"}\n");
  }

  std::string Write(const std::string& sweep) {
    return WriteAll(folder_ / "c.yaml", "target: {model: target}\ndraft: {model: draft}\nsweep:\n" + sweep);
  }

  absl::StatusOr<std::vector<Cell>> Cells(const std::string& sweep,
                                          const std::vector<Override>& overrides = {}) {
    const absl::StatusOr<Config> config = LoadConfig(Write(sweep), overrides);
    if (!config.ok()) return config.status();
    return PlanSweep(*config, overrides);
  }

  // The whole message, with the folder's name taken out.
  std::string ErrorOf(const std::string& sweep, const std::vector<Override>& overrides = {}) {
    std::string message(Cells(sweep, overrides).status().message());
    for (size_t at; (at = message.find(folder_.path() + "/")) != std::string::npos;)
      message.erase(at, folder_.path().size() + 1);
    return message;
  }

  std::vector<std::string> Labels(const std::vector<Cell>& cells) {
    std::vector<std::string> labels;
    for (const Cell& cell : cells) {
      labels.push_back(cell.label + " T" + std::to_string(static_cast<int>(10 * cell.temperature)) + " g" +
                       std::to_string(cell.gamma) + " s" + std::to_string(cell.seed));
    }
    return labels;
  }

  TestFolder folder_;
};

TEST_F(Plan, EveryCombinationOnce) {
  const auto cells = Cells(
      "  rules: [{name: token_v3, alpha: [0.3, 0.7]}]\n  temperatures: [0, 0.5]\n  gammas: [2, 4]\n"
      "  seeds: [7, 9]\n  min_p: [0.2]\n  token_cascade: []\n  query_cascade: []\n");
  ASSERT_TRUE(cells.ok()) << cells.status();
  EXPECT_THAT(
      Labels(*cells),
      ElementsAre("target alone T0 g0 s0", "target alone T5 g0 s7", "target alone T5 g0 s9",  //
                  "draft alone T0 g0 s0", "draft alone T5 g0 s7", "draft alone T5 g0 s9",     //
                  "lossless T0 g2 s0", "lossless T5 g2 s7", "lossless T5 g2 s9",              //
                  "lossless, min-p min_p=0.2 T5 g2 s7", "lossless, min-p min_p=0.2 T5 g2 s9",
                  "token_v3 alpha=0.3 T0 g2 s0", "token_v3 alpha=0.3 T5 g2 s7", "token_v3 alpha=0.3 T5 g2 s9",
                  "token_v3 alpha=0.7 T0 g2 s0", "token_v3 alpha=0.7 T5 g2 s7", "token_v3 alpha=0.7 T5 g2 s9",
                  "lossless T0 g4 s0", "lossless T5 g4 s7", "lossless T5 g4 s9",
                  "lossless, min-p min_p=0.2 T5 g4 s7", "lossless, min-p min_p=0.2 T5 g4 s9",
                  "token_v3 alpha=0.3 T0 g4 s0", "token_v3 alpha=0.3 T5 g4 s7", "token_v3 alpha=0.3 T5 g4 s9",
                  "token_v3 alpha=0.7 T0 g4 s0", "token_v3 alpha=0.7 T5 g4 s7",
                  "token_v3 alpha=0.7 T5 g4 s9"));
  const Cell& last = cells->back();
  EXPECT_EQ(last.config.rule.name, "token_v3");
  EXPECT_EQ(last.config.rule.parameters.at("alpha").value, 0.7);
  EXPECT_EQ(last.config.speculation.gamma, 4);
  EXPECT_EQ(last.config.sampling.temperature, 0.5);
  EXPECT_EQ(last.config.sampling.seed, 9u);
  EXPECT_EQ(last.config.sampling.top_k, 20);  // generation_config.json's
  EXPECT_EQ((*cells)[9].config.sampling.min_p, 0.2);
  EXPECT_EQ((*cells)[9].config.rule.name, "lossless");
  EXPECT_EQ((*cells)[0].config.draft_kind, DraftKind::kNone);
}

// The point of a cell: it can be run alone.
TEST_F(Plan, ACellIsTheFileWithItsOverrides) {
  const auto cells =
      Cells("  rules: [{name: lossy_sd, alpha: [0.3], verification: block, bonus: pi}]\n  seeds: [3]\n");
  ASSERT_TRUE(cells.ok()) << cells.status();
  for (const Cell& cell : *cells) {
    absl::StatusOr<Config> config = LoadConfig(folder_ / "c.yaml", cell.overrides);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rule.name, cell.config.rule.name);
    EXPECT_EQ(config->rule.verification, cell.config.rule.verification);
    EXPECT_EQ(config->rule.bonus, cell.config.rule.bonus);
    EXPECT_EQ(config->sampling.temperature, cell.config.sampling.temperature);
    EXPECT_EQ(config->sampling.seed, cell.config.sampling.seed);
    EXPECT_EQ(config->speculation.gamma, cell.config.speculation.gamma);
  }
  EXPECT_EQ(cells->back().series, "lossy_sd, block, bonus pi");
}

TEST_F(Plan, WhatGreedyOutputDoesNotDependOnIsLeftOut) {
  const auto cells = Cells(
      "  rules: [{name: lossy_sd, alpha: [0.3, 0.7]}, {name: lenience, lenience: [0.3, 0.7]}]\n"
      "  temperatures: [0]\n  min_p: []\n  token_cascade: []\n  query_cascade: []\n");
  ASSERT_TRUE(cells.ok()) << cells.status();
  // lossy_sd keeps at T = 0 what the target would write, whatever its alpha; lenience does not.
  EXPECT_THAT(Labels(*cells),
              ElementsAre("target alone T0 g0 s0", "draft alone T0 g0 s0", "lossless T0 g5 s0",
                          "lossy_sd alpha=0.3 T0 g5 s0", "lenience lenience=0.3 T0 g5 s0",
                          "lenience lenience=0.7 T0 g5 s0"));
}

// Token by token nothing is proposed, so no gamma moves it; a query cascade's second stage is the lossless pair.
TEST_F(Plan, CascadesWithoutSpeculation) {
  const auto cells = Cells(
      "  rules: [opt]\n  temperatures: [0]\n  gammas: [2, 4]\n  token_cascade: [0.2, 0.6]\n"
      "  query_cascade: [-0.5]\n");
  ASSERT_TRUE(cells.ok()) << cells.status();
  std::vector<std::string> labels;
  for (const std::string& label : Labels(*cells))
    if (label.find("cascade") != std::string::npos) labels.push_back(label);
  EXPECT_THAT(labels,
              ElementsAre("token cascade alpha=0.2 T0 g0 s0", "token cascade alpha=0.6 T0 g0 s0",
                          "query cascade threshold=-0.5 T0 g2 s0", "query cascade threshold=-0.5 T0 g4 s0"));
  for (const Cell& cell : *cells) {
    const CascadeConfig& cascade = cell.config.cascade;
    EXPECT_EQ(cascade.is_token(), cell.series == kTokenCascade) << cell.label;
    EXPECT_EQ(cascade.is_query(), cell.series == kQueryCascade) << cell.label;
    if (cascade.is_token()) {
      EXPECT_EQ(cascade.parameters.at("alpha").value, cell.value);
    }
    if (cascade.is_query()) {
      EXPECT_EQ(cascade.threshold, -0.5);
      EXPECT_EQ(cell.config.rule.name, "lossless");
    }
  }
}

TEST_F(Plan, SeveralParametersAreACurveEach) {
  const auto cells = Cells(
      "  rules: [{name: bild, rollback: [1, 2], fallback: [0.3, 0.6]}]\n  temperatures: [1]\n  seeds: [1]\n"
      "  min_p: []\n  token_cascade: []\n  query_cascade: []\n");
  ASSERT_TRUE(cells.ok()) << cells.status();
  std::set<std::string> series;
  for (const Cell& cell : *cells) series.insert(cell.series);
  EXPECT_THAT(series, ElementsAre("bild, fallback 0.3", "bild, fallback 0.6", "draft alone", "lossless",
                                  "target alone"));
  EXPECT_EQ(cells->size(), 3u + 4u);
}

TEST_F(Plan, EveryRuleHasADefaultGridThatItTakes) {
  for (const RuleEntry& rule : Rules()) {
    const ParameterGrid grid = DefaultGrid(*rule.info);
    EXPECT_EQ(grid.empty(), rule.info->n_params() == 0) << rule.info->name;
    for (const auto& [name, values] : grid) {
      EXPECT_GE(values.size(), 2u) << rule.info->name;
      for (const double value : values) {
        const auto policy = Policy::Create({.rule = rule.info->name, .params = {{name, value}}}, true);
        EXPECT_TRUE(policy.ok()) << policy.status();
      }
    }
  }
  // A rule of a user's: its check values, or steps through its range.
  RuleInfo own{.name = "own", .params = {{"x", -1, 3, 0, "", {0.5f, 2}}}};
  EXPECT_THAT(DefaultGrid(own)[0].second, ElementsAre(0.5, 2));
  own.params[0].check = {};
  EXPECT_THAT(DefaultGrid(own)[0].second, ElementsAre(-1, 0, 1, 2, 3));
}

TEST_F(Plan, PresetsGiveWhatIsNotWritten) {
  const std::string some = "  preset: standard\n  gammas: [3]\n";
  const absl::StatusOr<Config> standard = LoadConfig(Write(some), {});
  ASSERT_TRUE(standard.ok()) << standard.status();
  EXPECT_THAT(standard->sweep.gammas, ElementsAre(3));
  EXPECT_THAT(standard->sweep.seeds, ElementsAre(1, 2, 3));
  EXPECT_EQ(standard->sweep.rules.size(), 10u);
  const absl::StatusOr<Config> full =
      LoadConfig(Write(some), {{"sweep.preset", "full", true, "--preset full"}});
  ASSERT_TRUE(full.ok());
  EXPECT_THAT(full->sweep.temperatures, ElementsAre(0, 0.5, 1));
  EXPECT_THAT(full->sweep.gammas, ElementsAre(3));
  EXPECT_THAT(PrintConfig(*full), HasSubstr("# preset full\n"));
  // What is printed reads back as the same cells.
  const std::string again = WriteAll(folder_ / "again.yaml", PrintConfig(*full));
  const absl::StatusOr<Config> read = LoadConfig(again, {});
  ASSERT_TRUE(read.ok()) << read.status();
  const auto cells = PlanSweep(*full, {{"sweep.preset", "full", true, "--preset full"}});
  const auto cells_again = PlanSweep(*read, {});
  ASSERT_TRUE(cells.ok() && cells_again.ok()) << cells.status() << cells_again.status();
  EXPECT_EQ(Labels(*cells), Labels(*cells_again));
  EXPECT_GT(cells->size(), 300u);
}

TEST_F(Plan, Complaints) {
  struct Bad {
    const char* sweep;
    const char* error;
  };
  const Bad bad[] = {
      {"  rules: opt\n",
       "c.yaml:4:10: sweep.rules: expected a list of rules, such as [opt, {name: token_v3, alpha: [0.3, "
       "0.7]}], got "
       "opt"},
      {"  rules: [opt, token_v33]\n",
       "c.yaml:4:16: sweep.rules[1]: expected the name of a rule, got token_v33; did you mean token_v3?"},
      {"  rules: [{alpha: 0.3}]\n", "c.yaml:4:11: sweep.rules[0].name: expected the name of a rule"},
      {"  rules: [{name: opt, alhpa: 0.3}]\n",
       "c.yaml:4:23: sweep.rules[0].alhpa: unknown key; did you mean alpha?"},
      {"  rules: [{name: lossless, alpha: 0.3}]\n",
       "c.yaml:4:28: sweep.rules[0].alpha: unknown key: the rule lossless has no parameters"},
      {"  rules: [{name: token_v3, alpha: [0.3, 2]}]\n",
       "c.yaml:4:41: sweep.rules[0].alpha: rule token_v3: alpha: expected 0 to 1, got 2; default 0.5"},
      {"  rules: [{name: token_v3, alpha: []}]\n",
       "c.yaml:4:35: sweep.rules[0].alpha: expected at least one number"},
      {"  rules: [{name: token_v3, alpha: x}]\n",
       "c.yaml:4:35: sweep.rules[0].alpha: expected a number or a list of numbers, got x"},
      {"  rules: [{name: opt, bonus: q}]\n", "c.yaml:4:30: sweep.rules[0].bonus: expected p or pi, got q"},
      {"  rules: [{name: bild, verification: block}]\n",
       "c.yaml:4:11: sweep.rules[0]: rule bild: verification: block needs a rule that states a law, and this "
       "one is a "
       "test; use verification: token"},
      {"  preset: quik\n",
       "c.yaml:4:11: sweep.preset: expected quick or standard or full, got quik; did you mean quick?"},
      {"  temperatures: 1\n",
       "c.yaml:4:17: sweep.temperatures: expected a list of numbers from 0 to 100, got 1"},
      {"  temperatures: [0, hot]\n",
       "c.yaml:4:21: sweep.temperatures[1]: expected a number from 0 to 100, got hot"},
      {"  temperatures: []\n",
       "c.yaml:4:17: sweep.temperatures: expected at least one value, got an empty list"},
      {"  gammas: [3, 5, 3]\n", "c.yaml:4:11: sweep.gammas: expected each value once, got 3 twice"},
      {"  gammas: [0]\n", "c.yaml:4:12: sweep.gammas[0]: expected a whole number from 1 to 31, got 0"},
      {"  seed: [1]\n", "c.yaml:4:3: sweep.seed: unknown key; did you mean seeds?"},
      {"  items: {file: nowhere.jsonl}\n",
       "c.yaml:4:17: sweep.items.file: nowhere.jsonl: no such file, or it cannot be read"},
  };
  for (const Bad& one : bad) EXPECT_EQ(ErrorOf(one.sweep), one.error);
  // Said once, though many cells are concerned, and at the rule's place.
  EXPECT_EQ(ErrorOf("  rules: [opt]\n", {*ParseSet("draft={ngram: {min: 1}}")}),
            "c.yaml:4:11: rule opt: needs the draft's law, and this drafter proposes tokens without one; "
            "draft with "
            "a model, or use another rule (lossless works with any drafter)");
  EXPECT_THAT(ErrorOf("  rules: [opt]\n", {*ParseSet("draft=none")}), HasSubstr("rules need a draft"));
  EXPECT_THAT(ErrorOf("  rules: [opt]\n", {*ParseSet("require_lossless=true")}),
              HasSubstr("c.yaml:4:11: rule.name: opt is lossy, and require_lossless asks"));
}

TEST_F(Plan, Prompts) {
  const auto select = [&](const std::string& sweep) -> absl::StatusOr<SweepPrompts> {
    const absl::StatusOr<Config> config = LoadConfig(Write(sweep), {});
    if (!config.ok()) return config.status();
    return SelectPrompts(*config);
  };
  const auto ids = [](const std::vector<Prompt>& prompts) {
    std::string all;
    for (const Prompt& prompt : prompts) all += prompt.id + " ";
    return all;
  };
  const auto first = select("  items: {file: i.jsonl}\n  items_per_category: 1\n");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(ids(first->items), "1 2 ");
  EXPECT_EQ(ids(select("  items: {file: i.jsonl}\n  items_per_category: 0\n")->items), "1 2 3 ");
  const auto texts =
      select("  texts: [one, {prompt: two, max_new_tokens: 5}, three]\n  max_texts: 2\n  text_tokens: 8\n");
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(ids(texts->texts), "1 2 ");
  EXPECT_EQ(texts->texts[0].max_new_tokens, 8);
  EXPECT_EQ(texts->texts[1].max_new_tokens, 5);

  const std::string file = folder_ / "c.yaml";
  EXPECT_EQ(select("  items: [one]\n").status().message(),
            file + ":4:11: item 1: answer: missing; a prompt without one belongs in sweep.texts");
  EXPECT_EQ(select("  items: [{prompt: x, answer: none, check: {kind: last_number}}]\n").status().message(),
            file + ":4:11: item 1: answer: expected a number in it, as its check.kind says");
  EXPECT_EQ(select("  texts: [{prompt: x, seed: 4}]\n").status().message(),
            file + ":4:11: prompt 1: seed: a sweep gives every prompt the seeds of sweep.seeds; remove it");
  EXPECT_THAT(std::string(select("  gammas: [5]\n").status().message()), HasSubstr("sweep.items: missing"));
}

TEST_F(Plan, KeysKnowWhatFiguresDependOn) {
  const std::string sweep =
      "  rules: [{name: token_v3, alpha: [0.3, 0.7]}]\n  seeds: [1, 2]\n  items: {file: i.jsonl}\n";
  const absl::StatusOr<Config> config = LoadConfig(Write(sweep), {});
  ASSERT_TRUE(config.ok()) << config.status();
  SweepContext context{
      .models = "m", .prompts = *SelectPrompts(*config), .machine = "x", .settings = config->sweep};
  const auto keys = [&](const SweepContext& of, const std::vector<Override>& overrides = {}) {
    std::vector<Cell> cells = *Cells(sweep, overrides);
    NameCells(of, &cells);
    std::vector<std::string> all;
    for (const Cell& cell : cells) all.push_back(cell.key);
    return all;
  };
  const std::vector<std::string> base = keys(context);
  EXPECT_EQ(std::set<std::string>(base.begin(), base.end()).size(), base.size());
  EXPECT_EQ(keys(context), base);
  for (const std::string& key : base) EXPECT_EQ(key.size(), 16u);

  // Each of these changes every key.
  std::vector<SweepContext> others(5, context);
  others[0].models = "n";
  others[1].machine = "y";
  others[2].prompts.items[0].answer = "5";
  others[3].settings.latency_repetitions = 9;
  others[4].prompts.items.pop_back();
  for (const SweepContext& other : others) {
    const std::vector<std::string> changed = keys(other);
    for (size_t i = 0; i < base.size(); ++i) EXPECT_NE(changed[i], base[i]);
  }
  EXPECT_NE(keys(context, {*ParseSet("sampling.top_p=0.5")}), base);
  EXPECT_NE(keys(context, {*ParseSet("target.dtype=bf16")}), base);
  // These do not: where a report goes, and which other cells there are.
  EXPECT_EQ(keys(context, {*ParseSet("report.json=x.json")}), base);
  std::vector<Cell> fewer = *Cells("  rules: [{name: token_v3, alpha: 0.7}]\n  seeds: [2]\n");
  NameCells(context, &fewer);
  EXPECT_EQ(fewer.back().key, base.back());
}

TEST_F(Plan, AModelIsItsFiles) {
  const std::string before = *FingerprintModel(folder_ / "target");
  EXPECT_EQ(*FingerprintModel(folder_ / "draft"), before);  // copies of one
  std::string weights = ReadAll(folder_ / "draft/model.safetensors");
  weights.back() ^= 1;
  WriteAll(folder_ / "draft/model.safetensors", weights);
  EXPECT_NE(*FingerprintModel(folder_ / "draft"), before);
  EXPECT_TRUE(absl::IsNotFound(FingerprintModel(folder_ / "nowhere").status()));
}

// Results go to others, who have no such folders.
TEST_F(Plan, ResultsSayPathsAsTheConfigurationDoes) {
  const std::vector<Override> overrides = {{"draft.model", folder_ / "target", true, "--set draft.model"}};
  const absl::StatusOr<Config> config = LoadConfig(Write("  items: {file: ./i.jsonl}\n"), overrides);
  ASSERT_TRUE(config.ok()) << config.status();
  const OrderedJson json = SweepJson(*config, ReportHeader(), SweepPrompts(), {}, "2026-01-02");
  EXPECT_EQ(json["config"]["target"]["model"], "target");
  EXPECT_EQ(json["config"]["draft"]["model"], folder_ / "target") << "given as it is";
  EXPECT_EQ(json["config"]["sweep"]["items"]["file"], "./i.jsonl");
  EXPECT_EQ(config->target.model.text, folder_ / "target");
  EXPECT_EQ(ConfigJson(*config)["target"]["model"], folder_ / "target");
}

}  // namespace
}  // namespace tandem
