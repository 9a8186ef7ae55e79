"""Checks the generated tasks against something that did not generate them: Python runs the programs, datetime counts the
days, every equation is worked out, tables and orders are read back from the prompt.

    python3 tasks_test.py
"""

import contextlib
import datetime
import io
import json
import operator
import re
import unittest

import tasks

COUNT = 2000
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def number(text):
    return int(re.search(r"\d+", text).group())


class Tasks(unittest.TestCase):
    def instances(self, family, held_out=False):
        return tasks.instances(family, "test", COUNT, held_out)

    def test_every_family(self):
        for family in tasks.ALL:
            for prompt, answer in self.instances(family):
                self.assertEqual(prompt, prompt.rstrip())
                self.assertTrue(answer.startswith(" ") and not answer.startswith("  "), answer)
                self.assertNotIn("  ", answer.strip())
                self.assertFalse(tasks.is_held_out(prompt))
                self.assertTrue(tasks.final(answer))

    def test_held_out_and_training_share_no_prompt(self):
        for family in tasks.ALL:
            held_out = {p for p, _ in self.instances(family, True)}
            self.assertEqual(len(held_out), COUNT)
            self.assertFalse(held_out & {p for p, _ in self.instances(family)})

    def test_equations_hold(self):
        for family in ("word", "date", "lookup", "unit", "code"):
            seen = 0
            for _, answer in self.instances(family):
                for a, o, b, c in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", answer):
                    self.assertEqual(int(c), OPERATIONS[o](int(a), int(b)), answer)
                    seen += 1
            self.assertGreater(seen, COUNT / 2)

    def test_word_ends_on_its_last_sum(self):
        for _, answer in self.instances("word"):
            self.assertEqual(re.findall(r"= (\d+)", answer)[-1], tasks.final(answer))

    def test_json_says_what_the_text_says(self):
        for prompt, answer in self.instances("json"):
            v, text = json.loads(answer), prompt.split("Text: ")[1].split("\nJSON:")[0]
            self.assertIn(v["name"], text)
            self.assertIn(v["city"], text)
            day = datetime.date.fromisoformat(v["date"])
            self.assertIn(f"{day.day} {day:%B} {day.year}", text)
            for i in v["items"]:
                self.assertRegex(text, rf"{tasks.NUMBERS[i['quantity']]} {i['item']}s")
                self.assertIn(f"{i['price']} dollars", text)
                self.assertEqual(i["cost"], i["quantity"] * i["price"])
            self.assertEqual(v["total"], sum(i["cost"] for i in v["items"]))

    def test_sort(self):
        for prompt, answer in self.instances("sort"):
            xs = [int(x) for x in re.findall(r"\d+", prompt)]
            down = re.search("descending|decreasing", prompt) is not None
            self.assertEqual([int(x) for x in re.findall(r"\d+", answer)], sorted(xs, reverse=down))

    def test_date_counts_as_datetime_does(self):
        day = r"(\d+) ([A-Z][a-z]+)"
        read = lambda d, m, y: datetime.datetime.strptime(f"{d} {m} {y}", "%d %B %Y").date()
        for prompt, answer in self.instances("date"):
            start = read(*re.search(day + r" (\d{4})", prompt).groups())
            if "How many days later" in prompt:
                end = read(*re.search("later is " + day, prompt).groups(), start.year)
                n = (end - start).days
                self.assertEqual(tasks.final(answer), f"{n} day{'' if n == 1 else 's'}, {end:%A}")
            else:
                n = int(re.search(r"(\d+) days", prompt).group(1))
                end = start + datetime.timedelta(days=-n if re.search("earlier|before|back", prompt) else n)
                self.assertEqual(tasks.final(answer), f"{end:%A}, {end.day} {end:%B} {end.year}")
            self.assertIn(f"{start:%A}", prompt)

    def test_lookup_reads_the_table(self):
        for prompt, answer in self.instances("lookup"):
            rows = [dict(zip(("name", "age", "city", "score"), (c.strip() for c in line.strip("|").split("|"))))
                    for line in prompt.split("\n")[2:] if line.startswith("|")]
            question, got = prompt.split("Question: ")[1], tasks.final(answer)
            key = re.search("age|score", question).group()
            by = lambda k, v: next(r for r in rows if r[k] == v)
            if "together" in question or "How much larger" in question:
                x, y = (int(r[key]) for r in sorted((r for r in rows if re.search(rf"\b{r['name']}\b", question)),
                                                    key=lambda r: question.index(f" {r['name']}")))
                self.assertEqual(int(got), x + y if "together" in question else x - y)
            elif "the person with the" in question:
                pick = max if "highest" in question else min
                self.assertEqual(got, pick(rows, key=lambda r: int(r[key]))["city"])
            elif "plus" in question:
                city, plus = re.search(r"person in (\w+), plus (\d+)", question).groups()
                self.assertEqual(int(got), int(by("city", city)[key]) + int(plus))
            else:
                known, value = re.search(r"whose (\w+) is (\d+)", question).groups()
                row = by(known, value)
                self.assertEqual(got, f"{row[key]}, {row['city']}")

    def test_unit(self):
        size = {}
        for one, many, small, smalls, f in tasks.UNITS:
            for n in (one, many):
                size[n, small] = size[n, smalls] = f
        pair = r"(\d+) (\w+) and (\d+) (\w+)"
        total = lambda n, big, k, small: int(n) * size[big, small] + int(k)
        for prompt, answer in self.instances("unit"):
            got, found = tasks.final(answer), re.findall(pair, prompt)
            if "How many" in prompt:
                self.assertEqual(number(got), total(*found[0]))
            elif "Write" in prompt:
                self.assertEqual(total(*re.findall(pair, got)[0]), number(prompt))
            elif "Add" in prompt:
                self.assertEqual(total(*re.findall(pair, got)[0]), sum(total(*x) for x in found))
            else:
                other = int(re.search(r"or (\d+)", prompt).group(1))
                diff = total(*found[0]) - other
                self.assertEqual(got.split(" ")[:4], ["the", "first," if diff > 0 else "second,", "by", str(abs(diff))])

    def test_code_prints_what_python_prints(self):
        for prompt, answer in self.instances("code"):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(prompt.split("```")[1], {})  # the generator's own few lines of arithmetic
            self.assertEqual(tasks.final(answer), out.getvalue().strip(), prompt)

    def test_roman(self):
        values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}

        def read(text):
            ds = [values[c] for c in text]
            return sum(-a if a < b else a for a, b in zip(ds, ds[1:] + [0]))

        for prompt, answer in self.instances("roman"):
            self.assertEqual([read(x) for x in tasks.final(answer).split(" and ")],
                             [int(x) for x in re.findall(r"\d+", prompt)])


if __name__ == "__main__":
    unittest.main()
