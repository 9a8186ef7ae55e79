"""Checks packaged folders against Hugging Face transformers, in fp32: logits and greedy text of model.py, and greedy text of
tandem where --tandem names the program.

    python3 check.py --models configs/models/demo --prompts configs/prompts/demo.jsonl [--tasks 20] [--tandem build/tandem]

Two implementations may round differently, so the text may part where two tokens are nearly as likely. The first divergence of
a prompt is excused if transformers' logits of the two tokens differ by less than 1e-3 there; anything else is a mistake.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import model as m
import tasks

TIE = 1e-3


def read_prompts(path, per_family):
    prompts = [json.loads(line)["prompt"] for line in path.open(encoding="utf-8")]
    return prompts + [p for f in tasks.ALL for p, _ in tasks.instances(f, "check", per_family, held_out=True)]


def ours(folder, c):
    weights = {}
    for f in folder.glob("*.safetensors"):
        weights.update(load_file(f))
    out = m.Llama(m.Config(c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"],
                           c["intermediate_size"]))
    out.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items()})
    return out


def tandem_greedy(program, folder, prompts, steps):
    """Token ids of plain greedy decoding by tandem, prompt by prompt."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        lines = [json.dumps({"id": str(i), "prompt": p}) + "\n" for i, p in enumerate(prompts)]
        (scratch / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        config = {"target": {"model": str(folder.resolve()), "dtype": "fp32"}, "draft": "none",
                  "sampling": {"temperature": 0, "max_new_tokens": steps}, "prompts": {"file": "prompts.jsonl"},
                  "report": {"text": False}}
        (scratch / "config.yaml").write_text(json.dumps(config))
        run = subprocess.run([program, "run", scratch / "config.yaml", "--json", "-"], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{program} failed on {folder}: {run.stderr.strip()}")
        rows = {int(r["id"]): r["token_ids"] for r in json.loads(run.stdout)["requests"]}
    return [rows[i] for i in range(len(prompts))]


def compare(theirs, prompts, wanted, got):
    """(prompts with equal tokens, excused divergences, unexcused ones as lines)."""
    equal, ties, wrong = 0, 0, []
    for i, (p, w, g) in enumerate(zip(prompts, wanted, got)):
        if w == g:
            equal += 1
            continue
        at = next((k for k, (x, y) in enumerate(zip(w, g)) if x != y), None)
        if at is None:
            wrong.append(f"prompt {i}: {len(w)} tokens by transformers, {len(g)} tokens here, the shorter a beginning of the other")
            continue
        with torch.no_grad():
            logits = theirs(torch.tensor([p + w[:at]])).logits[0, -1]
        gap = (logits[w[at]] - logits[g[at]]).abs().item()
        if gap < TIE:
            ties += 1
        else:
            wrong.append(f"prompt {i}, token {at}: {w[at]} by transformers, {g[at]} here, {gap:.2e} between their logits")
    return equal, ties, wrong


def check(folder, texts, steps, program):
    """Prints what it finds; the number of mistakes."""
    c = json.loads((folder / "config.json").read_text())
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    tok = AutoTokenizer.from_pretrained(folder)
    prompts = [tok(x)["input_ids"] for x in texts]
    mine = ours(folder, c)
    gap = 0.0
    with torch.no_grad():
        wanted = [theirs.generate(torch.tensor([p]), max_new_tokens=steps, do_sample=False,
                                  attention_mask=torch.ones(1, len(p), dtype=torch.long))[0, len(p):].tolist() for p in prompts]
        for p in prompts:
            x = torch.tensor([p])
            gap = max(gap, (mine.logits(x) - theirs(x).logits).abs().max().item())
        outputs = {"model.py": mine.greedy(prompts, steps, c["eos_token_id"])}
    if program:
        outputs["tandem"] = tandem_greedy(program, folder, texts, steps)
    lost = [t for p, t in zip(prompts, texts) if tok.decode(p) != t]
    missing = {k: list(v) for k, v in info.items() if v}
    print(f"{folder.name}: largest difference of logits {gap:.1e}; prompts changed by encode and decode: {len(lost)}; "
          f"loading notes: {missing or 'none'}")
    bad = len(lost) + bool(missing) + (gap >= TIE)
    for name, got in outputs.items():
        equal, ties, wrong = compare(theirs, prompts, wanted, got)
        print(f"  greedy text of {name}: equal on {equal} of {len(prompts)} prompts, {ties} parted at a tie, {len(wrong)} wrong")
        print("".join(f"    {x}\n" for x in wrong), end="")
        bad += len(wrong)
    return bad


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--models", type=pathlib.Path, required=True)
    p.add_argument("--prompts", type=pathlib.Path, required=True)
    p.add_argument("--tasks", type=int, default=3, help="held-out instances per family, besides the prompts")
    p.add_argument("--steps", type=int, default=64)
    p.add_argument("--tandem", help="the program, to compare its greedy text too")
    a = p.parse_args()
    texts = read_prompts(a.prompts, a.tasks)
    folders = sorted(d.parent for d in a.models.glob("*/config.json"))
    if not folders:
        sys.exit(f"{a.models}: no folder with a config.json")
    sys.exit(1 if sum(check(f, texts, a.steps, a.tandem) for f in folders) else 0)


if __name__ == "__main__":
    main()
