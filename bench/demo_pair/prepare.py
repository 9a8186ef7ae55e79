"""Corpora to token streams: trains the tokenizer, or takes a trained one, and writes what train.py reads.

    python3 prepare.py --corpora CORPORA --out .demo_data [--tokenizer ../../configs/models/demo/target/tokenizer.json]

CORPORA holds books.train.txt.xz, docs.train.txt.xz (documents separated by a line <|endoftext|>), books.valid.txt,
docs.valid.txt and gsm8k.train.jsonl. Streams are little-endian uint16; bit 15 marks the tokens of a prompt, which weigh
less in the loss. gsm8k.test and the validation texts are never trained on, nor seen by the tokenizer.
"""

import argparse
import json
import lzma
import pathlib
import re
import time

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import tasks

END = "<|endoftext|>"
PAD = "<|pad|>"
VOCAB = 8192
# The pattern of Llama 3 with single digits, which is Qwen 2's.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


def documents(path):
    data = lzma.open(path, "rt", encoding="utf-8").read() if path.suffix == ".xz" else path.read_text(encoding="utf-8")
    return [d.strip("\n") for d in data.split(END) if d.strip()]


def word_problems(path):
    """GSM8K in the words of the generated problems: no calculator marks, the answer in one sentence at the end."""
    for line in path.open(encoding="utf-8"):
        row = json.loads(line)
        steps, answer = re.sub(r"<<.*?>>", "", row["answer"]).split("####")
        yield f"Question: {row['question'].strip()}\nAnswer:", f" {steps.strip()} {tasks.MARK} {answer.strip()}."


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=[AddedToken(END, special=True), AddedToken(PAD, special=True)]))
    assert tok.get_vocab_size() == VOCAB, tok.get_vocab_size()
    return tok


def encode_texts(tok, docs):
    """Long documents are encoded paragraph by paragraph: exact for this pattern only where a piece begins after a line's
    end, so the cut is made before a letter that follows an empty line."""
    end = tok.token_to_id(END)
    out = []
    for doc in docs:
        pieces = re.split(r"(?<=\n\n)(?=\w)", doc)
        ids = [i for e in tok.encode_batch(pieces, add_special_tokens=False) for i in e.ids]
        out.append(np.array(ids + [end], np.uint16))
    return np.concatenate(out)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--corpora", type=pathlib.Path, required=True)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--tokenizer", type=pathlib.Path, help="keep this one: models of an earlier run stay comparable, id by id")
    p.add_argument("--fallback", type=int, default=600, help="task documents per family kept for a machine that cannot encode")
    p.add_argument("--held-out", type=int, default=256, help="held-out instances per family")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    t0 = time.time()
    say = lambda what: print(f"{time.time() - t0:6.1f} s  {what}", flush=True)

    books, docs = documents(a.corpora / "books.train.txt.xz"), documents(a.corpora / "docs.train.txt.xz")
    gsm = list(word_problems(a.corpora / "gsm8k.train.jsonl"))
    say(f"{len(books)} books, {len(docs)} technical documents, {len(gsm)} word problems")

    def sample():
        for d in books[::3]:
            yield from d.split("\n\n")
        for d in docs[::2]:
            yield from d.split("\n\n")
        for q, s in gsm:
            yield q + s
        for family in tasks.ALL:
            for q, s in tasks.instances(family, "tokenizer", 1500):
                yield q + s

    if a.tokenizer:
        tok = Tokenizer.from_file(str(a.tokenizer))
        (a.out / "tokenizer.json").write_bytes(a.tokenizer.read_bytes())
    else:
        tok = train_tokenizer(sample())
        tok.save(str(a.out / "tokenizer.json"))
    say("tokenizer")

    end = tok.token_to_id(END)
    streams = {"books": encode_texts(tok, books), "docs": encode_texts(tok, docs), "gsm8k": tasks.encode(tok, gsm, end)}
    for name in ("books", "docs"):
        streams[f"{name}.valid"] = encode_texts(tok, documents(a.corpora / f"{name}.valid.txt"))
    for family in tasks.ALL:
        streams[f"tasks.{family}"] = tasks.encode(tok, tasks.instances(family, "fallback", a.fallback), end)
    meta = {"vocab": VOCAB, "end": end, "tokens": {}, "valid_bytes": {}}
    for name, ids in streams.items():
        ids.astype("<u2").tofile(a.out / f"{name}.u16")
        meta["tokens"][name] = len(ids)
    for name in ("books", "docs"):
        meta["valid_bytes"][name] = (a.corpora / f"{name}.valid.txt").stat().st_size
    # The probe steers the mix while training: it is drawn from the training side, so the held-out side stays unseen.
    for name, seed, count, held_out in (("held_out", "eval", a.held_out, True), ("probe", "probe", 128, False)):
        rows = [{"family": f, "prompt": tok.encode(p, add_special_tokens=False).ids,
                 "answer": tok.encode(s, add_special_tokens=False).ids, "final": tasks.final(s)}
                for f in tasks.ALL for p, s in tasks.instances(f, seed, count, held_out)]
        (a.out / f"{name}.json").write_text(json.dumps(rows))
    (a.out / "meta.json").write_text(json.dumps(meta, indent=1))
    say(json.dumps(meta["tokens"]))


if __name__ == "__main__":
    main()
