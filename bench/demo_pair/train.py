"""Trains the demo pair and measures it, in one process and a given wall time.

    python3 train.py --data .demo_data --out OUT --seconds 460      # one H100 or H200
    python3 train.py --data .demo_data --out OUT --seconds 60 --smoke   # any CPU: tiny models, every step of the script

Phases: target; draft, first on labels, then distilled: on the target's law at every token of the same text and of text that
the target wrote; specialist (the draft trained on with the family that the target's mix withholds, distilled elsewhere);
evaluation. Each phase has a share of the wall time; the learning rate follows the clock, so a slow machine ends on a
finished schedule too. Checkpoints are written at the end of each phase, the target's also on the way; log.json is written
again after every part of the evaluation.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import signal
import sys
import time
import traceback

T0 = time.time()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import numpy as np  # noqa: E402

import data  # noqa: E402
import tasks  # noqa: E402

# Shares of rows; the rest of a batch is generated tasks. There is little text (17 M and 9 M tokens): beyond eight passes
# or so the target learns it by heart and gets worse on new text.
MIX = {"books": 0.30, "docs": 0.15, "gsm8k": 0.02}
DISTIL_MIX = {"books": 0.24, "docs": 0.14, "gsm8k": 0.02, "sampled": 0.26}
SPECIAL_MIX = {"books": 0.15, "docs": 0.08, "sampled": 0.13, "roman": 0.50}
FIRST_WEIGHTS = {"lookup": 2.0, "code": 2.0}  # of the families, until a probe says more; the others 1
ENDS = {"target": 0.665, "draft": 0.875, "specialist": 0.95}  # share of the wall time at which a phase stops
LABELS = 0.33  # share of the draft's training before it is distilled
LR = {"target": 4e-3, "draft": 4e-3, "specialist": 2e-3}
TEMPERATURES = (0.0, 0.0, 0.5, 0.8, 1.0)  # of the text that the target writes, drawn evenly


def say(what):
    print(f"{time.time() - T0:6.1f} s  {what}", flush=True)


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
        self.params, self.kind, self.steps = [p for _, p in named], kind, 0
        self.muon = make_muon()(inner, 0.0) if kind == "muon" else None
        groups = [{"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
                  {"params": [p for p in rest if p.dim() == 2], "weight_decay": 0.0 if kind == "muon" else 0.1}]
        if kind != "muon":
            groups.append({"params": inner, "weight_decay": 0.1})
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=device.type == "cuda")
        self.clip = torch.nn.utils.clip_grad_norm_

    def step(self, lr):
        self.steps += 1
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


def run_layer(layer, x, cos, sin):
    return layer(x, cos, sin)


def label_loss(norm, weight, x, targets, w):
    """Weighted mean of the cross entropy, in nats."""
    import torch.nn.functional as F
    logits = F.linear(norm(x), weight).flatten(0, 1).float()
    w = w.flatten()
    return (F.cross_entropy(logits, targets.flatten(), reduction="none") * w).sum() / w.sum()


def distillation_loss(norm, weight, x, targets, w, labelled, teacher):
    """Cross entropy with the teacher's law (its KL divergence and a constant), or with the label in rows marked 1."""
    import torch.nn.functional as F
    logq = F.linear(norm(x), weight).float().log_softmax(-1)
    soft = -(teacher.float().softmax(-1) * logq).sum(-1)
    hard = -logq.gather(-1, targets[..., None])[..., 0]
    return ((soft + labelled[:, None] * (hard - soft)) * w).sum() / w.sum()


class Trainer:
    def __init__(self, a, meta, sources):
        import torch
        import model as m
        self.t, self.m, self.a, self.meta, self.sources = torch, m, a, meta, sources
        self.device = torch.device("cuda" if torch.cuda.is_available() and not a.cpu else "cpu")
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(a.seed)
        self.end = meta["end"]
        self.log = {"seed": a.seed, "seconds_allowed": a.seconds, "torch": torch.__version__, "phases": {}, "scores": {},
                    "device": torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor() or "cpu",
                    "smoke": a.smoke, "mix": MIX, "distil_mix": DISTIL_MIX, "special_mix": SPECIAL_MIX,
                    "prompt_weight": data.PROMPT_WEIGHT, "tokens_available": meta["tokens"]}
        self.probes = None
        self.layer, self.losses = run_layer, {False: label_loss, True: distillation_loss}
        if a.compile:  # one layer is compiled and used for all: a seventh of the time that the whole target takes
            self.layer = torch.compile(run_layer, dynamic=False)
            self.losses = {k: torch.compile(f, dynamic=False) for k, f in self.losses.items()}

    def write_log(self):
        self.m.write_json(self.a.out / "log.json", self.log)

    def now(self):
        return time.time() - T0

    def autocast(self):
        return self.t.autocast(self.device.type, dtype=self.t.bfloat16, enabled=self.device.type == "cuda")

    def states(self, model, ids):
        """The last layer's output, before the final norm."""
        x, n = model.embed_tokens(ids), ids.shape[1]
        for layer in model.layers:
            x = self.layer(layer, x, model.cos[:n], model.sin[:n])
        return x

    def loss(self, model, batch, teacher):
        ids, targets, w, labelled = batch
        law = ()
        if teacher is not None:
            with self.t.no_grad():
                law = (labelled, self.t.nn.functional.linear(teacher.norm(self.states(teacher, ids)),
                                                             teacher.embed_tokens.weight))
        with self.autocast():
            return self.losses[teacher is not None](model.norm, model.embed_tokens.weight, self.states(model, ids), targets, w,
                                                    *law)

    def warm_up(self, model, batch, teacher=None):
        """Compiles what a step of the model needs; where that fails or hangs, everything runs without compiling."""
        if not self.a.compile:
            return
        try:
            signal.signal(signal.SIGALRM, raise_timeout)
            signal.alarm(75)
            self.loss(model, batch, teacher).backward()
            if self.device.type == "cuda":
                self.t.cuda.synchronize()
        except self.t.OutOfMemoryError:
            raise
        except Exception as e:
            traceback.print_exc()
            say(f"compile failed ({type(e).__name__}), going on without it")
            self.t._dynamo.reset()
            self.log["compile_failed"] = repr(e)[:300]
            self.a.compile = False
            self.layer, self.losses = run_layer, {False: label_loss, True: distillation_loss}
        finally:
            signal.alarm(0)
            for p in model.parameters():
                p.grad = None

    def families_mix(self, base, weights=None):
        weights = weights or {f: FIRST_WEIGHTS.get(f, 1.0) for f in tasks.FAMILIES}
        left, total = 1.0 - sum(base.values()), sum(weights.values())
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

    def train(self, name, model, opt, batches, base_mix, peak, span, until, teacher=None, labelled=()):
        """Trains until `until`, with the learning rate of a phase that lasts over `span` (seconds after the start). False
        if the loss left the rails."""
        t, a = self.t, self.a
        mix = self.families_mix(base_mix)
        begin, n, curve, lags, first = self.now(), 0, [], [], None
        marks = [0.25, 0.4, 0.55, 0.7, 0.85, 0.93] if name == "target" else []
        saved = [0.5, 0.85] if name == "target" else []
        phase = {"optimizer": opt.kind, "peak_lr": peak, "rows": batches.rows, "length": batches.length, "mix": base_mix,
                 "curve": curve, "mixes": {}, "parameters": sum(p.numel() for p in model.parameters())}
        self.log["phases"][name] = phase
        done = lambda at: (at - span[0]) / max(1e-3, span[1] - span[0])
        while self.now() < until and not (a.max_steps and n >= a.max_steps):
            share = done(self.now())
            lr = peak * min(1.0, (opt.steps + 1) / 100) * min(1.0, max(0.01, (1.0 - share) / 0.7))
            loss = self.loss(model, batches.next(mix, labelled), teacher)
            loss.backward()
            opt.step(lr)
            n += 1
            if self.device.type == "cuda":  # the host stays a few steps ahead, and the clock honest
                e = t.cuda.Event()
                e.record()
                lags.append(e)
                if len(lags) > 3:
                    lags.pop(0).synchronize()
            if n % (200 if not a.smoke else 10) == 0 or n == 20:
                value = loss.item()
                first = value if first is None else first
                curve.append([n, round(self.now(), 1), round(value, 4)])
                say(f"{name}: step {n}, {share:.0%}, loss {value:.3f}, lr {lr:.2e}, docs {batches.src.documents}")
                if not math.isfinite(value) or value > first + 1.0:
                    return False
            if saved and share > saved[0]:
                saved.pop(0)
                self.m.save(model, a.out, name, 4)
                self.write_log()
            if marks and share > marks[0]:
                mark = marks.pop(0)
                acc = self.probe(model)
                # Families still in doubt get more of the batch, none less than a seventh of the largest.
                weights = {f: 1.1 - v for f, v in acc.items()}
                floor = max(weights.values()) / 7
                mix = self.families_mix(base_mix, {f: max(w, floor) for f, w in weights.items()})
                phase["mixes"][f"{mark}"] = {"probe": {f: round(v, 3) for f, v in acc.items()},
                                             "mix": {k: round(v, 4) for k, v in mix.items()}}
                say(f"probe at {mark:.0%}: " + " ".join(f"{f} {v:.2f}" for f, v in acc.items()))
        if self.device.type == "cuda":
            t.cuda.synchronize()
        took = self.now() - begin
        phase.update(steps=n, tokens=n * batches.rows * batches.length, seconds=round(took, 1),
                     final_lr_share=round(min(1.0, max(0.01, (1.0 - done(self.now())) / 0.7)), 3))
        say(f"{name}: {n} steps, {phase['tokens'] / 1e6:.0f} M tokens, {phase['tokens'] / took / 1e6:.2f} M tokens/s")
        return True

    def train_target(self, target, batches, until):
        self.warm_up(target, batches.next(self.families_mix(MIX)))
        say("target ready")
        begin = {k: v.detach().clone() for k, v in target.state_dict().items()}
        for kind, peak in ([("muon", LR["target"])] if self.a.optimizer == "muon" else []) + [("adamw", 1.5e-3)]:
            try:
                if self.train("target", target, Optimizer(target, kind, self.device), batches, MIX, peak,
                              (self.now(), until), until):
                    return
            except Exception:
                traceback.print_exc()
            say("training failed or the loss left the rails, starting again with AdamW")
            target.load_state_dict(begin)

    def write_samples(self, teacher, seconds):
        """Text that the target writes after beginnings of training text, as one more source of rows. Its law is what the
        draft has to meet in speculation; tasks are left out, since the target's answers there are the labels, nearly."""
        t, (rows, steps) = self.t, (4, 16) if self.a.smoke else (3072, 176)
        until, made = self.now() + seconds, 0
        rng = np.random.default_rng(self.a.seed)
        streams = [np.concatenate(self.sources.parts[n]) for n in ("books", "docs")]
        while self.now() < until and made < (12 if not self.a.smoke else 2):
            width = (16, 48, 112)[made % 3]
            source = rng.integers(0, 2, rows)
            at = rng.random(rows)
            prompts = np.stack([streams[s][int(x * (len(streams[s]) - width)):][:width] for s, x in zip(source, at)])
            heat = t.from_numpy(rng.choice(TEMPERATURES, rows).astype(np.float32)).to(self.device)
            out = teacher.sample(t.from_numpy(prompts.astype(np.int64)).to(self.device), steps, heat)
            out = t.cat([out, t.full_like(out[:, :1], self.end)], 1)
            self.sources.add("sampled", out.to(t.int32).cpu().numpy().astype(np.uint16).ravel())
            made += 1
        self.log["sampled"] = {"documents": made * rows, "tokens_each": steps, "temperatures": TEMPERATURES}
        say(f"{made * rows} texts written by the target")

    def distil(self, name, draft, opt, batches, mix, peak, span, until, teacher, labelled=()):
        """Distils with as many rows as fit; where distillation fails, labels alone."""
        rows = batches.rows
        while batches.rows >= 8 and batches.rows >= rows / 8:
            try:
                self.warm_up(draft, batches.next(self.families_mix(mix)), teacher)
                return self.train(name, draft, opt, batches, mix, peak, span, until, teacher, labelled)
            except self.t.OutOfMemoryError:
                say(f"{batches.rows} rows do not fit")
                batches.rows //= 2
            except Exception:
                traceback.print_exc()
                break
            self.t.cuda.empty_cache()
        say("distillation failed: training on labels")
        batches.rows = rows
        self.log["distillation_failed"] = True
        mix = {k: v for k, v in mix.items() if k != "sampled"}
        return self.train(name, draft, opt, batches, mix, peak, span, until)

    def run(self):
        t, a, m = self.t, self.a, self.m
        at = {k: v * a.seconds for k, v in ENDS.items()}
        tc, dc = m.TARGET, m.DRAFT
        rows, rows_d, length = 128, 256, 512
        if a.smoke:
            tc = m.Config(hidden=64, layers=3, heads=4, kv_heads=2, ffn=176)
            dc = m.Config(hidden=32, layers=1, heads=2, kv_heads=1, ffn=96)
            rows, rows_d, length = 4, 8, 256
        self.log["target"], self.log["draft"] = tc.hugging_face(self.end), dc.hugging_face(self.end)
        batches = data.Batches(self.sources, self.device, rows, length, a.seed)
        say(f"{self.log['device']}, data on the device")
        target = m.Llama(tc).to(self.device)
        self.train_target(target, batches, at["target"])
        self.finish("target", target, 4)

        begin = self.now()
        teacher = m.Llama(tc).to(self.device)
        with t.no_grad():
            teacher.load_state_dict(target.state_dict())
            for p in teacher.parameters():  # the target as it is saved; the tables of angles stay in fp32
                p.data = p.data.bfloat16()
                p.requires_grad_(False)
        try:
            self.write_samples(teacher, 0.03 * a.seconds)
            if self.device.type == "cuda":
                t.cuda.empty_cache()
            batches.rebuild()
        except Exception:
            traceback.print_exc()
            say("the target's text is missing: distillation on the training text alone")
        distil_mix, special_mix = ({k: v for k, v in mix.items() if k != "sampled" or k in batches.where}
                                   for mix in (DISTIL_MIX, SPECIAL_MIX))
        batches.rows = rows_d
        draft = m.Llama(dc).to(self.device)
        self.warm_up(draft, batches.next(self.families_mix(MIX)))
        say("draft ready")
        opt, begin = Optimizer(draft, "adamw", self.device), self.now()
        span = (begin, at["draft"])
        self.train("draft_labels", draft, opt, batches, MIX, LR["draft"], span, begin + LABELS * (at["draft"] - begin))
        models = {"target": target, "draft": m.Llama(dc).to(self.device), "draft_before_distillation": m.Llama(dc).to(self.device)}
        models["draft_before_distillation"].load_state_dict(draft.state_dict())
        self.finish("draft", draft, 1)
        self.distil("draft", draft, opt, batches, distil_mix, LR["draft"], span, at["draft"], teacher)
        self.finish("draft", draft, 1)
        models["draft"].load_state_dict(draft.state_dict())
        if self.now() < at["specialist"] - 5:
            self.distil("specialist", draft, Optimizer(draft, "adamw", self.device), batches, special_mix, LR["specialist"],
                        (self.now(), at["specialist"]), at["specialist"], teacher, ("roman",))
            self.finish("specialist", draft, 1)
            models["specialist"] = draft
        del batches, teacher
        t.backends.cuda.matmul.allow_tf32 = False
        import evaluate
        evaluate.Evaluation(models, a.data, self.meta, self.device, self.log, a.smoke, say).run(
            lambda: a.seconds * (4.0 if a.smoke else 1.02) - self.now(), self.write_log)
        self.log["seconds"] = round(self.now(), 1)
        self.write_log()
        say("done")

    def finish(self, name, model, shards):
        self.m.save(model, self.a.out, name, shards)
        self.write_log()
        say(f"{name} saved")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=pathlib.Path, required=True, help="what prepare.py wrote")
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--seconds", type=float, default=460, help="wall time of the whole run")
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
    sources = data.Sources(a.data, meta, a.documents, a.workers, say)
    say(f"{a.workers} workers generate tasks")
    Trainer(a, meta, sources).run()


if __name__ == "__main__":
    main()
