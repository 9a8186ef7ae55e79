"""Writes the held-out task instances and the held-out text prompts that `tandem sweep` runs.

    python3 items.py --corpora CORPORA --out ../../configs/prompts

tasks.jsonl: of every family in tasks.FAMILIES, instances that no model is trained on (tasks.is_held_out), in turns, so
that the first N of each family are the first lines. withheld.jsonl: the same of the family that only the specialised draft
knows. text.jsonl: openings from books.valid.txt and docs.valid.txt, which
nothing is trained on. Run again when tasks.py changes: nothing here knows a family.
"""

import argparse
import json
import pathlib
import random
import re

import tasks

END = "<|endoftext|>"


def task_items(families, seed, count):
    check = {"kind": "after", "mark": tasks.MARK}  # tasks.final
    streams = {f: tasks.instances(f, seed, count, held_out=True) for f in families}
    for i in range(count):
        for family, stream in streams.items():
            prompt, answer = next(stream)
            yield {"id": f"{family}-{i}", "category": family, "prompt": prompt, "answer": answer, "check": check}


def openings(path, count, seed, characters):
    """The beginnings of `count` paragraphs from different places, cut before a space, without a space at the end."""
    text = path.read_text(encoding="utf-8")
    paragraphs = [p.strip() for d in text.split(END) for p in re.split(r"\n\s*\n", d)]
    plain = [re.sub(r"\s*\n\s*", " ", p) for p in paragraphs]
    # Sentences, not headings, lists, tables or code.
    plain = [p for p in plain if len(p) > 2 * characters and re.match(r"[“\"‘A-Z]", p) and "|" not in p and "  " not in p]
    r = random.Random(seed)
    step = len(plain) // count
    for i in range(count):
        yield plain[i * step + r.randrange(step)][:characters].rsplit(" ", 1)[0]


def write(path, rows):
    with path.open("w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{path}: {sum(1 for _ in path.open(encoding='utf-8'))} lines, {path.stat().st_size} bytes")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--corpora", type=pathlib.Path, help="holds books.valid.txt and docs.valid.txt; without it, no texts")
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--count", type=int, default=75, help="instances per family")
    p.add_argument("--texts", type=int, default=20, help="openings per corpus")
    p.add_argument("--characters", type=int, default=120, help="of an opening, at most")
    p.add_argument("--seed", type=int, default=2026, help="not train.py's, whose held-out instances chose its figures")
    a = p.parse_args()
    write(a.out / "tasks.jsonl", task_items(tasks.FAMILIES, a.seed, a.count))
    write(a.out / "withheld.jsonl", task_items(tasks.WITHHELD, a.seed, a.count))
    if a.corpora is None:
        return
    corpora = {"prose": "books.valid.txt", "technical": "docs.valid.txt"}
    streams = {c: list(openings(a.corpora / f, a.texts, a.seed, a.characters)) for c, f in corpora.items()}
    write(a.out / "text.jsonl", ({"id": f"{c}-{i}", "category": c, "prompt": texts[i]}
                                 for i in range(a.texts) for c, texts in streams.items()))


if __name__ == "__main__":
    main()
