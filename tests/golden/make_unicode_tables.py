"""Writes runtime/model/unicode_tables.inc: what Hugging Face `tokenizers` knows of Unicode, by asking it.

  python make_unicode_tables.py OUTPUT

Two tables of two Unicode versions, both found by probing the library rather than by reading the standard:
- canonical decompositions, combining classes and compositions of its NFC (Unicode 9);
- the code points that its regexes (Unicode 16) give a general category and PCRE2 10.42 (Unicode 14) does not.
Needs Python 3.11, whose unicodedata is Unicode 14 like PCRE2 10.42.
"""

import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp".split()
MOVED = {0x1171E}  # from Mn to Mc, the one move: \p{Mn} and \p{Mc} are wrong for it, \p{M} is right
LINE = 110


def decompositions():
    """(composite, first, second or 0), one step each, Hangul excepted."""
    nfd = normalizers.NFD()
    rows = []
    for c in CODE_POINTS:
        mapping = unicodedata.decomposition(chr(c))
        if mapping and not mapping.startswith("<") and nfd.normalize_str(chr(c)) != chr(c):
            parts = [int(p, 16) for p in mapping.split()]
            rows.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
    return rows


def combining_classes():
    """(first, last, class) of every run that the library reorders."""
    nfd = normalizers.NFD()

    def moves(c):  # U+0345 has the highest class, 240, and U+0334 the lowest, 1
        return (nfd.normalize_str(f"a\u0345{chr(c)}") != f"a\u0345{chr(c)}"
                or nfd.normalize_str(f"a{chr(c)}\u0334") != f"a{chr(c)}\u0334")

    rows = []
    for c in CODE_POINTS:
        value = unicodedata.combining(chr(c))
        if value == 0 or not (moves(c) or c in (0x334, 0x345)):
            continue
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == value:
            rows[-1] = (rows[-1][0], c, value)
        else:
            rows.append((c, c, value))
    return rows


def compositions(rows):
    """Indices into the decompositions, ordered by (first, second), of the pairs that compose."""
    nfc = normalizers.NFC()
    kept = [i for i, (c, a, b) in enumerate(rows) if b and nfc.normalize_str(chr(a) + chr(b)) == chr(c)]
    return sorted(kept, key=lambda i: rows[i][1:])


def matched(pattern):
    """The code points that `pattern`, of one character, matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", False)
    found = set()
    for begin in range(0, len(CODE_POINTS), 4096):
        chunk = CODE_POINTS[begin:begin + 4096]
        kept = set()
        for _, (a, b) in split.pre_tokenize_str("".join(map(chr, chunk))):
            kept.update(range(a, b))
        found.update(c for i, c in enumerate(chunk) if i not in kept)
    return found


def later_categories():
    """(first, last, category) of the code points that Unicode 14 leaves unassigned."""
    rows = []
    for category in CATEGORIES:
        for c in sorted(matched(r"\p{%s}" % category)):
            if unicodedata.category(chr(c)) != "Cn":
                assert unicodedata.category(chr(c)) == category or c in MOVED, hex(c)
                continue
            if rows and rows[-1][1] == c - 1 and rows[-1][2] == category:
                rows[-1] = (rows[-1][0], c, category)
            else:
                rows.append((c, c, category))
    return sorted(rows)


def array(kind, name, items):
    lines, line = [f"constexpr {kind} {name}[] = {{"], "   "
    for item in items:
        if len(line) + len(item) + 2 > LINE:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join(lines + [line, "};\n"])


def main():
    rows = decompositions()
    classes = combining_classes()
    composing = compositions(rows)
    marks = {c for a, b, _ in classes for c in range(a, b + 1)}
    starters = sorted({rows[i][2] for i in composing} - marks)
    parts = [
        "// Written by tests/golden/make_unicode_tables.py. Do not edit.\n",
        array("Decomposition", "kDecompositions", ["{0x%X,0x%X,0x%X}" % row for row in rows]),
        array("uint16_t", "kCompositions", [str(i) for i in composing]),
        array("char32_t", "kComposingStarters", ["0x%X" % c for c in starters]),
        array("CombiningClass", "kCombiningClasses", ["{0x%X,0x%X,%d}" % row for row in classes]),
        array("LaterCategory", "kLaterCategories",
              ["{0x%X,0x%X,'%s','%s'}" % (a, b, *category) for a, b, category in later_categories()]),
    ]
    with open(sys.argv[1], "w", encoding="ascii") as out:
        out.write("\n".join(parts))


main()
