"""Batches from token streams: text, generated tasks (made by worker processes while training runs) and sampled text."""

import multiprocessing
import os
import threading
import time
import traceback

import numpy as np

import tasks

ID_MASK = 0x1FFF
TEXTS = ("books", "docs", "gsm8k")
PROMPT_WEIGHT = 0.1
_tok = None


def make_chunk(job):
    """One worker's share: documents of one family as a stream of ids with the prompt bit."""
    global _tok
    family, seed, count, path, end = job
    if _tok is None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.nice(10)  # compiling on the main thread goes first
        from tokenizers import Tokenizer
        _tok = Tokenizer.from_file(path)
    return family, tasks.encode(_tok, tasks.instances(family, seed, count), end)


class Sources:
    """Token streams of every source and the offsets at which a row may begin. Task streams grow while workers generate.
    Workers are forked by the constructor: make it before torch and CUDA are touched."""

    def __init__(self, data, meta, per_family, workers, say):
        self.end, self.say = meta["end"], say
        load = lambda n: np.fromfile(data / f"{n}.u16", "<u2")
        self.parts = {n: [load(n)] for n in TEXTS}
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
                self.add(family, ids)
                self.documents += chunk
            self.pool.close()
            self.say(f"all {self.documents} task documents generated")
        except Exception:
            traceback.print_exc()
            self.say("generation failed: training goes on with what is there")
        self.finished = True

    def add(self, source, ids):
        with self.lock:
            self.parts.setdefault(source, []).append(ids)
            self.fresh = True

    def build(self, device, rows_of):
        """(stream on the device, {source: (where its documents begin, their lengths)}) of what is there now. Texts have one
        document: they may be entered anywhere."""
        import torch
        with self.lock:
            flat = {n: np.concatenate(p) for n, p in self.parts.items()}
            self.fresh = False
        where, base = {}, 0
        for n, ids in flat.items():
            room = len(ids) - rows_of - 2
            if n in ("books", "docs"):
                where[n] = (base, room)
            else:
                s = np.concatenate(([0], np.flatnonzero((ids & ID_MASK) == self.end) + 1))
                keep = s[:-1] < room
                where[n] = (s[:-1][keep] + base, np.diff(s)[keep])
            base += len(ids)
        stream = torch.from_numpy(np.concatenate(list(flat.values())).view(np.int16)).to(device)
        return stream, where


class Batches:
    """Rows of `length` tokens: text from anywhere, documents of one source in a run, or tasks. The documents in a row of
    tasks are of different families: the tables and programs of one family share names, and an earlier one with the same
    name and another value would be taken for the one that is asked about."""

    def __init__(self, sources, device, rows, length, seed):
        import torch
        self.t, self.src, self.device = torch, sources, device
        self.rows, self.length = rows, length
        self.rng = np.random.default_rng(seed)
        self.span = torch.arange(length + 1, device=device)
        self.rebuild()

    def rebuild(self):
        self.stream, self.where = self.src.build(self.device, self.length)
        self.built = time.time()

    def tasks(self, rows, weights):
        """(beginnings, lengths) of the documents of rows of tasks, in order. Families are drawn without replacement."""
        names = list(weights)
        odds = np.log([weights[n] for n in names])
        order = np.argsort(-(odds + self.rng.gumbel(size=(rows, len(names)))), 1)
        starts, lengths = np.empty_like(order), np.empty_like(order)
        for i, n in enumerate(names):
            at, size = self.where[n]
            here = order == i
            k = self.rng.integers(0, len(at), here.sum())
            starts[here], lengths[here] = at[k], size[k]
        return starts, lengths

    def next(self, mix, labelled=()):
        """(inputs, targets, weights, rows whose labels count): `mix` maps sources to shares; rows of the sources in
        `labelled` are marked 1."""
        if self.src.fresh and time.time() - self.built > (12 if not self.src.finished else 0):
            self.rebuild()
        families = {n: v for n, v in mix.items() if n in tasks.FAMILIES and v > 0}
        names = [n for n in mix if n not in tasks.FAMILIES]
        share = np.array([mix[n] for n in names] + [sum(families.values())])
        counts = self.rng.multinomial(self.rows, share / share.sum())
        pieces = np.zeros((2, self.rows, len(families)), np.int64)  # beginnings and lengths in the stream, row by row
        pieces[1, :, 0] = self.length + 1
        marks, n_rows = np.zeros(self.rows, np.float32), 0
        for n, k in zip(names, counts):
            s, size = self.where[n]
            here = slice(n_rows, n_rows + k)
            pieces[0, here, 0] = s + self.rng.integers(0, size, k) if n in TEXTS[:2] else s[self.rng.integers(0, len(s), k)]
            marks[here] = n in labelled
            n_rows += k
        pieces[:, n_rows:] = self.tasks(self.rows - n_rows, families)
        t = self.t
        pieces, marks = t.from_numpy(pieces), t.from_numpy(marks)
        if self.device.type == "cuda":
            pieces, marks = pieces.pin_memory(), marks.pin_memory()
        starts, lengths = pieces.to(self.device, non_blocking=True)
        ends = lengths.cumsum(1)
        slot = (ends[:, :, None] <= self.span).sum(1).clamp(max=len(families) - 1)
        at = (starts - ends + lengths).gather(1, slot) + self.span
        x = self.stream[at].to(t.int32) & 0xFFFF
        ids = (x & ID_MASK).long()
        w = t.where(x[:, 1:] >= tasks.PROMPT_BIT, PROMPT_WEIGHT, 1.0)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), w, marks.to(self.device, non_blocking=True)
