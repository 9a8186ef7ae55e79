// The command line end to end, each command in a process of its own: what it writes where, exit codes, and
// the text of every error that bad input gets.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/console.h"
#include "runtime/core/cuda.h"
#include "tests/on_device.h"
#include "tests/runtime/tiny_checkpoints.h"

namespace tandem {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

struct RunOptions {
  bool terminal = false;  // stdout is one
  bool no_colour = false;
  bool interrupt = false;  // SIGINT once something is on stdout
};

// Reads both until they end; calls `on_output` when stdout first has something.
void Drain(int out, int err, Outcome* outcome, const std::function<void()>& on_output) {
  pollfd fds[2] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  std::string* texts[2] = {&outcome->out, &outcome->err};
  int n_open = 2;
  while (n_open > 0) {
    poll(fds, 2, -1);
    for (int i = 0; i < 2; ++i) {
      if (fds[i].fd < 0 || (fds[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      char buffer[4096];
      const ssize_t n = read(fds[i].fd, buffer, sizeof buffer);
      if (n <= 0) {
        fds[i].fd = -1;
        --n_open;
        continue;
      }
      if (i == 0 && texts[0]->empty()) on_output();
      texts[i]->append(buffer, static_cast<size_t>(n));
    }
  }
}

Outcome Tandem(const std::vector<std::string>& words, const RunOptions& options = {}) {
  int out[2], err[2];
  if (options.terminal) {
    if (openpty(&out[0], &out[1], nullptr, nullptr, nullptr) != 0) {
      ADD_FAILURE() << "no terminal to be had: " << std::strerror(errno) << "; is /dev/pts mounted?";
      return {};
    }
  } else {
    EXPECT_EQ(pipe(out), 0);
  }
  EXPECT_EQ(pipe(err), 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    for (const int fd : {out[0], out[1], err[0], err[1]}) close(fd);
    setenv("TERM", "xterm", 1);
    options.no_colour ? setenv("NO_COLOR", "1", 1) : unsetenv("NO_COLOR");
    std::vector<std::string> all = {"tandem"};
    all.insert(all.end(), words.begin(), words.end());
    std::vector<char*> argv;
    for (std::string& word : all) argv.push_back(word.data());
    const int code = RunTandem(static_cast<int>(argv.size()), argv.data());
    std::fflush(nullptr);
    _exit(code);
  }
  close(out[1]);
  close(err[1]);
  Outcome outcome;
  Drain(out[0], err[0], &outcome, [&] {
    if (options.interrupt) kill(child, SIGINT);
  });
  close(out[0]);
  close(err[0]);
  int status = 0;
  waitpid(child, &status, 0);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  return outcome;
}

constexpr int kVocabulary = 307;  // of the golden model that is used here

class Cli : public testing::Test {
 protected:
  // A target and a draft that agrees with it often but not always, with a tokenizer of bytes; and a
  // configuration.
  void SetUp() override {
    for (const char* side : {"target", "draft"}) {
      CopyModel("llama3_gqa", folder_ / side);
      WriteAll(folder_ / (std::string(side) + "/tokenizer.json"), ByteTokenizer(kVocabulary).dump());
    }
    EditJson(folder_ / "draft/config.json", [](Json& config) {
      Json& rope = config.contains("rope_parameters") ? config["rope_parameters"] : config;
      ASSERT_TRUE(rope.contains("rope_theta"));
      rope["rope_theta"] = rope["rope_theta"].get<double>() * 1.5;
    });
    Config("");
  }

  // Writes c.yaml: greedy, one thread, and `more`.
  void Config(const std::string& more) {
    WriteAll(config_, "target: {model: target}\ndraft: {model: draft}\nexecution: {threads: 1}\n" + more);
  }

  Json RunToJson(std::vector<std::string> words) {
    const std::string path = folder_ / "out.json";
    words.insert(words.begin(), {"run", config_, "--json", path, "--set", "sampling.temperature=0"});
    const Outcome outcome = Tandem(words);
    EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
    return Json::parse(ReadAll(path));
  }

  TestFolder folder_;
  const std::string config_ = folder_ / "c.yaml";
};

TEST_F(Cli, HelpAndUsage) {
  EXPECT_EQ(Tandem({}).code, kExitUsage);
  EXPECT_EQ(Tandem({}).out, "");
  const Outcome help = Tandem({"--help"});
  EXPECT_EQ(help.code, kExitOk);
  EXPECT_THAT(help.out, AllOf(HasSubstr("run CONFIG"), HasSubstr("130 interrupted")));
  EXPECT_EQ(help.err, "");
  EXPECT_THAT(Tandem({"--version"}).out, MatchesRegex("tandem [0-9.]+\n"));
  for (const Command& command : Commands()) {
    std::vector<std::string> words;
    std::istringstream stream(command.name);
    for (std::string word; stream >> word;) words.push_back(word);
    words.push_back("--help");
    const Outcome one = Tandem(words);
    EXPECT_EQ(one.code, kExitOk) << command.name;
    EXPECT_THAT(one.out, StartsWith("usage: tandem " + std::string(command.name)));
    for (const Flag& flag : command.flags) EXPECT_THAT(one.out, HasSubstr(std::string("\n  ") + flag.name));
  }
  for (const char* topic : {"metrics", "config", "run", "rules"}) {
    EXPECT_EQ(Tandem({"help", topic}).code, kExitOk) << topic;
  }
  EXPECT_EQ(Tandem({"help", "rules", "check"}).out, Tandem({"rules", "check", "--help"}).out);
}

TEST_F(Cli, WhatIsNotThereGetsTheNearestName) {
  struct Bad {
    std::vector<std::string> words;
    const char* error;
  };
  const Bad bad[] = {
      {{"rum", "x"}, "tandem: unknown command rum; did you mean run? (tandem --help)\n"},
      {{"--hlep"}, "tandem: unknown flag --hlep; did you mean --help? (tandem --help)\n"},
      {{"config", "chek", "x"},
       "tandem: config: unknown command chek; did you mean check? (tandem --help)\n"},
      {{"config"}, "tandem: config: unknown command nothing; expected one of check, print (tandem --help)\n"},
      {{"run"}, "tandem: expected CONFIG, got nothing (tandem run --help)\n"},
      {{"run", "a", "b"}, "tandem: unexpected argument b (tandem run --help)\n"},
      {{"run", "a", "--jsno", "x"},
       "tandem: unknown flag --jsno; did you mean --json? (tandem run --help)\n"},
      {{"run", "a", "--json"}, "tandem: --json: expected FILE, got nothing (tandem run --help)\n"},
      {{"run", "a", "--json=x", "--json", "y"}, "tandem: --json: given twice (tandem run --help)\n"},
      {{"run", "a", "--require-lossless=1"},
       "tandem: --require-lossless: takes no value (tandem run --help)\n"},
      {{"run", "a", "--set", "b"}, "tandem: --set b: expected KEY=VALUE, as in --set speculation.gamma=4\n"},
      {{"run", "a", "--prompt", "b", "--prompts", "c"},
       "tandem: --prompt and --prompts: give one of them (tandem --help)\n"},
      {{"bench", "a", "--repetitions", "2"},
       "tandem: --repetitions: expected a whole number from 3 to 1000, got 2\n"},
      {{"bench"}, "tandem: expected CONFIG or --planted, got nothing (tandem bench --help)\n"},
      {{"bench", "a", "--gamma", "3"}, "tandem: --gamma: belongs to --planted (tandem bench --help)\n"},
      {{"bench", "a", "--planted", "llama-tiny+llama-tiny"},
       "tandem: expected CONFIG or --planted, got both: a (tandem bench --help)\n"},
      {{"bench", "--planted", "llama-tiny+llama-tiny", "--set", "a=b"},
       "tandem: --set: belongs to a CONFIG, and --planted has none (tandem bench --help)\n"},
      {{"bench", "--planted", "llama-tiny"},
       "tandem: --planted: expected TARGET+DRAFT, as llama-8b+llama-1b, got llama-tiny\n"},
      {{"bench", "--planted", "llama-tiny+llama-tiny", "--context", "12k"},
       "tandem: --context: expected a number, got 12k\n"},
      {{"bench", "--planted", "llama-tiny+llama-tiny", "--device", "cpu", "--agreement", "2"},
       "tandem: --agreement: expected 0 to 1, got 2\n"},
      {{"help", "metric"}, "tandem: help: unknown topic metric; did you mean metrics?\n"},
      {{"help", "rules", "chekc"}, "tandem: help: unknown topic rules chekc; did you mean rules check?\n"},
      {{"rules", "info", "losless"}, "tandem: rules info: unknown rule losless; did you mean lossless?\n"},
      {{"rules", "check", "losless"}, "tandem: rules check: unknown rule losless; did you mean lossless?\n"},
  };
  for (const Bad& one : bad) {
    const Outcome outcome = Tandem(one.words);
    EXPECT_EQ(outcome.code, kExitUsage) << one.error;
    EXPECT_EQ(outcome.err, one.error);
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(Cli, RunWritesTextThenReport) {
  Config("prompts: \"Hello\"\nsampling: {max_new_tokens: 24, ignore_eos: true}\n");
  const std::string json_path = folder_ / "out.json";
  const Outcome outcome = Tandem({"run", config_, "--json", json_path});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  const Json json = Json::parse(ReadAll(json_path));
  const std::string text = json["requests"][0]["text"];
  EXPECT_FALSE(text.empty());
  EXPECT_THAT(outcome.out, StartsWith(text + "\n\n  target "));
  EXPECT_THAT(outcome.out,
              HasSubstr("\n  guarantee   exact: the output law is the target's; bonus token from p\n"));
  EXPECT_THAT(outcome.out, HasSubstr("24 tokens from "));
  EXPECT_THAT(outcome.out, Not(HasSubstr("\033[")));
  EXPECT_THAT(outcome.err, HasSubstr("models loaded"));
  EXPECT_EQ(json["config"]["sampling"]["temperature"], 0.6);  // generation_config.json's
}

TEST_F(Cli, JsonFiguresAgreeWithTheTokens) {
  Config(
      "sampling: {max_new_tokens: 32}\nspeculation: {gamma: 3}\n"
      "prompts: [Hello, {id: x, category: c, prompt: World, max_new_tokens: 9}]\nexecution: {batch: 2, "
      "threads: 1}\n");
  // `execution` twice: the file is refused, so that the test sees its own mistake.
  EXPECT_EQ(Tandem({"run", config_}).code, kExitConfig);
  WriteAll(config_,
           "target: {model: target}\ndraft: {model: draft}\nspeculation: {gamma: 3}\nsampling: "
           "{max_new_tokens: 32}\n"
           "prompts: [Hello, {id: x, category: c, prompt: World, max_new_tokens: 9}]\n"
           "execution: {batch: 2, threads: 1}\n");
  const Json json = RunToJson({});
  ASSERT_EQ(json["requests"].size(), 2u);
  EXPECT_EQ(json["requests"][0]["id"], "1");
  EXPECT_EQ(json["requests"][1]["id"], "x");
  EXPECT_EQ(json["requests"][1]["category"], "c");
  EXPECT_THAT(json["requests"][0]["prompt_token_ids"].get<std::vector<int>>(),
              ElementsAre('H', 'e', 'l', 'l', 'o'));
  int64_t n_emitted = 0, n_accepted = 0, n_calls = 0;
  for (const Json& request : json["requests"]) {
    const Json& metrics = request["metrics"];
    const size_t n_tokens = request["token_ids"].size();
    ASSERT_EQ(request["origin"].size(), n_tokens);
    int64_t n_draft = 0, n_replaced = 0, n_bonus = 0;
    for (const Json& origin : request["origin"]) {
      n_draft += origin == "draft";
      n_replaced += origin == "replaced";
      n_bonus += origin == "bonus";
    }
    EXPECT_EQ(metrics["num_emitted_tokens"], n_tokens);
    EXPECT_EQ(metrics["num_accepted_tokens"], n_draft);
    EXPECT_EQ(request["finish_reason"], "length");
    int64_t per_position = 0, kept = 0, rounds = 0;
    for (const Json& n : metrics["num_accepted_tokens_per_pos"]) per_position += n.get<int64_t>();
    for (size_t k = 0; k < metrics["acceptance_histogram"].size(); ++k) {
      const int64_t n = metrics["acceptance_histogram"][k];
      kept += static_cast<int64_t>(k) * n;
      rounds += n;
    }
    EXPECT_EQ(per_position, n_draft);
    EXPECT_EQ(kept, n_draft);
    EXPECT_EQ(rounds, metrics["num_drafts"]);
    EXPECT_GT(n_replaced, 0);  // the draft is not the target
    n_emitted += static_cast<int64_t>(n_tokens);
    n_accepted += n_draft;
    n_calls += metrics["target_calls"].get<int64_t>();
    EXPECT_EQ(metrics["target_calls"], static_cast<int64_t>(n_tokens) - n_draft);
  }
  EXPECT_EQ(json["requests"][1]["token_ids"].size(), 9u);
  EXPECT_EQ(json["total"]["num_emitted_tokens"], n_emitted);
  EXPECT_EQ(json["total"]["num_accepted_tokens"], n_accepted);
  EXPECT_EQ(json["total"]["target_calls"], n_calls);
  EXPECT_GT(json["total"]["time_ms"]["verify"], 0);
  EXPECT_EQ(json["run"]["guarantee"], "exact");
}

TEST_F(Cli, SpeculationDoesNotChangeGreedyText) {
  Config("prompts: [Hello, \"some other text\"]\nsampling: {max_new_tokens: 40}\n");
  const Json alone = RunToJson({"--set", "draft=none"});
  for (const char* set :
       {"draft.device=cpu", "draft={ngram: {min: 1, max: 3}}", "speculation.schedule=heuristic",
        "speculation.draft_confidence_min=0.5", "rule={name: lossless, verification: block}",
        "rule={name: greedy}", "execution.streams=threaded", "execution.batch=2", "cache.page_size=3"}) {
    const Json pair = RunToJson({"--set", set});
    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(pair["requests"][i]["token_ids"], alone["requests"][i]["token_ids"]) << set;
  }
  EXPECT_EQ(alone["total"]["num_drafts"], 0);
  EXPECT_EQ(alone["requests"][0]["origin"][0], "target");
}

TEST_F(Cli, PromptsFromFlags) {
  Config("prompts: \"in the file\"\nsampling: {max_new_tokens: 2}\n");
  const std::string lines =
      WriteAll(folder_ / "p.jsonl", "{\"prompt\": \"ab\", \"id\": \"q\"}\n{\"prompt_token_ids\": [3]}\n");
  const Json from_file = RunToJson({"--prompts", lines});
  EXPECT_EQ(from_file["requests"][0]["id"], "q");
  EXPECT_EQ(from_file["requests"][0]["prompt_token_ids"], Json({'a', 'b'}));
  EXPECT_EQ(from_file["requests"][1]["prompt_token_ids"], Json({3}));
  EXPECT_EQ(from_file["config"]["prompts"]["file"], lines);
  EXPECT_EQ(RunToJson({"--prompt", "[1, 2]"})["requests"][0]["prompt_token_ids"],
            Json({'[', '1', ',', ' ', '2', ']'}));
}

TEST_F(Cli, SeveralPromptsAreShownOneAfterTheOther) {
  Config(
      "prompts: [{id: a, prompt: x}, {id: b, category: k, prompt: y, max_new_tokens: 30}, {id: c, prompt: "
      "z}]\n"
      "sampling: {max_new_tokens: 5}\n");
  const std::string json_path = folder_ / "out.json";
  const Outcome outcome = Tandem({"run", config_, "--set", "execution.batch=3", "--json", json_path});
  ASSERT_EQ(outcome.code, kExitOk) << outcome.err;
  const Json json = Json::parse(ReadAll(json_path));
  const auto text = [&](int i) { return json["requests"][i]["text"].get<std::string>(); };
  EXPECT_THAT(outcome.out, StartsWith("[a]\n" + text(0) + "\n\n[b, k]\n" + text(1) + "\n\n[c]\n" + text(2) +
                                      "\n\n  target"));
}

TEST_F(Cli, StopStringsEndTheText) {
  Config("prompts: Hello\nsampling: {temperature: 0, max_new_tokens: 60, ignore_eos: true}\n");
  const std::string whole = RunToJson({})["requests"][0]["text"];
  const std::string stop = "word";
  ASSERT_THAT(whole, HasSubstr(stop));
  const std::string set = "sampling.stop=[\"" + stop + "\"]";
  const Json json = RunToJson({"--set", set});
  EXPECT_EQ(json["requests"][0]["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(json["requests"][0]["finish_reason"], "stop");
  EXPECT_LT(json["requests"][0]["token_ids"].size(), 60u);
  EXPECT_THAT(Tandem({"run", config_, "--set", set}).out,
              StartsWith(whole.substr(0, whole.find(stop)) + "\n\n  target"));
}

TEST_F(Cli, ATokenCascadeSaysWhoWroteWhat) {
  Config(
      "prompts: [Hello, \"some other text\"]\nsampling: {temperature: 0, max_new_tokens: 40, ignore_eos: "
      "true}\n");
  const Json target = RunToJson({"--set", "draft=none"});
  const Json draft = RunToJson({"--set", "draft=none", "--set", "target.model=" + (folder_ / "draft")});
  const auto cascade = [&](const std::string& alpha, const std::string& more) {
    return RunToJson({"--set", "cascade={mode: token, rule: chow, alpha: " + alpha + "}", "--set", more});
  };
  for (const char* more : {"execution.batch=2", "execution.streams=threaded", "execution.prefill_chunk=2"}) {
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(cascade("1", more)["requests"][i]["token_ids"], draft["requests"][i]["token_ids"]) << more;
      EXPECT_EQ(cascade("0", more)["requests"][i]["token_ids"], target["requests"][i]["token_ids"]) << more;
    }
  }
  // The tiny draft is never sure of anything: an alpha at which both write is high.
  std::string alpha;
  Json json;
  for (const char* tried : {"0.98", "0.96", "0.94", "0.92", "0.9", "0.85", "0.8", "0.7"}) {
    alpha = tried;
    json = cascade(alpha, "execution.batch=2");
    const int64_t n_deferred = json["total"]["target_calls"];
    if (n_deferred > 8 && n_deferred < 72) break;
  }
  int64_t n_target = 0, n_all = 0;
  for (const Json& request : json["requests"]) {
    int64_t here = 0;
    for (const Json& origin : request["origin"]) {
      ASSERT_TRUE(origin == "draft" || origin == "target");
      here += origin == "target";
    }
    n_target += here;
    n_all += static_cast<int64_t>(request["origin"].size());
    EXPECT_EQ(request["metrics"]["target_calls"], here);
    EXPECT_EQ(request["metrics"]["draft_calls"], request["token_ids"].size());
    EXPECT_NEAR(request["metrics"]["deferral_rate"].get<double>(), here / 40.0, 1e-6);
    EXPECT_TRUE(request["metrics"]["answer_score"].is_null());
  }
  EXPECT_GT(n_target, 0);
  EXPECT_LT(n_target, n_all);
  EXPECT_EQ(json["run"]["guarantee"], "lossy");
  EXPECT_TRUE(json["run"]["bonus"].is_null());
  EXPECT_EQ(json["config"]["cascade"],
            Json({{"mode", "token"}, {"rule", "chow"}, {"alpha", std::stod(alpha)}}));
  const Outcome outcome = Tandem({"run", config_, "--set", "cascade={mode: token, alpha: " + alpha + "}"});
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("\n  cascade     token by token: the target writes where the draft defers"),
                    HasSubstr("\n  rule        chow(alpha=" + alpha + "), tested on the draft's law\n"),
                    HasSubstr(" of tokens handed to the target\n  calls       80 of the draft, ")));
  EXPECT_THAT(outcome.out, Not(HasSubstr("bonus")));
}

TEST_F(Cli, AQueryCascadeKeepsOrRedoesAnswers) {
  Config(
      "prompts: [Hello, \"some other text\", x]\nsampling: {temperature: 0, max_new_tokens: 30, ignore_eos: "
      "true}\n");
  const Json target = RunToJson({"--set", "draft=none"});
  const Json draft = RunToJson({"--set", "draft=none", "--set", "target.model=" + (folder_ / "draft")});
  const auto cascade = [&](double threshold, const std::string& more) {
    const std::string section = "cascade={mode: query, threshold: " + std::to_string(threshold) + "}";
    return RunToJson({"--set", section, "--set", more});
  };
  const Json kept = cascade(-1e6, "execution.batch=2");
  for (int i = 0; i < 3; ++i) {
    const Json& request = kept["requests"][i];
    EXPECT_EQ(request["token_ids"], draft["requests"][i]["token_ids"]);
    EXPECT_EQ(request["metrics"]["target_calls"], 0);
    EXPECT_EQ(request["metrics"]["draft_calls"], 30);
    EXPECT_EQ(request["metrics"]["answer_deferral_rate"], 0);
    ASSERT_EQ(request["stages"].size(), 1u);
    EXPECT_EQ(request["stages"][0]["num_tokens"], 30);
  }
  for (const char* more : {"speculation.gamma=0", "speculation.gamma=4", "execution.streams=threaded"}) {
    const Json redone = cascade(1, more);
    for (int i = 0; i < 3; ++i) {
      const Json& request = redone["requests"][i];
      EXPECT_EQ(request["token_ids"], target["requests"][i]["token_ids"]) << more;
      EXPECT_EQ(request["metrics"]["answer_deferral_rate"], 1);
      EXPECT_EQ(request["metrics"]["answer_score"], kept["requests"][i]["metrics"]["answer_score"]);
      ASSERT_EQ(request["stages"].size(), 2u);
      EXPECT_EQ(request["stages"][1]["model"], "target");
    }
  }
  // Between the scores some are kept and some redone.
  std::vector<double> scores;
  for (const Json& request : kept["requests"]) scores.push_back(request["metrics"]["answer_score"]);
  std::vector<double> sorted = scores;
  std::sort(sorted.begin(), sorted.end());
  ASSERT_LT(sorted[0], sorted[1]);
  const Json mixed = cascade((sorted[0] + sorted[1]) / 2, "execution.batch=2");
  for (int i = 0; i < 3; ++i) {
    const Json& wanted = scores[i] == sorted[0] ? target : draft;
    EXPECT_EQ(mixed["requests"][i]["token_ids"], wanted["requests"][i]["token_ids"]);
  }
  EXPECT_EQ(mixed["total"]["draft_calls"].get<int64_t>() >= 90, true);
  const Outcome outcome = Tandem({"run", config_, "--set", "cascade={mode: query, score: sum, threshold: 1}",
                                  "--set", "speculation.gamma=0"});
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("\n  cascade     whole answers: the target redoes those whose log-probabilities have a "
                      "sum under 1\n  rule        redone by the target alone\n"),
            HasSubstr("\n  answers     100.0 % redone by the target: 3 of 3; scores -")));
}

TEST_F(Cli, StopStringsEndCascades) {
  Config("prompts: [Hello, x]\nsampling: {temperature: 0, max_new_tokens: 60, ignore_eos: true}\n");
  for (const char* section :
       {"cascade={mode: token, alpha: 0.9}", "cascade={mode: query, threshold: -1000000}",
        "cascade={mode: query, threshold: 1}"}) {
    for (const char* streams : {"execution.streams=inline", "execution.streams=threaded"}) {
      const Json whole = RunToJson({"--set", section, "--set", streams, "--set", "execution.batch=2"});
      // The first letter or digit after some tokens, whatever the tiny model wrote.
      const std::string text = whole["requests"][0]["text"];
      const auto letter = std::find_if(text.begin() + std::min<size_t>(text.size(), 12), text.end(),
                                       [](unsigned char c) { return std::isalnum(c) != 0; });
      ASSERT_NE(letter, text.end()) << section;
      const std::string stop(1, *letter);
      const Json cut = RunToJson({"--set", section, "--set", streams, "--set", "execution.batch=2", "--set",
                                  "sampling.stop=[\"" + stop + "\"]"});
      EXPECT_EQ(cut["requests"][0]["text"], text.substr(0, text.find(stop))) << section;
      EXPECT_EQ(cut["requests"][0]["finish_reason"], "stop");
      EXPECT_LT(cut["requests"][0]["token_ids"].size(), whole["requests"][0]["token_ids"].size());
    }
  }
}

TEST_F(Cli, CascadesAreNotLossless) {
  Config("prompts: x\n");
  for (const std::string mode : {"token", "query"}) {
    const std::string set = "cascade={mode: " + mode + (mode == "query" ? ", threshold: -1}" : "}");
    const Outcome outcome = Tandem({"config", "check", config_, "--set", set, "--require-lossless"});
    EXPECT_EQ(outcome.code, kExitConfig);
    EXPECT_EQ(outcome.err,
              "--set " + set + ": cascade.mode: " + mode +
                  " is lossy, and require_lossless asks for the target's law; remove cascade and use an "
                  "exact rule\n");
  }
}

TEST_F(Cli, BenchTakesCascades) {
  Config(
      "prompts: [Hello, {id: b, category: k, prompt: x}]\nsampling: {temperature: 0, max_new_tokens: 12, "
      "ignore_eos: "
      "true}\n");
  for (const char* section : {"cascade={mode: token, alpha: 0.9}", "cascade={mode: query, threshold: 1}"}) {
    const std::string path = folder_ / "bench.json";
    const Outcome outcome = Tandem({"bench", config_, "--set", section, "--json", path});
    EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
    EXPECT_THAT(outcome.out,
                AllOf(HasSubstr(" x in serving, prompts included, sd "),
                      HasSubstr("\n              cascade "), HasSubstr("a token of the cascade costs "),
                      HasSubstr("\n  calls       "), HasSubstr("deferred   speedup")));
    const Json json = Json::parse(ReadAll(path));
    EXPECT_EQ(json["repetitions"].size(), 3u);
    EXPECT_GT(json["pair"]["draft_calls"], 0);
    EXPECT_GT(json["speedup"]["mean"], 0);
  }
}

TEST_F(Cli, JsonOnStdoutStandsAlone) {
  Config("prompts: Hello\nsampling: {max_new_tokens: 4, ignore_eos: true}\n");
  const Outcome outcome = Tandem({"run", config_, "--json", "-"});
  EXPECT_EQ(outcome.code, kExitOk);
  EXPECT_EQ(Json::parse(outcome.out)["requests"][0]["token_ids"].size(), 4u);
}

TEST_F(Cli, ColoursOnATerminalOnly) {
  Config("prompts: Hello\nsampling: {temperature: 0, max_new_tokens: 40}\n");
  const Outcome coloured = Tandem({"run", config_}, {.terminal = true});
  EXPECT_EQ(coloured.code, kExitOk) << coloured.err;
  EXPECT_THAT(coloured.out, HasSubstr("\033[32m"));
  EXPECT_THAT(coloured.out, HasSubstr("kept draft tokens"));
  EXPECT_THAT(coloured.out, HasSubstr("Hello"));
  const Outcome plain = Tandem({"run", config_}, {.terminal = true, .no_colour = true});
  EXPECT_THAT(plain.out, Not(HasSubstr("\033")));
  EXPECT_THAT(plain.out, Not(HasSubstr("kept draft tokens,")));
}

TEST_F(Cli, ColoursChangeNoByteOfTheText) {
  Config("prompts: Hello\nsampling: {temperature: 0, max_new_tokens: 60}\n");
  const std::string json_path = folder_ / "out.json";
  std::string out = Tandem({"run", config_, "--json", json_path}, {.terminal = true}).out;
  std::string bare;
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i] == '\033')
      i = out.find('m', i);
    else if (out[i] != '\r' || i + 1 >= out.size() || out[i + 1] != '\n')
      bare += out[i];  // a terminal's \n is \r\n
  }
  const std::string text = Json::parse(ReadAll(json_path))["requests"][0]["text"];
  EXPECT_THAT(bare, StartsWith("Hello" + Printable(text)));
}

TEST_F(Cli, InterruptFinishesTheRoundAndReports) {
  std::string lines;
  for (int i = 0; i < 2000; ++i)
    lines += "{\"prompt\": \"prompt " + std::to_string(i) + "\", \"max_new_tokens\": 100}\n";
  WriteAll(folder_ / "many.jsonl", lines);
  Config("prompts: {file: many.jsonl}\n");
  const std::string json_path = folder_ / "out.json";
  const Outcome outcome = Tandem({"run", config_, "--json", json_path}, {.interrupt = true});
  EXPECT_EQ(outcome.code, kExitInterrupt) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("\n  output      "));
  EXPECT_THAT(outcome.err, HasSubstr("interrupted"));
  const Json json = Json::parse(ReadAll(json_path));
  EXPECT_EQ(json["requests"].size(), 2000u);
  EXPECT_EQ(json["requests"][1999]["finish_reason"], "cancelled");
  EXPECT_GT(json["total"]["num_emitted_tokens"], 0);
}

TEST_F(Cli, BenchComparesAndReports) {
  Config(
      "prompts: [{category: a, prompt: Hello}, {category: b, prompt: World}]\n"
      "sampling: {temperature: 0, max_new_tokens: 30}\n");
  const std::string json_path = folder_ / "out.json";
  const Outcome outcome = Tandem({"bench", config_, "--json", json_path, "--repetitions", "4"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("  outputs     equal, token by token: 8 of 8 (greedy)\n"));
  EXPECT_THAT(outcome.out, HasSubstr(" in 4 repetitions\n"));
  EXPECT_THAT(outcome.out, HasSubstr("plain steps of the target"));
  const Json json = Json::parse(ReadAll(json_path));
  EXPECT_EQ(json["repetitions"].size(), 4u);
  EXPECT_EQ(json["outputs"]["different"], 0);
  EXPECT_EQ(json["categories"].size(), 2u);
  double sum = 0;
  for (const Json& r : json["repetitions"]) {
    sum += r["pair"]["tokens_per_second"]["decode"].get<double>() /
           r["target"]["tokens_per_second"]["decode"].get<double>();
    EXPECT_EQ(r["target"]["num_emitted_tokens"], 60);
    EXPECT_EQ(r["target"]["num_drafts"], 0);
  }
  EXPECT_NEAR(json["speedup"]["mean"].get<double>(), sum / 4, 1e-4 * sum);
  EXPECT_EQ(json["pair"]["num_emitted_tokens"], 240);
}

TEST_F(Cli, BenchSaysWhereALossyRuleDiffers) {
  Config(
      "rule: {name: lenience, lenience: 0.01}\nprompts: Hello\nsampling: {temperature: 0, max_new_tokens: "
      "60}\n");
  const Outcome outcome = Tandem({"bench", config_});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("3 of 3 differ (greedy); first in 1 at token "));
  EXPECT_THAT(outcome.out, HasSubstr("; the rule may do that"));
}

TEST_F(Cli, BenchOfAPlantedPair) {
  const std::vector<std::string> words = {"bench",
                                          "--planted",
                                          "llama-tiny+llama-tiny",
                                          "--device",
                                          "cpu",
                                          "--rounds",
                                          "8",
                                          "--repetitions",
                                          "3",
                                          "--context",
                                          "48",
                                          "--prefill",
                                          "32",
                                          "--json",
                                          "-"};
  const Outcome outcome = Tandem(words);
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  const Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["greedy_outputs"]["different"], 0);
  EXPECT_EQ(json["tokens_per_round"], json["planted_tokens_per_round"]);
  EXPECT_GT(json["plain_tiny_tok_s"], 0);
  EXPECT_TRUE(json["step_06b_ms"].is_null());
  EXPECT_THAT(std::string(json["missing"]["step_06b_ms"]), HasSubstr("--small"));
}

TEST_F(Cli, BenchNeedsAPair) {
  Config("prompts: Hello\n");
  const Outcome outcome = Tandem({"bench", config_, "--set", "draft=none"});
  EXPECT_EQ(outcome.code, kExitConfig);
  EXPECT_THAT(outcome.err, HasSubstr("names no draft"));
}

TEST_F(Cli, ConfigCheckAndPrint) {
  Config("prompts: Hello\nsampling: {top_k: 7}\n");
  EXPECT_EQ(Tandem({"config", "check", config_}).out, config_ + ": ok\n");
  const Outcome printed = Tandem({"config", "print", config_, "--set", "speculation.gamma=2"});
  EXPECT_EQ(printed.code, kExitOk);
  EXPECT_THAT(printed.out,
              HasSubstr("\n  temperature: 0.6                          # generation_config.json\n"));
  EXPECT_THAT(printed.out,
              HasSubstr("\n  top_k: 7                                  # " + config_ + ":5:19\n"));
  EXPECT_THAT(printed.out,
              HasSubstr("\n  gamma: 2                                  # --set speculation.gamma=2\n"));
  const std::string again = WriteAll(folder_ / "again.yaml", printed.out);
  EXPECT_EQ(Tandem({"config", "check", again}).code, kExitOk);
}

TEST_F(Cli, InfoShowsShapeAndMemory) {
  const Outcome outcome = Tandem({"info", folder_ / "target/", "--check-weights"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("LlamaForCausalLM: 2 layers, hidden 76, 4 heads of 24 on 2"));
  // 2 layers, keys and values, 2 heads of 24 values of 4 bytes.
  EXPECT_THAT(outcome.out, HasSubstr("cache 768 B per token in fp32, 384 B in bf16"));
  EXPECT_THAT(outcome.out, HasSubstr("tokenizer   307 token ids"));
  EXPECT_THAT(outcome.out,
              HasSubstr("temperature 0.6, top_k 20, top_p 0.9; end of text is token 301, 305, 306"));
  EXPECT_THAT(outcome.out, HasSubstr("every weight is finite"));
}

TEST_F(Cli, Rules) {
  const Outcome list = Tandem({"rules", "list"});
  EXPECT_EQ(list.code, kExitOk);
  EXPECT_THAT(list.out, HasSubstr("\n  lossless "));
  const Outcome info = Tandem({"rules", "info", "opt"});
  EXPECT_EQ(info.code, kExitOk);
  EXPECT_THAT(info.out, HasSubstr("\n  alpha "));
  const Outcome check = Tandem({"rules", "check", "lossless"});
  EXPECT_EQ(check.code, kExitOk) << check.err;
  EXPECT_THAT(check.out, HasSubstr("\nok: the largest difference"));
}

TEST_F(Cli, RequireLossless) {
  Config("rule: {name: greedy}\nprompts: Hello\nsampling: {max_new_tokens: 2}\n");
  const Outcome refused =
      Tandem({"run", config_, "--require-lossless"});  // at 0.6, by generation_config.json
  EXPECT_EQ(refused.code, kExitConfig);
  EXPECT_EQ(refused.err, config_ +
                             ":4:14: rule.name: greedy is exact at T = 0, and require_lossless asks for the "
                             "target's law at temperature 0.6; use lossless or sample_match\n");
  EXPECT_EQ(Tandem({"run", config_, "--require-lossless", "--set", "sampling.temperature=0"}).code, kExitOk);
  EXPECT_EQ(Tandem({"run", config_, "--require-lossless", "--set", "rule={name: opt}"}).code, kExitConfig);
  EXPECT_EQ(Tandem({"run", config_, "--set", "require_lossless=true", "--set", "rule.name=lossless"}).code,
            kExitOk);
}

TEST_F(Cli, IdsAloneRunWithoutATokenizer) {
  Config("prompts: [[1, 2, 3]]\nsampling: {max_new_tokens: 4}\n");
  std::filesystem::remove(folder_ / "target/tokenizer.json");
  std::filesystem::remove(folder_ / "draft/tokenizer.json");
  const Json json = RunToJson({});
  EXPECT_TRUE(json["requests"][0]["text"].is_null());
  EXPECT_EQ(json["requests"][0]["token_ids"].size(), 4u);
  const Outcome run = Tandem({"run", config_});
  EXPECT_THAT(run.out, MatchesRegex("[0-9]+ [0-9]+ [0-9]+ [0-9]+\n\n  target(.|\n)*"));
  EXPECT_THAT(run.err,
              HasSubstr("has no tokenizer.json: that the pair shares its vocabulary is not checked"));
  const Outcome text = Tandem({"run", config_, "--prompt", "Hello"});
  EXPECT_EQ(text.code, kExitConfig);
  EXPECT_THAT(text.err, HasSubstr("--prompt: prompt 1: a text needs a tokenizer, and " +
                                  (folder_ / "target") + " has no tokenizer.json; give prompt_token_ids\n"));
  const Outcome stop = Tandem({"run", config_, "--set", "sampling.stop=[\"x\"]"});
  EXPECT_EQ(stop.code, kExitConfig);
  EXPECT_THAT(stop.err, HasSubstr("stop strings need a tokenizer"));
}

TEST_F(Cli, ErrorsOfConfigurationsAndPrompts) {
  Config("prompts: Hello\n");
  struct Bad {
    std::vector<std::string> words;
    int code;
    std::string error;  // the last line of stderr
  };
  const std::string long_prompt(200, 'x');
  const Bad bad[] = {
      {{"run", folder_ / "none.yaml"}, kExitConfig, folder_ / "none.yaml: no such file\n"},
      {{"run", config_, "--set", "speculation.gamma=32"},
       kExitConfig,
       "--set speculation.gamma=32: speculation.gamma: expected a whole number from 0 to 31, got 32\n"},
      {{"run", config_, "--set", "rule.name=losless"},
       kExitConfig,
       "--set rule.name=losless: rule.name: expected the name of a rule, got losless; did you mean "
       "lossless?\n"},
      {{"run", config_, "--set", "rule={name: chow, alpha: 2}"},
       kExitConfig,
       "--set rule={name: chow, alpha: 2}: rule.alpha: expected a number from 0 to 1, got 2\n"},
      {{"run", config_, "--set", "rule={name: chow, alhpa: 1}"},
       kExitConfig,
       "--set rule={name: chow, alhpa: 1}: rule.alhpa: unknown key; did you mean alpha?\n"},
      {{"run", config_, "--set", "rule.nam=chow"},
       kExitConfig,
       "--set rule.nam=chow: rule.nam: unknown key; did you mean name?\n"},
      {{"run", config_, "--set", "rule={name: chow, alpha: high}"},
       kExitConfig,
       "--set rule={name: chow, alpha: high}: rule.alpha: expected a number from 0 to 1, got high\n"},
      {{"run", config_, "--set", "rule.alpha=1"},
       kExitConfig,
       "--set rule.alpha=1: rule.alpha: unknown key: the rule lossless has no parameters\n"},
      {{"run", config_, "--set", "rule.name=opt", "--set", "draft={ngram: {}}"},
       kExitConfig,
       "needs the draft's law, and this drafter proposes tokens without one; draft with a model, or use "
       "another rule "
       "(lossless works with any drafter)\n"},
      {{"run", config_, "--prompt", ""},
       kExitConfig,
       "--prompt: prompts: prompt: empty; expected some text\n"},
      {{"run", config_, "--prompt", "a\xff"},
       kExitConfig,
       "--prompt: not valid UTF-8 at byte 1 of the value\n"},
      {{"run", config_, "--prompts", folder_ / "none.jsonl"},
       kExitConfig,
       "--prompts " + (folder_ / "none.jsonl") + ": prompts.file: " + (folder_ / "none.jsonl") +
           ": no such file, or it cannot be read\n"},
      {{"run", config_, "--set", "prompts=[]"},
       kExitUsage,
       "no prompts: give --prompt TEXT or --prompts FILE, or write prompts into " + config_ + "\n"},
      {{"run", config_, "--prompt", long_prompt},
       kExitConfig,
       "the prompt has 200 tokens; the context of 160 leaves room for 159. Shorten it, or raise "
       "cache.max_context\n"},
      {{"run", config_, "--set", "prompts=[[1, 5000]]"},
       kExitConfig,
       "prompts=[[1, 5000]]: prompt 1: token id 5000 in the prompt; expected 0 to 306\n"},
      {{"run", config_, "--set", "cache.tokens=32"}, kExitDevice, "32 fit"},
      {{"run", config_, "--set", "target.device=cuda:999"},
       kExitDevice,
       "target.device: cuda:999 is not there: "},
      {{"rules", "check", "lossless", "--device", "cuda:999"}, kExitDevice, "cuda:999 is not there: "},
      {{"rules", "check", "lossless", "--device", "gpu"},
       kExitUsage,
       "--device: expected cpu, cuda or cuda:N with a number N from 0, got 'gpu'\n"},
      {{"run", config_, "--json", folder_ / "none/out.json"},
       kExitFailure,
       folder_ / "none/out.json: cannot write: No such file or directory\n"},
  };
  for (const Bad& one : bad) {
    const Outcome outcome = Tandem(one.words);
    EXPECT_EQ(outcome.code, one.code) << one.error << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(one.error));
    if (one.code != kExitFailure) {
      EXPECT_EQ(outcome.out, "") << one.error;
    }
  }
}

// Whatever is wrong with a device: one line, the same from every command that takes one. (This process leaves CUDA alone:
// commands are forked from it.)
TEST_F(Cli, ErrorsOfDevices) {
  Config("prompts: Hello\nsampling: {max_new_tokens: 4}\n");
  const std::string line = Tandem({"rules", "check", "chow", "--device", "cuda:999"}).err;
  EXPECT_THAT(line, StartsWith("tandem: cuda:999 is not there: "));
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  if (!cuda::Compiled()) {
    EXPECT_THAT(line, HasSubstr("this build runs on the CPU alone; use device: cpu, or build with"));
  }
  const std::string of_target = "tandem: target.device: " + line.substr(std::string("tandem: ").size());
  const std::vector<std::pair<std::vector<std::string>, std::string>> commands = {
      {{"run", config_, "--set", "target.device=cuda:999"}, of_target},
      {{"run", config_, "--set", "target.device=cuda:999", "--set", "cascade={mode: token, rule: chow}",
        "--set", "speculation={}"},
       of_target},
      {{"bench", config_, "--set", "target.device=cuda:999"}, of_target},
      {{"bench", "--planted", "llama-tiny+llama-tiny", "--device", "cuda:999"}, line},
      {{"rules", "check", "lossless", "--device", "cuda:999"}, line},
  };
  for (const auto& [words, error] : commands) {
    const Outcome outcome = Tandem(words);
    EXPECT_EQ(outcome.code, kExitDevice) << outcome.err;
    EXPECT_EQ(outcome.err, error);
    EXPECT_EQ(outcome.out, "");
  }
}

// MayHaveGpu, asked for by a child.
bool MayHaveGpuHere() {
  const pid_t child = fork();
  if (child == 0) _exit(MayHaveGpu() ? 1 : 0);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << "status " << status;
  return WEXITSTATUS(status) != 0;
}

TEST_F(Cli, WhatDoesNotFitOnADevice) {
  if (!MayHaveGpuHere()) GTEST_SKIP() << "there is no GPU, or no CUDA in this build";
  Config("prompts: Hello\nsampling: {max_new_tokens: 4}\n");
  const Outcome outcome =
      Tandem({"run", config_, "--set", "target.device=cuda", "--set", "cache.tokens=1000000000"});
  EXPECT_EQ(outcome.code, kExitDevice) << outcome.err;
  EXPECT_THAT(outcome.err, StartsWith("tandem: cuda:0: the run needs "));
  EXPECT_THAT(outcome.err, HasSubstr("is the largest part"));
  EXPECT_THAT(outcome.err, HasSubstr("lower cache.tokens, or use dtype: bf16\n"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1);
}

TEST_F(Cli, ErrorsOfCheckpoints) {
  Config("prompts: Hello\nsampling: {max_new_tokens: 4}\n");
  struct Bad {
    std::function<void(const std::string& target)> spoil;
    std::vector<std::string> parts;  // of the last line
  };
  const auto edit_config = [](const char* key, Json value) {
    return [=](const std::string& target) {
      EditJson(target + "/config.json",
               [&](Json& json) { value.is_null() ? void(json.erase(key)) : void(json[key] = value); });
    };
  };
  const Bad bad[] = {
      {[](const std::string& target) { std::filesystem::remove_all(target); }, {"/target"}},
      {[](const std::string& target) { std::filesystem::remove(target + "/model.safetensors"); },
       {"model.safetensors"}},
      {edit_config("num_hidden_layers", nullptr), {"/target/config.json: num_hidden_layers"}},
      {edit_config("architectures", Json::array({"GPT2LMHeadModel"})),
       {"GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"}},
      {edit_config("intermediate_size", 99), {"/target/model.safetensors", "99"}},
      {[](const std::string& target) {
         const std::string path = target + "/model.safetensors";
         std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
       },
       {"/target/model.safetensors"}},
      {[](const std::string& target) { PlantNan(target + "/model.safetensors", "model.norm.weight"); },
       {"/target/model.safetensors", "model.norm.weight"}},
      {[](const std::string& target) {
         EditJson(target + "/tokenizer.json", [](Json& json) {
           json["normalizer"] = {{"type", "Precompiled"}};
         });
       },
       {"/target/tokenizer.json", "Precompiled"}},
      {[](const std::string& target) {
         EditJson(target + "/tokenizer.json",
                  [](Json& json) { std::swap(json["model"]["vocab"]["a"], json["model"]["vocab"]["b"]); });
       },
       {"vocabulary mismatch: 2 of 307 token ids differ",
        "id 97 is \"b\" and \"a\", id 98 is \"a\" and \"b\"", "a pair must share its tokenizer"}},
  };
  const std::string json_path = folder_ / "out.json";
  for (const Bad& one : bad) {
    std::filesystem::remove_all(folder_ / "target");
    CopyModel("llama3_gqa", folder_ / "target");
    WriteAll(folder_ / "target/tokenizer.json", ByteTokenizer(kVocabulary).dump());
    one.spoil(folder_ / "target");
    const Outcome outcome = Tandem({"run", config_, "--json", json_path});
    EXPECT_EQ(outcome.code, kExitModel) << one.parts[0] << "\n" << outcome.err;
    std::string last = outcome.err.substr(0, outcome.err.size() - 1);
    last = last.substr(last.rfind('\n') + 1);
    for (const std::string& part : one.parts) EXPECT_THAT(last, HasSubstr(part));
    EXPECT_THAT(last, StartsWith("tandem: "));
  }
}

TEST_F(Cli, AllComplaintsOfAConfigurationAtOnce) {
  WriteAll(config_, "target: {modle: x}\nspeculation: {gamma: 99}\nrule: {name: nope}\n");
  const Outcome outcome = Tandem({"run", config_});
  EXPECT_EQ(outcome.code, kExitConfig);
  EXPECT_THAT(
      outcome.err,
      StartsWith(config_ + ":1:9: target.model: missing; expected the folder of the target's checkpoint\n" +
                 config_ + ":1:10: target.modle: unknown key; did you mean model?\n" + config_ +
                 ":2:22: speculation.gamma: expected a whole number from 0 to 31, got 99\n" + config_ +
                 ":3:14: rule.name: expected the name of a rule, got nope; expected one of"));
}

// Whether it was not there, had no room or failed in a run.
TEST(ExitCode, OfWhatADeviceIsToBlameForIsFive) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(Fail(absl::UnavailableError("cuda:0 is not there"), kExitFailure), 5);
  EXPECT_EQ(Fail(absl::ResourceExhaustedError("cuda:0: the run needs more"), kExitConfig), 5);
  EXPECT_EQ(Fail(absl::InternalError("cuda:0: running round failed"), kExitFailure), 5);
  EXPECT_EQ(Fail(absl::FailedPreconditionError("mend the rule"), kExitFailure), 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "tandem: cuda:0 is not there\ncuda:0: the run needs more\ntandem: cuda:0: running round failed\n"
            "tandem: mend the rule\n");
}

}  // namespace
}  // namespace tandem
