"""Loads packaged folders in Hugging Face transformers and compares logits and greedy text with model.py, in fp32.

    python3 check.py --models configs/models/demo --prompts configs/prompts/demo.jsonl
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import model as m


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--models", type=pathlib.Path, required=True)
    p.add_argument("--prompts", type=pathlib.Path, required=True)
    p.add_argument("--steps", type=int, default=64)
    a = p.parse_args()
    prompts = [json.loads(line)["prompt"] for line in a.prompts.open(encoding="utf-8")]
    bad = 0
    for folder in sorted(d.parent for d in a.models.glob("*/config.json")):
        c = json.loads((folder / "config.json").read_text())
        theirs, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        tok = AutoTokenizer.from_pretrained(folder)
        ours = m.Llama(m.Config(c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"],
                                c["num_key_value_heads"], c["intermediate_size"]))
        weights = {}
        for f in folder.glob("*.safetensors"):
            weights.update(load_file(f))
        ours.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items()})
        ids = [tok(x)["input_ids"] for x in prompts]
        same, gap = 0, 0.0
        with torch.no_grad():
            mine = ours.greedy(ids, a.steps, c["eos_token_id"])
            for i, o in zip(ids, mine):
                x = torch.tensor([i])
                gap = max(gap, (ours.logits(x) - theirs(x).logits).abs().max().item())
                g = theirs.generate(x, max_new_tokens=a.steps, attention_mask=torch.ones_like(x))[0, len(i):].tolist()
                same += g == o
        round_trip = all(tok.decode(i) == x for i, x in zip(ids, prompts))
        missing = {k: list(v) for k, v in info.items() if v}
        print(f"{folder.name}: greedy text equal on {same} of {len(ids)} prompts, largest logit gap {gap:.1e}, "
              f"prompts survive encode and decode: {round_trip}, loading notes: {missing or 'none'}")
        bad += not round_trip or gap > 1e-3 or bool(missing)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
