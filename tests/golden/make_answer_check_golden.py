"""Writes answer_checks.json: outputs, answers, checks, and whether Python finds the output right.

    python3 make_answer_check_golden.py > answer_checks.json

`after` is bench/demo_pair/tasks.py's own comparison, on its own answers and on damaged ones; `last_number` and `json`
are Python's re, decimal and json.
"""

import decimal
import json
import pathlib
import random
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "demo_pair"))
import tasks  # noqa: E402


def after(output, answer, mark):
    assert mark == tasks.MARK
    return tasks.final(output) == tasks.final(answer)


def exact(output, answer, _):
    return output.strip(" \t\n\v\f\r") == answer.strip(" \t\n\v\f\r")


def last_number(output, answer, _):
    def last(text):
        found = re.findall(r"-?[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?", text)
        return decimal.Decimal(found[-1].replace(",", "")) if found else None
    return last(output) is not None and last(output) == last(answer)


def same_json(output, answer, _):
    try:
        a, b = json.loads(output), json.loads(answer)
    except json.JSONDecodeError:
        return False
    return a == b and isinstance(a, bool) == isinstance(b, bool)  # Python's True is 1


CHECKS = {"after": after, "exact": exact, "last_number": last_number, "json": same_json}


def damaged(text, r):
    """The text with one thing changed; some changes do not matter to some checks."""
    i = r.randrange(len(text))
    return r.choice([text[:i], text[:i] + r.choice("0123456789 .,x") + text[i + 1:], text + " ", text + ".", text + "..",
                     text + " " + text, "\n" + text, text.replace("The answer is", "the answer is"), text + "\n\nQuestion:",
                     text.rstrip("."), text[:i] + text[i + 1:]])


def main():
    rows = []

    def add(kind, answer, output, mark=""):
        rows.append({"kind": kind, "mark": mark, "answer": answer, "output": output,
                     "right": CHECKS[kind](output, answer, mark)})

    r = random.Random(5)
    for family in tasks.FAMILIES:
        for _, answer in tasks.instances(family, "check", 6):
            for output in [answer] + [damaged(answer, r) for _ in range(3)]:
                add("after", answer, output, tasks.MARK)
                add("exact", answer, output)
    numbers = ["12", "-3", "1,234", "1234", "1,234.50", "1234.5", "0.5", ".5", "12.", "a12b", "3-4", "1,2,3", "7,", ",7", "1.2.3",
               "10 apples, then 4", "no number", "", "5,000,000", "-0", "0", "2.50", "x-2.5.", "1, 234", "12.,5", "1.5,3", "٣"]
    for answer in ["12", "-3", "1234", "1,234.5", "0.5", "5", "3", "4", "7", "-4", "0", "2.5", "-2.5", "5000000", "234", "1.5"]:
        for output in numbers:
            add("last_number", answer, output)
    objects = ['{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1}', ' {"a":1,"b":[1,2]} \n', '{"a": 1.0, "b": [1, 2]}', '{"a": 1}',
               '{"a": "1", "b": [1, 2]}', '{"a": 1, "b": [2, 1]}', '{"a": 1, "b": [1, 2]} x', '{"a": 1, "b": [1, 2', "", "null",
               '{"a": 1, "a": 2}', '{"a": 2}', '"\\u00e9"', '"é"', "true", "1", '{"a": {"c": null}}', '{"a": {"c": false}}']
    for answer in objects:
        try:
            json.loads(answer)
        except json.JSONDecodeError:
            continue
        for output in objects:
            add("json", answer, output)
    print("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]")
    print(f"{len(rows)} rows, {sum(row['right'] for row in rows)} right", file=sys.stderr)


if __name__ == "__main__":
    main()
