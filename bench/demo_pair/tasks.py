"""Synthetic tasks with an exact check: easy sentences, hard key tokens.

A task is (prompt, answer). The prompt ends without a space and the answer begins with one, so that the tokens of the two
parts are the same whether they are encoded together or apart. A document is prompt + answer + <|endoftext|>.

Instances are split by their text: an instance whose prompt has crc32 % 32 == HELD_OUT is never trained on, and only such
instances are evaluated. The split holds across seeds, machines and runs.

    python3 tasks.py --count 100 --seed 7 --family code      # held-out instances as JSON lines
"""

import argparse
import datetime
import json
import random
import zlib

HELD_OUT = 7
PROMPT_BIT = 1 << 15
MARK = "The answer is"

NAMES = """Mia Noah Ava Liam Emma Lucas Zoe Oscar Ella Hugo Nora Felix Ruby Simon Clara Jonas Alice Peter Grace Martin Julia
Henry Laura Arthur Helen George Diana Walter Irene Robert Maria Thomas Susan Daniel Kate Victor Rosa Paul Jane Edward Lucy
Frank Anna Ralph Mary Carl Sarah Hannah David Sophie Tom Nina Max Ida Leo Eva Ben Olga Sam Vera""".split()
LAST = """Turner Baker Young Miller Clark Hill Wood Fisher Stone Cooper Reed Grant Ward Brooks Shaw Bell Price Long Cole Hunt
Ford Lane Marsh Page Rice Webb""".split()
CITIES = """Boston Paris London Berlin Madrid Rome Vienna Dublin Oslo Lisbon Chicago Denver Dallas Seattle Toronto Sydney
Geneva Prague Warsaw Athens Cairo Delhi Tokyo Lima""".split()
ITEMS = """pens apples books coins stamps cards shells marbles stickers buttons candles ribbons nails plums pears cookies
lemons tickets bottles keys""".split()
GOODS = "lamp chair table clock mirror basket blanket kettle bowl drum kite ladder rope shovel bucket hat".split()
BOXES = "boxes bags jars baskets trays drawers".split()
COLORS = "red blue green yellow white black brown grey".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty""".split()
MONTHS = """January February March April May June July August September October November December""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def amount(n, one, many):
    return f"{n} {one if n == 1 else many}"


def word(r):
    a, b, c = r.sample(NAMES, 3)
    item, box = r.choice(ITEMS), r.choice(BOXES)
    kind = r.randrange(6)
    if kind == 0:
        n, m = r.randint(3, 15), r.randint(3, 9)
        p = n * m
        k, j = r.randint(2, p - 1), r.randint(3, 60)
        q = (f"{a} has {n} {box} with {m} {item} in each. {a} gives away {k} {item} and then buys {j} more. "
             f"How many {item} does {a} have now?")
        s = (f" {a} starts with {n} * {m} = {p} {item}. After giving away {k}, {p} - {k} = {p - k} are left. "
             f"After buying {j} more, there are {p - k} + {j} = {p - k + j}. {MARK} {p - k + j}.")
    elif kind == 1:
        x, d = r.randint(4, 45), r.randint(3, 40)
        y = x + d
        z = 2 * y
        q = (f"{a} picked {x} {item}. {b} picked {d} more than {a}, and {c} picked twice as many as {b}. "
             f"How many {item} did they pick together?")
        s = (f" {b} picked {x} + {d} = {y} {item}. {c} picked 2 * {y} = {z} {item}. Together {a} and {b} picked "
             f"{x} + {y} = {x + y}. With {c} that makes {x + y} + {z} = {x + y + z}. {MARK} {x + y + z}.")
    elif kind == 2:
        g, h = r.sample(GOODS, 2)
        p, o, n, m = r.randint(3, 15), r.randint(3, 15), r.randint(2, 9), r.randint(2, 9)
        t = n * p + m * o
        pay = r.choice([v for v in (50, 100, 150, 200, 300) if v > t])
        q = (f"A {g} costs {p} dollars and a {h} costs {o} dollars. {a} buys {n} {g}s and {m} {h}s and pays with "
             f"{pay} dollars. How many dollars does {a} get back?")
        s = (f" The {g}s cost {n} * {p} = {n * p} dollars. The {h}s cost {m} * {o} = {m * o} dollars. Together that is "
             f"{n * p} + {m * o} = {t} dollars. {a} gets back {pay} - {t} = {pay - t} dollars. {MARK} {pay - t}.")
    elif kind == 3:
        n, d, k = r.randint(5, 19), r.randint(3, 9), r.randint(5, 60)
        t = n * d + r.randint(k + 1, 120)
        left = t - n * d
        q = (f"{a} reads a book of {t} pages. {a} reads {n} pages a day for {d} days, and then {k} pages on one evening. "
             f"How many pages are left?")
        s = (f" In {d} days {a} reads {d} * {n} = {n * d} pages. Then {t} - {n * d} = {left} pages are left. "
             f"After the evening {left} - {k} = {left - k} pages are left. {MARK} {left - k}.")
    elif kind == 4:
        m, v = r.randint(3, 9), r.randint(3, 15)
        k, j = r.randint(2, 30), r.randint(2, 9)
        q = (f"{a} shares {m * v} {item} equally among {m} friends. {b} is one of them. {b} finds {k} more and then gets "
             f"{j} from {c}. How many {item} does {b} have?")
        s = (f" Each friend gets {m * v} / {m} = {v} {item}. After finding {k} more, {b} has {v} + {k} = {v + k}. "
             f"With those from {c}, {b} has {v + k} + {j} = {v + k + j}. {MARK} {v + k + j}.")
    else:
        x, d = r.randint(8, 40), r.randint(2, 30)
        e, f = r.randint(2, x + d - 2), r.randint(2, 20)
        q = (f"{a} is {x} years old. {b} is {d} years older than {a}, and {c} is {e} years younger than {b}. "
             f"How old will {c} be in {f} years?")
        s = (f" {b} is {x} + {d} = {x + d} years old. {c} is {x + d} - {e} = {x + d - e} years old. In {f} years {c} will "
             f"be {x + d - e} + {f} = {x + d - e + f}. {MARK} {x + d - e + f}.")
    return f"Question: {q}\nAnswer:", s


def to_json(r):
    name = f"{r.choice(NAMES)} {r.choice(LAST)}"
    city, good, color = r.choice(CITIES), r.choice(GOODS), r.choice(COLORS)
    n, p = r.randint(2, 12), r.randint(3, 19)
    y, m, d = r.randint(1995, 2034), r.randint(1, 12), r.randint(1, 28)
    date = f"{d} {MONTHS[m - 1]} {y}"
    text = r.choice([
        f"{name} from {city} ordered {NUMBERS[n]} {color} {good}s at {p} dollars each on {date}.",
        f"On {date}, {NUMBERS[n]} {color} {good}s were sent to {name} in {city}, each for {p} dollars.",
        f"An order of {date}: {NUMBERS[n]} {good}s in {color}, {p} dollars apiece, for {name}, {city}.",
        f"{name} lives in {city} and paid {p} dollars for each of {NUMBERS[n]} {color} {good}s; the date was {date}.",
    ])
    values = {"name": name, "city": city, "item": good, "color": color, "quantity": n, "price": p, "total": n * p,
              "date": f"{y}-{m:02}-{d:02}"}
    return f"Write this order as JSON.\nText: {text}\nJSON:", " " + json.dumps(values)


def sort(r):
    xs = r.sample(range(1, 100), r.randint(6, 9))
    up = r.random() < 0.5
    way = r.choice(["ascending", "increasing"]) if up else r.choice(["descending", "decreasing"])
    out = sorted(xs, reverse=not up)
    q = r.choice([f"Sort these numbers in {way} order:", f"Put the numbers in {way} order:",
                  f"Write the list in {way} order:"])
    return f"{q} {', '.join(map(str, xs))}.\nSorted:", " " + ", ".join(map(str, out)) + "."


def month_days(y, m):
    return (datetime.date(y + m // 12, m % 12 + 1, 1) - datetime.timedelta(days=1)).day


def show_date(d):
    return f"{DAYS[d.weekday()]}, {d.day} {MONTHS[d.month - 1]} {d.year}"


def date(r):
    d = datetime.date(r.randint(1995, 2034), 1, 1) + datetime.timedelta(days=r.randrange(365))
    n = r.randint(2, 30)
    back = r.random() < 0.4
    e = d + datetime.timedelta(days=-n if back else n)
    w, x = divmod(n, 7)
    rel = "before" if back else "after"
    q = r.choice([f"Today is {show_date(d)}. What is the date {n} days {'earlier' if back else 'later'}?",
                  f"Which date is {n} days {rel} {show_date(d)}?",
                  f"Count {n} days {'back' if back else 'forward'} from {show_date(d)}. Which date is it?"])
    s = (f" {n} days are {amount(w, 'week', 'weeks')} and {amount(x, 'day', 'days')}, and {amount(x, 'day', 'days')} {rel} {DAYS[d.weekday()]} is {DAYS[e.weekday()]}. ")
    here = f"{MONTHS[d.month - 1]} {d.year}"
    there = f"{MONTHS[e.month - 1]} {e.year}"
    if not back:
        t, m = d.day + n, month_days(d.year, d.month)
        s += f"{d.day} + {n} = {t}. {here} has {m} days, so "
        s += "the month stays." if t <= m else f"it is {t} - {m} = {t - m} in {there}."
    elif n < d.day:
        s += f"{d.day} - {n} = {d.day - n}, so the month stays."
    else:
        m = month_days(e.year, e.month)
        s += f"{d.day} is not more than {n}. {there} has {m} days, and {d.day} + {m} = {d.day + m}, {d.day + m} - {n} = {e.day}."
    return f"Question: {q}\nAnswer:", f"{s} {MARK} {show_date(e)}."


def lookup(r):
    rows = r.randint(4, 6)
    names, cities = r.sample(NAMES, rows), r.sample(CITIES, rows)
    ages, scores = r.sample(range(18, 80), rows), r.sample(range(10, 100), rows)
    table = "| name | age | city | score |\n|---|---|---|---|\n"
    table += "".join(f"| {n} | {a} | {c} | {s} |\n" for n, a, c, s in zip(names, ages, cities, scores))
    kind = r.randrange(5)
    key = r.choice(["age", "score"])
    col = ages if key == "age" else scores
    i, j = r.sample(range(rows), 2)
    if kind == 0:
        q = f"What are the {key}s of {names[i]} and {names[j]} together?"
        s = (f" The {key} of {names[i]} is {col[i]} and the {key} of {names[j]} is {col[j]}. {col[i]} + {col[j]} = "
             f"{col[i] + col[j]}. {MARK} {col[i] + col[j]}.")
    elif kind == 1:
        if col[i] < col[j]:
            i, j = j, i
        q = f"How much larger is the {key} of {names[i]} than the {key} of {names[j]}?"
        s = (f" The {key} of {names[i]} is {col[i]} and the {key} of {names[j]} is {col[j]}. {col[i]} - {col[j]} = "
             f"{col[i] - col[j]}. {MARK} {col[i] - col[j]}.")
    elif kind == 2:
        high = r.random() < 0.5
        k = col.index(max(col) if high else min(col))
        w = "highest" if high else "lowest"
        q = f"Which city has the person with the {w} {key}?"
        s = (f" The {key}s are {', '.join(map(str, col))}. The {w} is {col[k]}, the {key} of {names[k]}, who lives in "
             f"{cities[k]}. {MARK} {cities[k]}.")
    elif kind == 3:
        q = f"What is the {key} of the person in {cities[i]}, plus {col[j] % 10 + 2}?"
        x = col[j] % 10 + 2
        s = (f" The person in {cities[i]} is {names[i]}, with {key} {col[i]}. {col[i]} + {x} = {col[i] + x}. "
             f"{MARK} {col[i] + x}.")
    else:
        other, oc = ("score", scores) if key == "age" else ("age", ages)
        q = f"Which {other} has the person whose {key} is {col[i]}, and where does that person live?"
        s = f" The {key} {col[i]} belongs to {names[i]}, whose {other} is {oc[i]}. {MARK} {oc[i]}, {cities[i]}."
    return f"{table}Question: {q}\nAnswer:", s


UNITS = [("hour", "hours", "minute", "minutes", 60), ("minute", "minutes", "second", "seconds", 60),
         ("day", "days", "hour", "hours", 24), ("week", "weeks", "day", "days", 7), ("foot", "feet", "inch", "inches", 12),
         ("yard", "yards", "foot", "feet", 3), ("pound", "pounds", "ounce", "ounces", 16),
         ("meter", "meters", "centimeter", "centimeters", 100), ("kilogram", "kilograms", "gram", "grams", 1000),
         ("year", "years", "month", "months", 12), ("gallon", "gallons", "quart", "quarts", 4)]


def unit(r):
    B, Bs, S, Ss, f = r.choice(UNITS)
    n, k = r.randint(2, 12), r.randint(1, f - 1)
    t = n * f + k
    fact = f" 1 {B} is {f} {Ss}."
    kind = r.randrange(4)
    if kind == 0:
        q = f"How many {Ss} are {n} {Bs} and {amount(k, S, Ss)}?"
        s = f"{fact} {n} * {f} = {n * f}, and {n * f} + {k} = {t}. {MARK} {t} {Ss}."
    elif kind == 1:
        q = f"Write {t} {Ss} as {Bs} and {Ss}."
        s = f"{fact} {n} * {f} = {n * f}, and {t} - {n * f} = {k}. {MARK} {n} {Bs} and {amount(k, S, Ss)}."
    elif kind == 2:
        n2 = r.randint(1, 9)
        k2 = r.randint(1, f - 1)
        m = k + k2
        c, z = divmod(m, f)
        q = f"Add {n} {Bs} and {amount(k, S, Ss)} to {amount(n2, B, Bs)} and {amount(k2, S, Ss)}."
        s = f"{fact} {k} + {k2} = {m}, "
        s += f"which is {m} - {f} = {z} and one {B} more. " if c else f"which is less than {f}. "
        s += f"{n} + {n2} = {n + n2}{f', and {n + n2} + 1 = {n + n2 + 1}' if c else ''}. "
        s += f"{MARK} {n + n2 + c} {Bs} and {amount(z, S, Ss)}."
    else:
        o = max(1, t + r.choice([-1, 1]) * r.randint(1, 30))
        q = f"Which is more, {n} {Bs} and {amount(k, S, Ss)} or {o} {Ss}, and by how many {Ss}?"
        s = f"{fact} {n} * {f} = {n * f}, and {n * f} + {k} = {t}. "
        hi, lo, which = (t, o, "first") if t > o else (o, t, "second")
        s += f"The {which} is more: {hi} - {lo} = {hi - lo}. {MARK} the {which}, by {hi - lo} {Ss}."
    return f"Question: {q}\nAnswer:", s


def code(r):
    """Programs of at most six lines over values 0..99; the answer is the trace of every assignment."""
    a, b, c = r.sample("abcdefghkmnpqstuvwxyz", 3)
    kind = r.randrange(4)
    if kind == 0:  # straight line
        v = {a: r.randint(1, 30), b: r.randint(1, 30)}
        lines = [f"{a} = {v[a]}", f"{b} = {v[b]}"]
        trace = [f"{a} = {v[a]}", f"{b} = {v[b]}"]
        last = b
        for target in r.sample([a, b, c, c], r.randint(2, 3)):
            x = r.choice([a, b] if c not in v else [a, b, c])
            y = r.choice([k for k in v if k != x] + [str(r.randint(2, 12))])
            vy = v[y] if y in v else int(y)
            ops = [o for o, ok in (("+", v[x] + vy < 100), ("-", v[x] >= vy),
                                   ("*", v[x] * vy < 100 and min(v[x], vy) < 10)) if ok]
            if not ops:
                continue
            o = r.choice(ops)
            z = {"+": v[x] + vy, "-": v[x] - vy, "*": v[x] * vy}[o]
            lines.append(f"{target} = {x} {o} {y}")
            trace.append(f"{target} = {v[x]} {o} {vy} = {z}")
            v[target], last = z, target
        out = r.choice([last] + list(v))
        res = v[out]
    elif kind == 1:  # a loop that adds or subtracts
        n, step = r.randint(2, 5), r.randint(2, 12)
        o = r.choice("+-")
        x = r.randint(1, 30) if o == "+" else n * step + r.randint(0, 30)
        lines = [f"{a} = {x}", f"for i in range({n}):", f"    {a} = {a} {o} {step}"]
        trace = [f"{a} = {x}"]
        for _ in range(n):
            z = x + step if o == "+" else x - step
            trace.append(f"{a} = {x} {o} {step} = {z}")
            x = z
        out, res = a, x
    elif kind == 2:  # a branch
        x, y, k, j = r.randint(1, 50), r.randint(1, 50), r.randint(2, 30), r.randint(2, 30)
        lines = [f"{a} = {x}", f"{b} = {y}", f"if {a} > {b}:", f"    {c} = {a} + {k}", "else:", f"    {c} = {b} + {j}"]
        trace = [f"{a} = {x}", f"{b} = {y}"]
        if x > y:
            res = x + k
            trace += [f"{a} > {b} is true", f"{c} = {x} + {k} = {res}"]
        else:
            res = y + j
            trace += [f"{a} > {b} is false", f"{c} = {y} + {j} = {res}"]
        out = c
    else:  # a sum over a list
        xs = [r.randint(1, 25) for _ in range(r.randint(3, 4))]
        lines = [f"{a} = {xs}", f"{b} = 0", f"for x in {a}:", f"    {b} = {b} + x"]
        trace, x = [f"{b} = 0"], 0
        if a == "x" or b == "x":
            return code(r)
        for y in xs:
            trace.append(f"{b} = {x} + {y} = {x + y}")
            x += y
        out, res = b, x
    lines.append(f"print({out})")
    program = "\n".join(lines)
    return f"What does this program print?\n```\n{program}\n```\nAnswer:", f" {'. '.join(trace)}. {MARK} {res}."


ROMAN = [(["", "M", "MM", "MMM"], 1000), (["", "C", "CC", "CCC", "CD", "D", "DC", "DCC", "DCCC", "CM"], 100),
         (["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"], 10),
         (["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"], 1)]


def numeral(n):
    """The decimal parts of n with their numerals, largest first."""
    parts = []
    for digits, size in ROMAN:
        d, n = divmod(n, size)
        if d:
            parts.append((d * size, digits[d]))
    return parts


def roman(r):
    n, m = r.randint(11, 3999), r.randint(11, 3999)
    q = r.choice([f"Write {n} and {m} in Roman numerals.", f"What are {n} and {m} as Roman numerals?",
                  f"How are the numbers {n} and {m} written in Roman numerals?"])
    s = " ".join(f"{x}: {', '.join(f'{v} is {t}' for v, t in numeral(x))}." for x in (n, m))
    a, b = ("".join(t for _, t in numeral(x)) for x in (n, m))
    return f"Question: {q}\nAnswer:", f" {s} {MARK} {a} and {b}."


FAMILIES = {"word": word, "json": to_json, "sort": sort, "date": date, "lookup": lookup, "unit": unit, "code": code}
WITHHELD = {"roman": roman}  # only the specialised draft trains on it
ALL = {**FAMILIES, **WITHHELD}


def is_held_out(prompt):
    return zlib.crc32(prompt.encode()) % 32 == HELD_OUT


def instances(family, seed, count, held_out=False):
    """`count` instances of one family, in the order of the seed; training and held-out never share a prompt."""
    r = random.Random(f"{family}/{seed}")
    seen = set()
    while count:
        prompt, answer = ALL[family](r)
        if is_held_out(prompt) != held_out or (held_out and prompt in seen):
            continue
        seen.add(prompt) if held_out else None
        count -= 1
        yield prompt, answer


def final(text):
    """The part of an answer that the exact check compares."""
    return text.rsplit(MARK, 1)[-1].strip().rstrip(".")


def encode(tokenizer, pairs, end):
    """One uint16 stream of prompt + answer + end per pair; the tokens of prompts carry PROMPT_BIT."""
    import numpy as np
    pairs = list(pairs)
    prompts = tokenizer.encode_batch([p for p, _ in pairs], add_special_tokens=False)
    answers = tokenizer.encode_batch([a for _, a in pairs], add_special_tokens=False)
    return np.concatenate([np.array([i | PROMPT_BIT for i in p.ids] + a.ids + [end], np.uint16)
                           for p, a in zip(prompts, answers)])


def main():
    p = argparse.ArgumentParser(description="held-out task instances as JSON lines")
    p.add_argument("--family", choices=list(ALL), action="append", help="default: every family the target trains on")
    p.add_argument("--count", type=int, default=100, help="instances per family")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    for family in a.family or FAMILIES:
        for i, (prompt, answer) in enumerate(instances(family, a.seed, a.count, held_out=True)):
            print(json.dumps({"id": f"{family}-{i}", "category": family, "prompt": prompt, "answer": answer,
                              "final": final(answer)}))


if __name__ == "__main__":
    main()
