"""Trains the demo pair and measures it, in one process and a given wall time.

    python3 train.py --data .demo_data --out OUT --seconds 430      # one H100 or H200
    python3 train.py --data .demo_data --out OUT --seconds 60 --smoke   # any CPU: tiny models, every step of the script

Phases: target, draft (same mix, AdamW, no distillation), specialist (the draft trained on with the family that the
target's mix withholds), evaluation. Each phase has a share of the wall time; the learning rate follows the clock, so a
slow machine ends on a finished schedule too. Checkpoints are written at the end of each phase, the target's also on the
way; log.json is written again after every part of the evaluation.
"""

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import platform
import signal
import sys
import threading
import time
import traceback

T0 = time.time()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import numpy as np  # noqa: E402

import tasks  # noqa: E402

ID_MASK = 0x1FFF
MIX = {"books": 0.35, "docs": 0.25, "gsm8k": 0.05}  # the rest of a batch is generated tasks
SPECIAL_MIX = {"books": 0.15, "docs": 0.10, "gsm8k": 0.0, "roman": 0.60}
PROMPT_WEIGHT = 0.1
ENDS = {"target": 0.70, "draft": 0.86, "specialist": 0.925}  # share of the wall time at which a phase stops
LR = {"target": 4e-3, "draft": 4e-3, "specialist": 2e-3}


def say(what):
    print(f"{time.time() - T0:6.1f} s  {what}", flush=True)


_tok = None


def make_chunk(job):
    """One worker's share: documents of one family as a stream of ids with the prompt bit."""
    global _tok
    family, seed, count, path, end = job
    if _tok is None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer
        _tok = Tokenizer.from_file(path)
    return family, tasks.encode(_tok, tasks.instances(family, seed, count), end)


class Sources:
    """Token streams of every source and the offsets at which a row may begin. Task streams grow while workers generate."""

    def __init__(self, data, meta, per_family, workers):
        self.end = meta["end"]
        load = lambda n: np.fromfile(data / f"{n}.u16", "<u2")
        self.parts = {n: [load(n)] for n in MIX}
        self.parts.update({f: [load(f"tasks.{f}")] for f in tasks.ALL})
        self.lock, self.fresh, self.finished = threading.Lock(), True, per_family == 0
        self.documents = 0
        if not per_family:
            return
        chunk = min(4000, per_family)
        jobs = [(f, f"train{i}", chunk, str(data / "tokenizer.json"), self.end)
                for i in range(per_family // chunk) for f in tasks.ALL]
        self.pool = multiprocessing.get_context("fork").Pool(workers)
        threading.Thread(target=self._collect, args=(jobs, chunk), daemon=True).start()

    def _collect(self, jobs, chunk):
        try:
            for family, ids in self.pool.imap_unordered(make_chunk, jobs):
                with self.lock:
                    self.parts[family].append(ids)
                    self.fresh = True
                    self.documents += chunk
            self.pool.close()
            say(f"all {self.documents} task documents generated")
        except Exception:
            traceback.print_exc()
            say("generation failed: training goes on with the carried documents")
        self.finished = True

    def build(self, device, rows_of):
        """(stream on the device, starts per source) of what is there now."""
        import torch
        with self.lock:
            flat = {n: np.concatenate(p) for n, p in self.parts.items()}
            self.fresh = False
        starts, base = {}, 0
        for n, ids in flat.items():
            room = len(ids) - rows_of - 2
            if n in ("books", "docs"):
                starts[n] = (base, room)
            else:
                s = np.flatnonzero((ids & ID_MASK) == self.end) + 1
                starts[n] = np.concatenate(([0], s[s < room])) + base
            base += len(ids)
        stream = torch.from_numpy(np.concatenate(list(flat.values())).view(np.int16)).to(device)
        return stream, starts


class Batches:
    def __init__(self, sources, device, rows, length, seed):
        import torch
        self.t, self.src, self.device = torch, sources, device
        self.rows, self.length = rows, length
        self.rng = np.random.default_rng(seed)
        self.span = torch.arange(length + 1, device=device)
        self.built = 0.0
        self.rebuild()

    def rebuild(self):
        self.stream, self.starts = self.src.build(self.device, self.length)
        self.built = time.time()

    def next(self, mix):
        """(inputs, targets, weights); `mix` maps sources to shares."""
        if self.src.fresh and time.time() - self.built > (12 if not self.src.finished else 0):
            self.rebuild()
        names = list(mix)
        share = np.array([mix[n] for n in names])
        off = []
        for n, k in zip(names, self.rng.multinomial(self.rows, share / share.sum())):
            s = self.starts[n]
            if isinstance(s, tuple):
                off.append(s[0] + self.rng.integers(0, s[1], k))
            else:
                off.append(s[self.rng.integers(0, len(s), k)])
        t = self.t
        o = t.from_numpy(np.concatenate(off))
        if self.device.type == "cuda":
            o = o.pin_memory()
        x = self.stream[o.to(self.device, non_blocking=True)[:, None] + self.span].to(t.int32) & 0xFFFF
        ids = (x & ID_MASK).long()
        w = t.where(x[:, 1:] >= tasks.PROMPT_BIT, PROMPT_WEIGHT, 1.0)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), w


def make_muon():
    """Muon for the matrices of the layers (Keller Jordan's Newton-Schulz step, update scaled to AdamW's size as in
    arXiv 2502.16982): momentum, orthogonalised, with decoupled weight decay."""
    import torch

    class Muon:
        def __init__(self, params, lr, momentum=0.95, decay=0.1):
            self.groups = {}
            for p in params:
                self.groups.setdefault(tuple(p.shape), []).append(p)
            self.buf = {s: [torch.zeros_like(p) for p in ps] for s, ps in self.groups.items()}
            self.lr, self.momentum, self.decay = lr, momentum, decay

        @torch.no_grad()
        def step(self):
            for shape, ps in self.groups.items():
                grads, buf = [p.grad for p in ps], self.buf[shape]
                torch._foreach_lerp_(buf, grads, 1 - self.momentum)
                x = torch.stack(torch._foreach_lerp(grads, buf, self.momentum)).bfloat16()
                tall = shape[0] > shape[1]
                x = x.mT.contiguous() if tall else x
                x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
                x = (x.mT if tall else x).to(ps[0].dtype)
                torch._foreach_mul_(ps, 1 - self.lr * self.decay)
                torch._foreach_add_(ps, list(x.unbind()), alpha=-self.lr * 0.2 * math.sqrt(max(shape)))

        def zero_grad(self):
            for ps in self.groups.values():
                for p in ps:
                    p.grad = None

    return Muon


class Optimizer:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest; one learning rate."""

    def __init__(self, model, kind, device):
        import torch
        named = list(model.named_parameters())
        inner = [p for n, p in named if p.dim() == 2 and n.startswith("layers.")]
        rest = [p for n, p in named if not (p.dim() == 2 and n.startswith("layers."))]
        self.params = [p for _, p in named]
        self.muon = make_muon()(inner, 0.0) if kind == "muon" else None
        groups = [{"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
                  {"params": [p for p in rest if p.dim() == 2], "weight_decay": 0.0 if kind == "muon" else 0.1}]
        if kind != "muon":
            groups.append({"params": inner, "weight_decay": 0.1})
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=device.type == "cuda")
        self.clip = torch.nn.utils.clip_grad_norm_

    def step(self, lr):
        self.clip(self.params, 1.0, foreach=True)
        for g in self.adam.param_groups:
            g["lr"] = lr
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if self.muon:
            self.muon.lr = lr
            self.muon.step()
            self.muon.zero_grad()


class Timeout(Exception):
    pass


def raise_timeout(*_):
    raise Timeout("compile took too long")


class Trainer:
    def __init__(self, a):
        import torch
        import model as m
        self.t, self.m, self.a = torch, m, a
        self.device = torch.device("cuda" if torch.cuda.is_available() and not a.cpu else "cpu")
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(a.seed)
        self.log = {"seed": a.seed, "seconds_allowed": a.seconds, "torch": torch.__version__, "phases": {}, "scores": {},
                    "device": torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor() or "cpu",
                    "smoke": a.smoke, "mix": MIX, "special_mix": SPECIAL_MIX, "prompt_weight": PROMPT_WEIGHT}
        self.meta = json.loads((a.data / "meta.json").read_text())
        self.end = self.meta["end"]
        self.log["tokens_available"] = self.meta["tokens"]
        self.probes = None
        self.compiled = {}

    def write_log(self):
        self.m.write_json(self.a.out / "log.json", self.log)

    def autocast(self):
        return self.t.autocast(self.device.type, dtype=self.t.bfloat16, enabled=self.device.type == "cuda")

    def families_mix(self, weights, base):
        left = 1.0 - sum(base.values())
        total = sum(weights.values())
        return {**base, **{f: left * w / total for f, w in weights.items()}}

    def probe(self, model):
        """Share of unseen training-side instances of each family whose whole answer is the likeliest at every token."""
        t = self.t
        if self.probes is None:
            self.probes = {}
            every = json.loads((self.a.data / "probe.json").read_text())
            for f in tasks.FAMILIES:
                rows = [(r["prompt"] + r["answer"] + [self.end], len(r["prompt"])) for r in every if r["family"] == f]
                rows = rows[:8] if self.a.smoke else rows
                n = max(len(r) for r, _ in rows)
                ids = t.tensor([r + [self.end] * (n - len(r)) for r, _ in rows])
                cols = t.arange(n)
                first = t.tensor([k for _, k in rows])[:, None]
                last = t.tensor([len(r) for r, _ in rows])[:, None]
                self.probes[f] = (ids.to(self.device), ((cols >= first) & (cols < last)).to(self.device))
        out = {}
        with t.no_grad(), self.autocast():
            for f, (ids, mask) in self.probes.items():
                hit = model.logits(ids[:, :-1]).argmax(-1) == ids[:, 1:]
                out[f] = (hit | ~mask[:, 1:]).all(1).float().mean().item()
        return out

    def compile(self, model, batch):
        """A compiled training step of the model, or the eager one where compiling fails or hangs."""
        if not self.a.compile:
            return model
        try:
            signal.signal(signal.SIGALRM, raise_timeout)
            signal.alarm(100)
            step = self.t.compile(model, dynamic=False)
            with self.autocast():
                loss = step(*batch)
            loss.backward()
            loss.item()
            for p in model.parameters():
                p.grad = None
            return step
        except Exception as e:
            traceback.print_exc()
            say(f"compile failed ({type(e).__name__}), going on without it")
            self.t._dynamo.reset()
            self.log["compile_failed"] = repr(e)[:300]
            self.a.compile = False
            return model
        finally:
            signal.alarm(0)

    def train(self, name, model, step, batches, base_mix, kind, peak, deadline, special=False):
        """Trains until the deadline (seconds after the start). False if the loss left the rails."""
        t, a = self.t, self.a
        opt = Optimizer(model, kind, self.device)
        weights = {f: 1.0 for f in tasks.FAMILIES}
        mix = self.families_mix(weights, base_mix)
        begin, n, curve, lags = time.time() - T0, 0, [], []
        marks = [0.35, 0.5, 0.65, 0.8, 0.9]
        saved = [] if special or name != "target" else [0.5, 0.85]
        span = max(1e-3, deadline - begin)
        first = None
        phase = {"optimizer": kind, "peak_lr": peak, "rows": batches.rows, "length": batches.length, "curve": curve,
                 "mixes": {}, "parameters": sum(p.numel() for p in model.parameters())}
        self.log["phases"][name] = phase
        while True:
            now = time.time() - T0
            done = (now - begin) / span
            if done >= 1.0 or (a.max_steps and n >= a.max_steps):
                break
            lr = peak * min(1.0, (n + 1) / 100) * min(1.0, max(0.01, (1.0 - done) / 0.7))
            with self.autocast():
                loss = step(*batches.next(mix))
            loss.backward()
            opt.step(lr)
            n += 1
            if self.device.type == "cuda":
                e = t.cuda.Event()
                e.record()
                lags.append(e)
                if len(lags) > 3:
                    lags.pop(0).synchronize()
            if n % (200 if not a.smoke else 10) == 0 or n == 20:
                value = loss.item()
                first = value if first is None else first
                curve.append([n, round(now, 1), round(value, 4)])
                say(f"{name}: step {n}, {done:.0%}, loss {value:.3f}, lr {lr:.2e}, docs {batches.src.documents}")
                if not math.isfinite(value) or value > first + 1.0:
                    return False
            if saved and done > saved[0]:
                saved.pop(0)
                self.m.save(model, a.out, name, 4)
                self.write_log()
            if name == "target" and marks and done > marks[0]:
                mark = marks.pop(0)
                acc = self.probe(model)
                # Families still in doubt get more of the batch, none less than a seventh of an even share.
                weights = {f: min(1.0, 1.0 - v + 0.1) for f, v in acc.items()}
                floor = max(weights.values()) / 7
                mix = self.families_mix({f: max(w, floor) for f, w in weights.items()}, base_mix)
                phase["mixes"][f"{mark}"] = {"probe": {f: round(v, 3) for f, v in acc.items()},
                                             "mix": {k: round(v, 4) for k, v in mix.items()}}
                say(f"probe at {mark:.0%}: " + " ".join(f"{f} {v:.2f}" for f, v in acc.items()))
        if self.device.type == "cuda":
            t.cuda.synchronize()
        took = time.time() - T0 - begin
        phase.update(steps=n, tokens=n * batches.rows * batches.length, seconds=round(took, 1),
                     final_lr_share=round(max(0.01, (1.0 - min(1.0, done)) / 0.7), 3))
        say(f"{name}: {n} steps, {phase['tokens'] / 1e6:.0f} M tokens, {phase['tokens'] / took / 1e6:.2f} M tokens/s")
        return True

    def run(self):
        t, a, m = self.t, self.a, self.m
        at = {k: v * a.seconds for k, v in ENDS.items()}
        tc, dc = m.TARGET, m.DRAFT
        rows, rows_d, length = 128, 256, 512
        if a.smoke:
            tc = m.Config(hidden=64, layers=3, heads=4, kv_heads=2, ffn=176)
            dc = m.Config(hidden=32, layers=1, heads=2, kv_heads=1, ffn=96)
            rows = rows_d = 4
            length = 256
        self.log["target"], self.log["draft"] = tc.hugging_face(self.end), dc.hugging_face(self.end)
        batches = Batches(self.sources, self.device, rows, length, a.seed)
        say(f"{self.log['device']}, data on the device")

        target = m.Llama(tc).to(self.device)
        step = self.compile(target, batches.next(self.families_mix({f: 1.0 for f in tasks.FAMILIES}, MIX)))
        say("target ready")
        begin = {k: v.detach().clone() for k, v in target.state_dict().items()}
        plans = [("muon", LR["target"])] if a.optimizer == "muon" else []
        for kind, peak in plans + [("adamw", 1.5e-3)]:
            try:
                if self.train("target", target, step, batches, MIX, kind, peak, at["target"]):
                    break
            except Exception:
                traceback.print_exc()
            say("training failed or the loss left the rails, starting again with AdamW")
            target.load_state_dict(begin)
        self.finish("target", target, 4)

        draft = m.Llama(dc).to(self.device)
        batches.rows = rows_d
        step = self.compile(draft, batches.next(self.families_mix({f: 1.0 for f in tasks.FAMILIES}, MIX)))
        say("draft ready")
        self.train("draft", draft, step, batches, MIX, "adamw", LR["draft"], at["draft"])
        self.finish("draft", draft, 1)
        kept = {k: v.detach().clone() for k, v in draft.state_dict().items()}

        models = {"target": target, "draft": m.Llama(dc).to(self.device)}
        models["draft"].load_state_dict(kept)
        if time.time() - T0 < at["specialist"] - 5:
            self.train("specialist", draft, step, batches, SPECIAL_MIX, "adamw", LR["specialist"], at["specialist"], True)
            self.finish("specialist", draft, 1)
            models["specialist"] = draft
        for x in models.values():  # measured as saved: weights rounded to bf16, computed in fp32
            with t.no_grad():
                for p in x.parameters():
                    p.copy_(p.bfloat16().float())
        t.backends.cuda.matmul.allow_tf32 = False
        del batches
        for part in (self.perplexity, self.exact, self.agreement, self.samples):
            if time.time() - T0 > a.seconds * 1.05:
                say(f"no time left for {part.__name__}")
                break
            try:
                part(models)
            except Exception as e:
                traceback.print_exc()
                self.log["scores"][f"{part.__name__}_error"] = repr(e)[:300]
            self.write_log()
        self.log["seconds"] = round(time.time() - T0, 1)
        self.write_log()
        say("done")

    def finish(self, name, model, shards):
        self.m.save(model, self.a.out, name, shards)
        self.write_log()
        say(f"{name} saved")

    def decoder(self):
        """Ids to text from tokenizer.json alone: the byte-level alphabet of GPT-2."""
        vocab = json.loads((self.a.data / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
        chars = {chr(b): b for b in keep}
        chars.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in keep)})
        table = {i: bytes(chars[c] for c in s) if all(c in chars for c in s) else b"" for s, i in vocab.items()}
        return lambda ids: b"".join(table.get(i, b"") for i in ids if i != self.end).decode("utf-8", "replace")

    def held_out(self):
        rows = json.loads((self.a.data / "held_out.json").read_text())
        if self.a.smoke:
            rows = [r for i, r in enumerate(rows) if i % 32 == 0]
        return rows

    def exact(self, models):
        """Exact match of the final answer, and of the whole answer, per family; greedy, held-out instances."""
        rows, text = self.held_out(), self.decoder()
        self.answers = {}
        for name, model in models.items():
            out = []
            order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt"]))
            for i in range(0, len(order), 512):
                part = order[i:i + 512]
                out += zip(part, model.greedy([rows[j]["prompt"] for j in part], 220, self.end))
            out = [o for _, o in sorted(out)]
            self.answers[name] = out
            hits = {}
            for r, o in zip(rows, out):
                ok = bool(o) and o[-1] == self.end and tasks.final(text(o)) == r["final"]
                hits.setdefault(r["family"], []).append((ok, o == r["answer"] + [self.end]))
            s = {f: {"n": len(v), "final": sum(x for x, _ in v) / len(v), "whole": sum(y for _, y in v) / len(v)}
                 for f, v in hits.items()}
            mean = sum(s[f]["final"] for f in tasks.FAMILIES) / len(tasks.FAMILIES)
            self.log["scores"].setdefault("exact_match", {})[name] = {"mean_without_withheld": mean, **s}
            say(f"{name}: mean {mean:.3f}  " + " ".join(f"{f} {v['final']:.2f}" for f, v in s.items()))
        fails = []
        for f in tasks.ALL:
            bad = [(r, o) for r, o in zip(rows, self.answers["target"])
                   if r["family"] == f and tasks.final(text(o)) != r["final"]]
            fails += [{"family": f, "prompt": text(r["prompt"]), "target": text(o), "wanted": text(r["answer"])}
                      for r, o in bad[:2]]
        self.log["failures"] = fails

    def perplexity(self, models):
        """Of the whole validation texts in windows of 512 tokens, and bits per byte of text."""
        t = self.t
        out = self.log["scores"].setdefault("perplexity", {})
        for source in ("books", "docs"):
            ids = np.fromfile(self.a.data / f"{source}.valid.u16", "<u2").astype(np.int64)
            n = 8 if self.a.smoke else (len(ids) - 1) // 512
            x = t.from_numpy(ids[:n * 512 + 1])
            a, b = x[:-1].view(n, 512).to(self.device), x[1:].view(n, 512).to(self.device)
            best = {}
            for name, model in models.items():
                total, picks = 0.0, []
                with t.no_grad():
                    for i in range(0, n, 32):
                        logits = model.logits(a[i:i + 32]).float()
                        total += t.nn.functional.cross_entropy(logits.flatten(0, 1), b[i:i + 32].flatten(),
                                                               reduction="sum").item()
                        picks.append(logits.argmax(-1))
                best[name] = t.cat(picks)
                share = len(ids) / self.meta["valid_bytes"][source]
                out.setdefault(name, {})[source] = {"perplexity": math.exp(total / (n * 512)),
                                                    "bits_per_byte": total / (n * 512) / math.log(2) * share,
                                                    "tokens": n * 512}
            for name in models:
                if name != "target":
                    agree = (best[name] == best["target"]).float().mean().item()
                    self.log["scores"].setdefault("agreement_on_validation_text", {}).setdefault(name, {})[source] = agree
        for source in ("books", "docs"):
            ratio = out["target"][source]["perplexity"] / out["draft"][source]["perplexity"]
            self.log["scores"].setdefault("perplexity_ratio", {})[source] = ratio
            say(f"{source}: " + " ".join(f"{k} {v[source]['perplexity']:.2f}" for k, v in out.items()) + f" ratio {ratio:.3f}")

    def agreement(self, models):
        """Greedy speculation on the target's own greedy text: the draft's likeliest token against the target's at every
        position, and the tokens per target call that gamma 5 makes of it."""
        t, gamma = self.t, 5
        rows = self.held_out()
        sets = {f: [(r["prompt"], o) for r, o in zip(rows, self.answers["target"]) if r["family"] == f][:128]
                for f in tasks.ALL}
        for source in ("books", "docs"):
            ids = np.fromfile(self.a.data / f"{source}.valid.u16", "<u2").tolist()
            count = 4 if self.a.smoke else 64
            gap = (len(ids) - 100) // count
            prompts = [ids[i * gap:i * gap + 64] for i in range(count)]
            sets[source] = list(zip(prompts, models["target"].greedy(prompts, 160, self.end)))
            self.log.setdefault("text_prompts", {})[source] = len(prompts)
        out = self.log["scores"].setdefault("greedy_speculation", {})
        for name in models:
            if name == "target":
                continue
            for key, pairs in sets.items():
                n = max(len(p) + len(o) for p, o in pairs)
                ids = t.tensor([p + o + [self.end] * (n - len(p) - len(o)) for p, o in pairs], device=self.device)
                with t.no_grad():
                    best = t.cat([models[name].logits(ids[i:i + 32]).argmax(-1) for i in range(0, len(ids), 32)])
                hit = (best[:, :-1] == ids[:, 1:]).cpu().tolist()
                same = total = calls = 0
                for (p, o), h in zip(pairs, hit):
                    h = h[len(p) - 1:len(p) - 1 + len(o)]
                    same, total, i = same + sum(h), total + len(h), 0
                    while i < len(h):
                        k = 0
                        while k < gamma and i + k < len(h) and h[i + k]:
                            k += 1
                        i, calls = i + k + 1, calls + 1
                out.setdefault(name, {})[key] = {"agreement": same / total, "tokens_per_call": total / calls}
            say(f"{name} greedy: " + " ".join(f"{k} {v['agreement']:.2f}/{v['tokens_per_call']:.2f}"
                                               for k, v in out[name].items()))

    def samples(self, models):
        rows, text = self.held_out(), self.decoder()
        out = []
        for f in tasks.ALL:
            i = next(i for i, r in enumerate(rows) if r["family"] == f)
            out.append({"category": f, "prompt": text(rows[i]["prompt"]),
                        **{n: text(self.answers[n][i]) for n in models}})
        ids = np.fromfile(self.a.data / "books.valid.u16", "<u2").tolist()
        docs = np.fromfile(self.a.data / "docs.valid.u16", "<u2").tolist()
        for source, s in (("books", ids), ("docs", docs)):
            prompts = [s[i:i + 48] for i in (20000, 60000)]
            got = {n: x.greedy(prompts, 96, self.end) for n, x in models.items()}
            for i, p in enumerate(prompts):
                out.append({"category": source, "prompt": text(p), **{n: text(g[i]) for n, g in got.items()}})
        self.log["samples"] = out


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=pathlib.Path, required=True, help="what prepare.py wrote")
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--seconds", type=float, default=430, help="wall time of the whole run")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--optimizer", choices=["muon", "adamw"], default="muon", help="of the target")
    p.add_argument("--documents", type=int, default=240000, help="task documents generated per family")
    p.add_argument("--workers", type=int, default=max(1, min(13, len(os.sched_getaffinity(0)) - 3)))
    p.add_argument("--smoke", action="store_true", help="tiny models and batches")
    p.add_argument("--cpu", action="store_true")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None)
    p.add_argument("--max-steps", type=int, default=0, help="stop a phase after so many steps; 0: the clock alone")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    if a.smoke:
        a.documents = min(a.documents, 200)
        a.workers = 1
    a.compile = not a.smoke if a.compile is None else a.compile
    meta = json.loads((a.data / "meta.json").read_text())
    # Workers are forked before torch and CUDA are touched.
    sources = Sources(a.data, meta, a.documents, a.workers)
    say(f"{a.workers} workers generate tasks")
    trainer = Trainer(a)
    trainer.sources = sources
    trainer.run()


if __name__ == "__main__":
    main()
