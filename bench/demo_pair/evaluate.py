"""Scores of the trained models: exact match on held-out tasks, perplexity and overlap on validation text, speculation."""

import json
import math
import traceback

import numpy as np

import tasks

GAMMA = 5
ANSWER = 216  # tokens of the longest answer, with room


def decoder(path, end):
    """Ids to text from tokenizer.json alone: the byte-level alphabet of GPT-2."""
    vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {chr(b): b for b in keep}
    chars.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in keep)})
    table = {i: bytes(chars[c] for c in s) if all(c in chars for c in s) else b"" for s, i in vocab.items()}
    return lambda ids: b"".join(table.get(i, b"") for i in ids if i != end).decode("utf-8", "replace")


def tokens_per_call(hits):
    """(tokens, target calls) of greedy speculation, where `hits` says of each of the target's tokens whether the draft
    has it as its likeliest."""
    i = calls = 0
    while i < len(hits):
        k = 0
        while k < GAMMA and i + k < len(hits) and hits[i + k]:
            k += 1
        i, calls = i + k + 1, calls + 1
    return len(hits), calls


class Evaluation:
    """Models are measured as saved: weights rounded to bf16, computed in fp32. `models` maps names to models; the first
    is the target. Scores go into `log`, part by part."""

    def __init__(self, models, data, meta, device, log, smoke, say):
        import torch
        self.t, self.models, self.data, self.meta = torch, models, data, meta
        self.device, self.log, self.smoke, self.say = device, log, smoke, say
        self.end = meta["end"]
        self.text = decoder(data / "tokenizer.json", self.end)
        self.rows = json.loads((data / "held_out.json").read_text())
        if smoke:
            self.rows = self.rows[::64]
        self.drafts = [n for n in models if n != "target"]
        with torch.no_grad():
            for x in models.values():
                for p in x.parameters():
                    p.copy_(p.bfloat16().float())

    def run(self, left, save):
        """Every part, unless no time is left. `left` gives seconds."""
        for part in (self.exact, self.perplexity, self.speculation, self.samples):
            if left() < 0:
                self.say(f"no time left for {part.__name__}")
                return
            try:
                part()
            except Exception as e:
                traceback.print_exc()
                self.log["scores"][f"{part.__name__}_error"] = repr(e)[:300]
            save()

    def exact(self):
        """Exact match of the final answer, and of the whole answer, per family; greedy, held-out instances."""
        self.answers = {}
        for name in ("target", "draft", "specialist"):
            if name not in self.models:
                continue
            out, rows = [], self.rows
            order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt"]))
            for i in range(0, len(order), 512):
                part = order[i:i + 512]
                out += zip(part, self.models[name].greedy([rows[j]["prompt"] for j in part], ANSWER, self.end))
            out = [o for _, o in sorted(out)]
            self.answers[name] = out
            hits = {}
            for r, o in zip(rows, out):
                ok = bool(o) and o[-1] == self.end and tasks.final(self.text(o)) == r["final"]
                hits.setdefault(r["family"], []).append((ok, o == r["answer"] + [self.end]))
            s = {f: {"n": len(v), "final": sum(x for x, _ in v) / len(v), "whole": sum(y for _, y in v) / len(v)}
                 for f, v in hits.items()}
            mean = sum(s[f]["final"] for f in tasks.FAMILIES) / len(tasks.FAMILIES)
            self.log["scores"].setdefault("exact_match", {})[name] = {"mean_without_withheld": mean, **s}
            self.say(f"{name}: mean {mean:.3f}  " + " ".join(f"{f} {v['final']:.2f}" for f, v in s.items()))
        fails = []
        for f in tasks.ALL:
            bad = [(r, o) for r, o in zip(self.rows, self.answers["target"])
                   if r["family"] == f and tasks.final(self.text(o)) != r["final"]]
            fails += [{"family": f, "prompt": self.text(r["prompt"]), "target": self.text(o), "wanted": self.text(r["answer"])}
                      for r, o in bad[:3]]
        self.log["failures"] = fails

    def valid(self, source):
        return np.fromfile(self.data / f"{source}.valid.u16", "<u2").astype(np.int64)

    def perplexity(self):
        """Of the whole validation texts in windows of 512 tokens, bits per byte of text, and how far a draft's law covers
        the target's: the mean of sum min(p, q), which is the chance that lossless speculation keeps a token at T = 1."""
        t = self.t
        scores = self.log["scores"]
        for source in ("books", "docs"):
            ids = self.valid(source)
            n = 8 if self.smoke else (len(ids) - 1) // 512
            x = t.from_numpy(ids[:n * 512 + 1])
            a, b = x[:-1].view(n, 512).to(self.device), x[1:].view(n, 512).to(self.device)
            total, same, overlap = ({k: 0.0 for k in self.models} for _ in range(3))
            with t.no_grad():
                for i in range(0, n, 32):
                    p = None
                    for name, model in self.models.items():
                        logits = model.logits(a[i:i + 32]).float().flatten(0, 1)
                        total[name] += t.nn.functional.cross_entropy(logits, b[i:i + 32].flatten(), reduction="sum").item()
                        q = logits.softmax(-1)
                        p = q if p is None else p
                        overlap[name] += t.minimum(p, q).sum().item()
                        same[name] += (p.argmax(-1) == q.argmax(-1)).sum().item()
            share = len(ids) / self.meta["valid_bytes"][source]
            for name in self.models:
                scores.setdefault("perplexity", {}).setdefault(name, {})[source] = {
                    "perplexity": math.exp(total[name] / (n * 512)), "tokens": n * 512,
                    "bits_per_byte": total[name] / (n * 512) / math.log(2) * share}
            for name in self.drafts:
                scores.setdefault("on_validation_text", {}).setdefault(name, {})[source] = {
                    "same_argmax": same[name] / (n * 512), "overlap": overlap[name] / (n * 512)}
            ratio = math.exp((total["target"] - total["draft"]) / (n * 512))
            scores.setdefault("perplexity_ratio", {})[source] = ratio
            self.say(f"{source}: " + " ".join(f"{k} {math.exp(v / (n * 512)):.2f}" for k, v in total.items()) +
                     f" ratio {ratio:.3f}, overlap " + " ".join(f"{k} {overlap[k] / (n * 512):.3f}" for k in self.drafts))

    def speculation(self):
        """Greedy speculation on the target's own greedy text: the draft's likeliest token against the target's at every
        position, and the tokens per target call that gamma 5 makes of it."""
        t = self.t
        sets = {f: [(r["prompt"], o) for r, o in zip(self.rows, self.answers["target"]) if r["family"] == f][:128]
                for f in tasks.ALL}
        for source in ("books", "docs"):
            ids = self.valid(source).tolist()
            count = 4 if self.smoke else 64
            gap = (len(ids) - 100) // count
            prompts = [ids[i * gap:i * gap + 64] for i in range(count)]
            sets[source] = list(zip(prompts, self.models["target"].greedy(prompts, 160, self.end)))
            self.log.setdefault("text_prompts", {})[source] = len(prompts)
        out = self.log["scores"].setdefault("greedy_speculation", {})
        for name in self.drafts:
            for key, pairs in sets.items():
                n = max(len(p) + len(o) for p, o in pairs)
                ids = t.tensor([p + o + [self.end] * (n - len(p) - len(o)) for p, o in pairs], device=self.device)
                with t.no_grad():
                    best = t.cat([self.models[name].logits(ids[i:i + 32]).argmax(-1) for i in range(0, len(ids), 32)])
                hit = (best[:, :-1] == ids[:, 1:]).cpu().tolist()
                same = total = calls = 0
                for (p, o), h in zip(pairs, hit):
                    h = h[len(p) - 1:len(p) - 1 + len(o)]
                    n_tokens, n_calls = tokens_per_call(h)
                    same, total, calls = same + sum(h), total + n_tokens, calls + n_calls
                out.setdefault(name, {})[key] = {"agreement": same / total, "tokens_per_call": total / calls}
            self.say(f"{name} greedy: " + " ".join(f"{k} {v['agreement']:.2f}/{v['tokens_per_call']:.2f}"
                                                   for k, v in out[name].items()))

    def samples(self):
        out = []
        for f in tasks.ALL:
            i = next(i for i, r in enumerate(self.rows) if r["family"] == f)
            out.append({"category": f, "prompt": self.text(self.rows[i]["prompt"]),
                        **{n: self.text(a[i]) for n, a in self.answers.items()}})
        for source in ("books", "docs"):
            s = self.valid(source).tolist()
            prompts = [s[i:i + 48] for i in (20000, 60000)]
            got = {n: self.models[n].greedy(prompts, 96, self.end) for n in self.answers}
            for i, p in enumerate(prompts):
                out.append({"category": source, "prompt": self.text(p), **{n: self.text(g[i]) for n, g in got.items()}})
        self.log["samples"] = out
