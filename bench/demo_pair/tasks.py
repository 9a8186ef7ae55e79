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
    """Three or four steps; every sum that a step needs stands before it."""
    a, b, c = r.sample(NAMES, 3)
    item, box = r.choice(ITEMS), r.choice(BOXES)
    kind = r.randrange(6)
    if kind == 0:
        loose = r.random() < 0.7
        n, m = r.randint(3, 48), r.randint(3, 9)
        k, j = r.randint(11, 199) if loose else 0, r.randint(11, 250)
        p = n * m
        g = r.randint(2, p + k - 1)
        q = (f"{a} has {n} {box} with {m} {item} in each{f' and {k} more {item}' if loose else ''}. {a} gives away {g} {item} "
             f"and then buys {j} more. How many {item} does {a} have now?")
        s = f" {a} starts with {n} * {m} = {p} {item}. "
        s += f"With the {k} more that is {p} + {k} = {p + k}. " if loose else ""
        p += k
        s += (f"After giving away {g}, {p} - {g} = {p - g} are left. After buying {j} more, there are "
              f"{p - g} + {j} = {p - g + j}. {MARK} {p - g + j}.")
    elif kind == 1:
        x, d = r.randint(25, 150), r.randint(12, 120)
        y = x + d
        z = 2 * y
        q = (f"{a} picked {x} {item}. {b} picked {d} more than {a}, and {c} picked twice as many as {b}. "
             f"How many {item} did they pick together?")
        s = (f" {b} picked {x} + {d} = {y} {item}. {c} picked 2 * {y} = {z} {item}. Together {a} and {b} picked "
             f"{x} + {y} = {x + y}. With {c} that makes {x + y} + {z} = {x + y + z}. {MARK} {x + y + z}.")
    elif kind == 2:
        g, h = r.sample(GOODS, 2)
        p, o, n, m = r.randint(6, 39), r.randint(6, 39), r.randint(3, 12), r.randint(3, 12)
        t = n * p + m * o
        pay = t + r.randint(3, 250)
        q = (f"A {g} costs {p} dollars and a {h} costs {o} dollars. {a} has {pay} dollars and buys {n} {g}s and {m} {h}s. "
             f"How many dollars does {a} have left?")
        s = (f" The {g}s cost {n} * {p} = {n * p} dollars. The {h}s cost {m} * {o} = {m * o} dollars. Together that is "
             f"{n * p} + {m * o} = {t} dollars. {a} has {pay} - {t} = {pay - t} dollars left. {MARK} {pay - t}.")
    elif kind == 3:
        n, d, k, j = r.randint(12, 45), r.randint(3, 9), r.randint(15, 120), r.randint(15, 120)
        t = n * d + k + j + r.randint(1, 250)
        left = t - n * d
        q = (f"{a} reads a book of {t} pages. {a} reads {n} pages a day for {d} days, then {k} pages on one evening and {j} "
             f"pages on the next. How many pages are left?")
        s = (f" In {d} days {a} reads {d} * {n} = {n * d} pages. Then {t} - {n * d} = {left} pages are left. After one evening "
             f"{left} - {k} = {left - k} pages are left. After the next {left - k} - {j} = {left - k - j} pages are left. "
             f"{MARK} {left - k - j}.")
    elif kind == 4:
        m, v = r.randint(3, 9), r.randint(12, 60)
        k, j = r.randint(25, 400), r.randint(12, 300)
        g = r.randint(2, v + k + j - 1)
        x = v + k + j
        q = (f"{a} shares {m * v} {item} equally among {m} friends. {b} is one of them. {b} finds {k} more, gets {j} from {c} "
             f"and loses {g}. How many {item} does {b} have?")
        s = (f" Each friend gets {m * v} / {m} = {v} {item}. After finding {k} more, {b} has {v} + {k} = {v + k}. "
             f"With those from {c}, {b} has {v + k} + {j} = {x}. After losing {g}, {b} has {x} - {g} = {x - g}. {MARK} {x - g}.")
    else:
        x, d = r.randint(120, 480), r.randint(35, 250)
        e, f = r.randint(20, x - 30), r.randint(12, 150)
        y, z = x + d, x + d - e
        q = (f"{a}'s school has {x} pupils. {b}'s school has {d} more than {a}'s, and {c}'s school has {e} fewer than {b}'s. "
             f"Then {f} new pupils come to {c}'s school. How many has it now?")
        s = (f" {b}'s school has {x} + {d} = {y} pupils. {c}'s school has {y} - {e} = {z} pupils. After the new pupils it has "
             f"{z} + {f} = {z + f}. {MARK} {z + f}.")
    return f"Question: {q}\nAnswer:", s


def to_json(r):
    """An order of two goods; each cost is a product, and the total is the sum of the costs that stand before it."""
    name = f"{r.choice(NAMES)} {r.choice(LAST)}"
    city = r.choice(CITIES)
    y, m, d = r.randint(1995, 2034), r.randint(1, 12), r.randint(1, 28)
    date = f"{d} {MONTHS[m - 1]} {y}"
    goods = [(g, r.randint(2, 12), r.randint(6, 49)) for g in r.sample(GOODS, 2)]
    (g, n, p), (h, k, o) = goods
    text = r.choice([
        f"{name} from {city} ordered {NUMBERS[n]} {g}s at {p} dollars each and {NUMBERS[k]} {h}s at {o} dollars each on {date}.",
        f"On {date}, {NUMBERS[n]} {g}s for {p} dollars apiece and {NUMBERS[k]} {h}s for {o} dollars apiece were sent to {name} "
        f"in {city}.",
        f"An order of {date}: {NUMBERS[n]} {g}s, {p} dollars apiece, and {NUMBERS[k]} {h}s, {o} dollars apiece, for {name}, "
        f"{city}.",
        f"{name} lives in {city} and paid {p} dollars for each of {NUMBERS[n]} {g}s and {o} dollars for each of {NUMBERS[k]} "
        f"{h}s; the date was {date}.",
    ])
    values = {"name": name, "city": city, "date": f"{y}-{m:02}-{d:02}",
              "items": [{"item": g, "quantity": n, "price": p, "cost": n * p} for g, n, p in goods], "total": n * p + k * o}
    return f"Write this order as JSON.\nText: {text}\nJSON:", " " + json.dumps(values)


def sort(r):
    xs = r.sample(range(1, 100), r.randint(7, 11))
    up = r.random() < 0.5
    way = r.choice(["ascending", "increasing"]) if up else r.choice(["descending", "decreasing"])
    out = sorted(xs, reverse=not up)
    q = r.choice([f"Sort these numbers in {way} order:", f"Put the numbers in {way} order:",
                  f"Write the list in {way} order:"])
    return f"{q} {', '.join(map(str, xs))}.\nSorted:", " " + ", ".join(map(str, out)) + "."


def show_day(d):
    return f"{d.day} {MONTHS[d.month - 1]}"


def show_date(d):
    return f"{DAYS[d.weekday()]}, {show_day(d)} {d.year}"


def before_month(d):
    """Days of the year before the month of d."""
    return (d.replace(day=1) - d.replace(month=1, day=1)).days


def day_of_year(d):
    """The day's number in its year, as a step of an answer."""
    return f"{before_month(d)} + {d.day} = {before_month(d) + d.day}"


def date(r):
    """Dates by the number of the day in its year."""
    d = datetime.date(r.randint(1995, 2034), 1, 1) + datetime.timedelta(days=r.randrange(365))
    size = lambda y: (datetime.date(y + 1, 1, 1) - datetime.date(y, 1, 1)).days
    s = f" {d.year} has {size(d.year)} days. "
    at = before_month(d) + d.day
    if r.random() < 0.4:
        e = datetime.date(d.year, 1, 1) + datetime.timedelta(days=r.randrange(365))
        if e == d:
            return date(r)
        d, e = min(d, e), max(d, e)
        n = (e - d).days
        q = f"{show_day(d)} {d.year} is a {DAYS[d.weekday()]}. How many days later is {show_day(e)}, and which day of the week is it?"
        s += f"{show_day(d)} is day {day_of_year(d)}, and {show_day(e)} is day {day_of_year(e)}. "
        s += f"{before_month(e) + e.day} - {before_month(d) + d.day} = {n}. "
        back, end = False, f"{amount(n, 'day', 'days')}, {DAYS[e.weekday()]}"
    else:
        n = r.randint(8, 250)
        back = r.random() < 0.4
        e = d + datetime.timedelta(days=-n if back else n)
        q = r.choice([f"Today is {show_date(d)}. What is the date {n} days {'earlier' if back else 'later'}?",
                      f"Which date is {n} days {'before' if back else 'after'} {show_date(d)}?",
                      f"Count {n} days {'back' if back else 'forward'} from {show_date(d)}. Which date is it?"])
        s += f"{show_day(d)} is day {day_of_year(d)}. "
        if not back:
            t = at + n
            s += f"{at} + {n} = {t}. "
            if e.year == d.year:
                s += f"{t} is in {e.year}. "
            else:
                s += f"{t} is after {d.year}, and {t} - {size(d.year)} = {t - size(d.year)} in {e.year}. "
        elif e.year == d.year:
            s += f"{n} is less than {at}, and {at} - {n} = {at - n}. "
        else:
            z = size(e.year)
            s += f"{n} is not less than {at}. {e.year} has {z} days, {at} + {z} = {at + z}, and {at + z} - {n} = {at + z - n}. "
        x = before_month(e) + e.day
        s += f"Day {x} is {x} - {before_month(e)} = {show_day(e)}. "
        end = show_date(e)
    w, x = divmod(n, 7)
    s += (f"{amount(n, 'day', 'days')} are {amount(w, 'week', 'weeks')} and {amount(x, 'day', 'days')}, and "
          f"{amount(x, 'day', 'days')} {'before' if back else 'after'} {DAYS[d.weekday()]} is {DAYS[e.weekday()]}.")
    return f"Question: {q}\nAnswer:", f"{s} {MARK} {end}."


def lookup(r):
    """Rows are copied from the table before they are read. A row that is known by a later cell is found by copying the table
    down to it, with a verdict after each row, since a model reads on from a cell far more easily than back from it."""
    rows = r.randint(4, 6)
    names, cities = r.sample(NAMES, rows), r.sample(CITIES, rows)
    ages, scores = r.sample(range(18, 80), rows), r.sample(range(10, 100), rows)
    lines = [f"| {n} | {a} | {c} | {s} |" for n, a, c, s in zip(names, ages, cities, scores)]
    table = "| name | age | city | score |\n|---|---|---|---|\n" + "".join(f"{x}\n" for x in lines)
    kind = r.randrange(5)
    key, other = r.sample(["age", "score"], 2)
    col, oc = (ages, scores) if key == "age" else (scores, ages)
    i, j = r.sample(range(rows), 2)

    def until(cells):
        """The rows down to row i, each with its cell and what that is."""
        return "\n".join([f"{x} {c} is not {cells[i]}" for x, c in zip(lines[:i], cells)] + [f"{lines[i]} {cells[i]} found"])

    if kind == 0:
        q = f"What are the {key}s of {names[i]} and {names[j]} together?"
        s = f" The two rows:\n{lines[i]}\n{lines[j]}\nThe {key}s are {col[i]} and {col[j]}. "
        s += f"{col[i]} + {col[j]} = {col[i] + col[j]}. {MARK} {col[i] + col[j]}."
    elif kind == 1:
        if col[i] < col[j]:
            i, j = j, i
        q = f"How much larger is the {key} of {names[i]} than the {key} of {names[j]}?"
        s = f" The two rows:\n{lines[i]}\n{lines[j]}\nThe {key}s are {col[i]} and {col[j]}. "
        s += f"{col[i]} - {col[j]} = {col[i] - col[j]}. {MARK} {col[i] - col[j]}."
    elif kind == 2:
        high = r.random() < 0.5
        w = "highest" if high else "lowest"
        q = f"Which city has the person with the {w} {key}?"
        s, k = " The rows, each with the best so far:\n", 0
        for n, line in enumerate(lines):
            k = n if (col[n] > col[k] if high else col[n] < col[k]) else k
            s += f"{line} {col[k]} {cities[k]}\n"
        s += f"The {w} {key} is {col[k]}, in {cities[k]}. {MARK} {cities[k]}."
    elif kind == 3:
        x = r.randint(11, 99)
        q = f"What is the {key} of the person in {cities[i]}, plus {x}?"
        s = f" The rows until {cities[i]}:\n{until(cities)}\nThe {key} is {col[i]}. "
        s += f"{col[i]} + {x} = {col[i] + x}. {MARK} {col[i] + x}."
    else:
        q = f"Which {other} has the person whose {key} is {col[i]}, and where does that person live?"
        s = f" The rows until {key} {col[i]}:\n{until(col)}\nThe {other} is {oc[i]} and the city is {cities[i]}. "
        s += f"{MARK} {oc[i]}, {cities[i]}."
    return f"{table}Question: {q}\nAnswer:", s


UNITS = [("hour", "hours", "minute", "minutes", 60), ("minute", "minutes", "second", "seconds", 60),
         ("day", "days", "hour", "hours", 24), ("week", "weeks", "day", "days", 7), ("foot", "feet", "inch", "inches", 12),
         ("yard", "yards", "foot", "feet", 3), ("pound", "pounds", "ounce", "ounces", 16),
         ("meter", "meters", "centimeter", "centimeters", 100), ("kilogram", "kilograms", "gram", "grams", 1000),
         ("year", "years", "month", "months", 12), ("gallon", "gallons", "quart", "quarts", 4)]


def unit(r):
    B, Bs, S, Ss, f = r.choice(UNITS)
    n, k = r.randint(2, 9 if f == 1000 else 39), r.randint(1, f - 1)
    t = n * f + k
    fact = f" 1 {B} is {f} {Ss}."
    kind = r.choices(range(4), (2, 2, 3, 4))[0]
    if kind == 0:
        q = f"How many {Ss} are {n} {Bs} and {amount(k, S, Ss)}?"
        s = f"{fact} {n} * {f} = {n * f}, and {n * f} + {k} = {t}. {MARK} {t} {Ss}."
    elif kind == 1:
        q = f"Write {t} {Ss} as {Bs} and {Ss}."
        s = f"{fact} {n} * {f} = {n * f}, and {t} - {n * f} = {k}. {MARK} {n} {Bs} and {amount(k, S, Ss)}."
    elif kind == 2:
        n2 = r.randint(2, 39)
        k2 = r.randint(1, f - 1)
        m = k + k2
        c, z = divmod(m, f)
        q = f"Add {n} {Bs} and {amount(k, S, Ss)} to {amount(n2, B, Bs)} and {amount(k2, S, Ss)}."
        s = f"{fact} {k} + {k2} = {m}, "
        s += f"which is {m} - {f} = {z} and one {B} more. " if c else f"which is less than {f}. "
        s += f"{n} + {n2} = {n + n2}{f', and {n + n2} + 1 = {n + n2 + 1}' if c else ''}. "
        s += f"{MARK} {n + n2 + c} {Bs} and {amount(z, S, Ss)}."
    else:
        o = max(1, t + r.choice([-1, 1]) * r.randint(1, min(150, t // 2)))
        q = f"Which is more, {n} {Bs} and {amount(k, S, Ss)} or {o} {Ss}, and by how many {Ss}?"
        s = f"{fact} {n} * {f} = {n * f}, and {n * f} + {k} = {t}. "
        hi, lo, which = (t, o, "first") if t > o else (o, t, "second")
        s += f"{t} is {'more' if t > o else 'less'} than {o}, so the {which} is more. {hi} - {lo} = {hi - lo}. {MARK} the {which}, by {hi - lo} {Ss}."
    return f"Question: {q}\nAnswer:", s


def state(v):
    return ", ".join(f"{k} is {x}" for k, x in v.items())


def code(r):
    """Short programs over values 0..999; the answer is a trace. What a line needs is said as "a is 12", and so is the state
    after it: the last "a is" in the text is then always the value of a."""
    a, b, c = r.sample("abcdefghkmnpqstuvwyz", 3)
    kind = r.choices(range(4), (3, 2, 2, 2))[0]
    if kind == 0:  # straight line
        v = {a: r.randint(12, 350), b: r.randint(12, 250)}
        lines = [f"{n} = {x}" for n, x in v.items()]
        trace, end = [state(v)], len(lines) + r.randint(2, 3)
        while len(lines) < end:
            target, x = r.choice([a, b, c, c]), r.choice(list(v))
            y = r.choice([k for k in v if k != x] + [r.randint(2, 9), r.randint(11, 99)])
            left, right = v[x], v.get(y, y)
            ops = [(o, z) for o, z, ok in (("+", left + right, left + right < 1000), ("-", left - right, left >= right),
                                           ("*", left * right, right < 10 and left * right < 1000)) if ok]
            if not ops:
                continue
            o, z = r.choice(ops)
            needed = state({k: v[k] for k in (x, y) if k in v})
            v[target] = z
            lines.append(f"{target} = {x} {o} {y}")
            trace.append(f"{lines[-1]}: {needed}, {left} {o} {right} = {z}, {state(v)}")
        out = r.choice(list(v))
        res = v[out]
    elif kind == 1 and r.random() < 0.3:  # a loop over one variable
        n, k, o = r.randint(2, 5), r.randint(2, 60), r.choice("+-")
        x = r.randint(1, 300) if o == "+" else n * k + r.randint(0, 300)
        lines = [f"{a} = {x}", f"for i in range({n}):", f"    {a} = {a} {o} {k}"]
        trace = [f"{a} is {x}"]
        for i in range(n):
            z = x + k if o == "+" else x - k
            trace.append(f"i is {i}, {x} {o} {k} = {z}, {a} is {z}")
            x = z
        out, res = a, x
    elif kind == 1:  # a loop over two variables
        n, x, y, k = r.randint(2, 3), r.randint(12, 300), r.randint(12, 120), r.randint(11, 80)
        lines = [f"{a} = {x}", f"{b} = {y}", f"for i in range({n}):", f"    {a} = {a} + {b}", f"    {b} = {b} + {k}"]
        trace = [f"{a} is {x}, {b} is {y}"]
        for i in range(n):
            trace.append(f"i is {i}, {x} + {y} = {x + y}, {y} + {k} = {y + k}, {a} is {x + y}, {b} is {y + k}")
            x, y = x + y, y + k
        out, res = r.choice([(a, x), (a, x), (b, y)])
    elif kind == 2:  # a branch
        x, y, k = r.randint(12, 400), r.randint(12, 400), r.randint(12, 150)
        lines = [f"{a} = {x}", f"{b} = {y}", f"if {a} > {b}:", f"    {c} = {a} - {b}", "else:", f"    {c} = {a} + {b}",
                 f"{c} = {c} + {k}"]
        o, z = ("-", x - y) if x > y else ("+", x + y)
        trace = [f"{a} is {x}, {b} is {y}", f"{x} > {y} is {'true' if x > y else 'false'}, {x} {o} {y} = {z}, {c} is {z}",
                 f"{z} + {k} = {z + k}, {c} is {z + k}"]
        out, res = c, z + k
    else:  # a list, with a condition on its values
        xs = [r.randint(11, 99) for _ in range(r.randint(3, 4))]
        k, x = r.randint(15, 75), r.randint(0, 300)
        lines = [f"{a} = {xs}", f"{b} = {x}", f"for x in {a}:", f"    if x > {k}:", f"        {b} = {b} + x"]
        trace = [f"{b} is {x}"]
        for y in xs:
            trace.append(f"{y} > {k} is " + (f"true, {x} + {y} = {x + y}, {b} is {x + y}" if y > k else "false"))
            x += y if y > k else 0
        out, res = b, x
    lines.append(f"print({out})")
    trace.append(f"print({out}): {out} is {res}")
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
