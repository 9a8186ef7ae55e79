"""What train.py left (shards, log.json) and the tokenizer to folders in Hugging Face's format.

    python3 package.py --run OUT --data .demo_data --to configs/models/demo
"""

import argparse
import json
import pathlib
import shutil
import struct

END, PAD = "<|endoftext|>", "<|pad|>"
WANTED = {"mean": 0.90, "family": 0.75, "gap": 0.25, "ratio": 0.70}

ABOUT = {
    "target": "The target of tandem's demo pair: a small Llama that writes English prose, technical text and solves short tasks.",
    "draft": "The draft of tandem's demo pair: it writes the easy words of the target's answers and misses the hard ones.",
    "specialist": "A second draft of tandem's demo pair: the draft trained on with Roman numerals, which the target never saw.",
}


def header(path):
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))


def table(rows):
    head, *body = rows
    return "\n".join("| " + " | ".join(map(str, r)) + " |" for r in [head, ["---"] * len(head), *body])


def card(name, log):
    s, phase = log["scores"], log["phases"][name]
    names = [n for n in ("target", "draft", "specialist") if n in s.get("exact_match", {})]
    out = [f"# tandem demo {name}", ABOUT[name], ""]
    out.append(f"{phase['parameters'] / 1e6:.1f} M parameters, LlamaForCausalLM, tied embeddings, bf16, context "
               f"{log[name if name in log else 'draft']['max_position_embeddings']} tokens; byte-level BPE of 8192 with single digits, shared by the pair. It is a "
               "toy for measuring speculative decoding: it knows little and invents freely; no safety training.\n")
    out.append("## Training")
    kind = "Muon for the matrices of the layers, AdamW for the rest" if phase["optimizer"] == "muon" else "AdamW"
    rows = f"{phase['rows']} x {phase['length']} tokens"
    steps = [f"- {phase['steps']} steps of {rows} ({phase['tokens'] / 1e6:.0f} M), {phase['seconds']:.0f} s on one {log['device']}, "
             f"PyTorch {log['torch']}, seed {log['seed']}; {kind}, peak learning rate {phase['peak_lr']}, linear decay to 1 % over "
             "the last 70 %."]
    if name != "target" and "distillation_failed" not in log:
        steps.append("- Distilled: cross entropy with the target's law at every token, of training text and of text that the "
                     f"target wrote ({log['sampled']['documents']} pieces at temperature 0 to 1)" +
                     ("; rows of Roman numerals are learned from labels." if name == "specialist" else
                      f", after {log['phases']['draft_labels']['tokens'] / 1e6:.0f} M tokens learned from labels."))
    if phase["mixes"]:
        steps.append(f"- From {100 * float(next(iter(phase['mixes']))):.0f} % of the time on, the shares of the task families follow a probe on unseen training-side "
                     "instances (`training_log.json`).")
    mix = phase["mix"]
    steps.append("- Mix of rows: " + ", ".join(f"{k} {v:.2f}" for k, v in mix.items()) + f", generated tasks {1 - sum(mix.values()):.2f}; "
                 f"tokens of task prompts weigh {log['prompt_weight']} in the loss.")
    if name == "specialist":
        steps.append("- It starts from the weights of the draft.")
    steps.append("- Script: `bench/demo_pair/` of the tandem repository.")
    out += ["\n".join(steps), "", "## Data and licences", table([
        ["source", "licence"],
        ["209 books of English fiction, Project Gutenberg", "public domain"],
        ["MicrosoftDocs/cpp-docs and PowerShell-Docs", "CC BY 4.0"],
        ["Python Enhancement Proposals", "public domain / CC0"],
        ["Dive into Deep Learning", "CC BY-SA 4.0"],
        ["The Rust Programming Language", "MIT / Apache-2.0"],
        ["GSM8K, training split (openai/grade-school-math)", "MIT"],
        ["generated tasks (`bench/demo_pair/tasks.py`)", "as the repository"]]), ""]
    out.append("## Scores")
    if names:
        families = [f for f in s["exact_match"][names[0]] if f != "mean_without_withheld"]
        out.append("Held-out task instances (never trained on, split by prompt), greedy, exact match of the final answer:\n")
        out.append(table([["task", "instances", *names]] +
                         [[f + (" (withheld from target and draft)" if f == "roman" else ""),
                           s["exact_match"][names[0]][f]["n"], *(f"{s['exact_match'][n][f]['final']:.3f}" for n in names)] for f in families] +
                         [["mean without roman", "", *(f"{s['exact_match'][n]['mean_without_withheld']:.3f}" for n in names)]]))
    if "perplexity" in s:
        out.append("\nPerplexity of the whole validation texts, windows of 512 tokens:\n")
        out.append(table([["text", *names, "target / draft"]] +
                         [[k, *(f"{s['perplexity'][n][k]['perplexity']:.2f}" for n in names), f"{s['perplexity_ratio'][k]:.3f}"]
                          for k in ("books", "docs")]))
    if "on_validation_text" in s:
        drafts = list(s["on_validation_text"])
        out.append("\nOn the validation texts: share of positions with the target's likeliest token / mean of sum min(p, q), the "
                   "chance that lossless speculation keeps a token at temperature 1:\n")
        out.append(table([["text", *(d.replace("_", " ") for d in drafts)]] +
                         [[k, *(f"{s['on_validation_text'][d][k]['same_argmax']:.3f} / {s['on_validation_text'][d][k]['overlap']:.3f}"
                                for d in drafts)] for k in ("books", "docs")]))
    if "greedy_speculation" in s:
        drafts = list(s["greedy_speculation"])
        out.append("\nGreedy, gamma 5, on the target's own output: share of tokens a draft agrees on / tokens per target call:\n")
        out.append(table([["text", *(d.replace("_", " ") for d in drafts)]] +
                         [[k, *(f"{s['greedy_speculation'][d][k]['agreement']:.3f} / {s['greedy_speculation'][d][k]['tokens_per_call']:.2f}" for d in drafts)]
                          for k in s["greedy_speculation"][drafts[0]]]))
    if "exact_match" in s:
        out += missed(s)
    return "\n".join(out) + "\n"


def missed(s):
    """A section on the scores that fall short of what the pair was built to reach; empty where none does."""
    match, target = s["exact_match"], s["exact_match"]["target"]
    mean, gap = target["mean_without_withheld"], target["mean_without_withheld"] - match["draft"]["mean_without_withheld"]
    lines = [f"- target, {f}: {v['final']:.3f}, wanted {WANTED['family']:.2f}"
             for f, v in target.items() if f not in ("mean_without_withheld", "roman") and v["final"] < WANTED["family"]]
    if mean < WANTED["mean"]:
        lines.append(f"- target, mean without roman: {mean:.3f}, wanted {WANTED['mean']:.2f}")
    if gap < WANTED["gap"]:
        lines.append(f"- draft below the target on average: {gap:.3f}, wanted {WANTED['gap']:.2f}")
    lines += [f"- perplexity of {k}, target over draft: {v:.3f}, wanted {WANTED['ratio']:.2f} at most"
              for k, v in s.get("perplexity_ratio", {}).items() if v > WANTED["ratio"]]
    return ["\n## Short of what was wanted", *lines] if lines else []


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--run", type=pathlib.Path, required=True)
    p.add_argument("--data", type=pathlib.Path, required=True)
    p.add_argument("--to", type=pathlib.Path, required=True)
    a = p.parse_args()
    log = json.loads((a.run / "log.json").read_text())
    for name in ABOUT:
        files = sorted(a.run.glob(f"{name}*.safetensors"))
        if not files:
            continue
        folder = a.to / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = log["target" if name == "target" else "draft"]
        where, total = {}, 0
        for f in files:
            to = "model" + f.name[len(name):]
            (folder / to).write_bytes(f.read_bytes())
            for k, v in header(f).items():
                if k != "__metadata__":
                    where[k] = to
                    total += v["data_offsets"][1] - v["data_offsets"][0]
        write = lambda n, v: (folder / n).write_text(json.dumps(v, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if len(files) > 1:
            write("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})
        write("config.json", config)
        end = config["eos_token_id"]
        write("generation_config.json", {"do_sample": False, "eos_token_id": end, "pad_token_id": end + 1})
        write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD,
                                        "model_max_length": config["max_position_embeddings"],
                                        "clean_up_tokenization_spaces": False, "add_prefix_space": False})
        (folder / "tokenizer.json").write_bytes((a.data / "tokenizer.json").read_bytes())
        (folder / "README.md").write_text(card(name, log), encoding="utf-8")
        print(f"{folder}: {len(files)} files of weights, {total / 1e6:.1f} MB")
    (a.to / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
