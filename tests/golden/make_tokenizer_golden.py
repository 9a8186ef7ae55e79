"""Writes tests/golden/tokenizer: small byte-level BPE tokenizers and what Hugging Face makes of texts.

  python make_tokenizer_golden.py OUTPUT_FOLDER

Made with tokenizers 0.23.3 on Python 3.11. The same versions write the same bytes.

  *.tokenizer.json  the tokenizers
  texts.json        the texts, each a string or [string, n]: the string n times
  *.expected.json   prefix, suffix: what special tokens add to every text;
                    encode: for each text [ids, decoded, decoded without special tokens];
                    decode: [ids, decoded, decoded without special tokens] of random ids.
                    null: the same as the one before, or as the text. Long ones: see short_ids, short_text
  invalid_utf8.json [bytes in hex, offset of the first invalid byte]
  unicode.json      ranges of code points that a pattern matches; hashes of NFC over all code points
  splits.json       what patterns and behaviours cut texts into
"""

import copy
import json
import pathlib
import random
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import AddedToken

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|"
         rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = [
    "The draft proposes a block of tokens and the target scores it in one pass, so the rule keeps some.",
    "A small model isn't always wrong; it's just less sure than the larger one, and they'll agree mostly.",
    "We've measured it: the speed-up doesn't come from luck, it comes from reading weights once for many.",
    "def settle(rows, base, n_keep):\n    for i in range(len(rows)):\n        rows[i] = min(rows[i], base)\n",
    "int main(void) {\n\tfor (size_t i = 0; i < 10; ++i) { printf(\"%zu\\n\", i); }\n\treturn 0;\n}\n",
    "https://example.org/path/to/page?query=1&other=two#part or someone@example.com for 3.14159 and 2,718",
    "Die Größe des Entwurfs ändert nichts am Ergebnis, außer dass es schneller geht; schöne Grüße aus Köln.",
    "Le modèle cible vérifie chaque bloc proposé, garde le préfixe accepté et réécrit la suite; ça marche.",
    "El modelo pequeño propone y el modelo grande decide: así se ahorra tiempo sin perder calidad, ¿verdad?",
    "Маленькая модель предлагает слова, а большая модель проверяет их за один проход, и это быстрее.",
    "Το μικρό μοντέλο προτείνει λέξεις και το μεγάλο μοντέλο τις ελέγχει με μία μόνο διέλευση.",
    "النموذج الصغير يقترح الكلمات والنموذج الكبير يتحقق منها في مرور واحد.",
    "המודל הקטן מציע מילים והמודל הגדול בודק אותן במעבר אחד.",
    "छोटा मॉडल शब्द सुझाता है और बड़ा मॉडल उन्हें एक ही बार में जाँचता है।",
    "โมเดลขนาดเล็กเสนอคำ และโมเดลขนาดใหญ่ตรวจสอบในครั้งเดียว",
    "小模型提出一段词元，大模型一次性地检查它们，规则决定保留哪些。",
    "小さなモデルが言葉を提案し、大きなモデルがそれを一度に確かめる。カタカナもあります。",
    "작은 모델이 단어를 제안하고 큰 모델이 한 번에 확인합니다.",
    "Mô hình nhỏ đề xuất các từ và mô hình lớn kiểm tra chúng trong một lượt.",
    "Küçük model sözcükleri önerir, İstanbul'da büyük model onları bir geçişte denetler.",
    "👍🏽 great 🎉🎉 family 👨‍👩‍👧‍👦 flag 🇫🇷 heart ❤️ face 😀😃😄",
    "0 1 12 123 1234 12345 123456 1234567 12345678 123456789 1234567890 2024-01-31 23:59:59",
]


def corpus(seed, n):
    """Sentences and reshuffled sentences, so that pairs have different counts."""
    rng = random.Random(seed)
    for i in range(n):
        words = rng.choice(SENTENCES).split(" ") + rng.choice(SENTENCES).split(" ")
        rng.shuffle(words)
        yield SENTENCES[i % len(SENTENCES)]
        yield " ".join(words)


def trained(pre_tokenizer, vocab_size, seed, normalizer=None, special=(), alphabet=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet)
    tokenizer.train_from_iterator(corpus(seed, 300), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gpt2_style():
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), 1100, 1, special=["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    value = json.loads(tokenizer.to_str())
    # As files of older versions have it.
    value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
    value["model"]["merges"].insert(0, "#version: 0.2")
    del value["model"]["type"]
    return value


def llama3_style():
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated", False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = trained(pre_tokenizers.Sequence([split, byte_level]), 1000, 2)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    bos = tokenizer.token_to_id(names[0])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single=f"{names[0]} $A", pair=f"{names[0]} $A {names[0]}:1 $B:1",
                                      special_tokens=[(names[0], bos)])])
    value = json.loads(tokenizer.to_str())
    # Tokens that merging does not reach, as in the real vocabulary: only ignore_merges finds them.
    merges = value["model"]["merges"]
    value["model"]["merges"] = [pair for i, pair in enumerate(merges) if i < 200 or i % 7]
    value["model"]["ignore_merges"] = True
    return value


def qwen2_style():
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated", False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = trained(pre_tokenizers.Sequence([split, byte_level]), 900, 3, normalizer=normalizers.NFC())
    tokenizer.add_tokens([
        AddedToken("<|endoftext|>", special=True, normalized=False),
        AddedToken("<|im_start|>", special=True, normalized=False),
        AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken("<|im", special=False, normalized=False),
        AddedToken("<L>", special=False, normalized=False, lstrip=True),
        AddedToken("<R>", special=False, normalized=False, rstrip=True),
        AddedToken("<LR>", special=True, normalized=False, lstrip=True, rstrip=True),
        AddedToken("<W>", special=False, normalized=False, single_word=True),
        AddedToken("W>", special=False, normalized=False),
        AddedToken("<LW>", special=True, normalized=True, single_word=True, lstrip=True),
        AddedToken("word", special=False, normalized=True, single_word=True),
        AddedToken("Ångström", special=False, normalized=True),
        AddedToken("Cafe\u0301", special=False, normalized=False),
        AddedToken("\u00e9", special=False, normalized=True, single_word=True),
        AddedToken("    ", special=False, normalized=False),
        AddedToken("日本語", special=True, normalized=True, rstrip=True),
        AddedToken("<tool_call>", special=False, normalized=False),
        AddedToken("\u3000", special=False, normalized=False, lstrip=True, rstrip=True),
    ])
    value = json.loads(tokenizer.to_str())
    value["model"]["continuing_subword_prefix"] = ""
    value["model"]["end_of_word_suffix"] = ""
    return value


def mixed_style():
    """What the three families do not use, on a vocabulary that lacks bytes."""
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c.isascii() or c in "ĠĊ"]
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=True), 400, 4,
                        special=["<s>", "</s>", "<unk>"], alphabet=sorted(alphabet))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split("-", "merged_with_next", False),
        pre_tokenizers.Split(Regex(r"[QXZ]+"), "removed", False),
        pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    value = json.loads(tokenizer.to_str())
    # Without the letters of other scripts.
    gone = {t for t in value["model"]["vocab"] if not all(c.isascii() or c in "ĠĊ" for c in t)}
    kept = [t for t in value["model"]["vocab"] if t not in gone]
    added = [token["content"] for token in value["added_tokens"]]
    value["model"]["vocab"] = {t: i for i, t in enumerate(kept)}
    value["model"]["merges"] = [pair for pair in value["model"]["merges"] if "".join(pair) not in gone]
    for token in value["added_tokens"]:
        content = token["content"]  # the first three are in the vocabulary
        token["id"] = value["model"]["vocab"].get(content, len(kept) + added.index(content) - 3)
    value["model"]["unk_token"] = "<unk>"
    value["model"]["fuse_unk"] = True
    value["decoder"] = {"type": "Sequence", "decoders": [value["decoder"], {"type": "Fuse"}]}
    return value


STYLES = {"gpt2": gpt2_style, "llama3": llama3_style, "qwen2": qwen2_style, "mixed": mixed_style}

SPACES = [" ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u0085", "\u1680",
          "\u2003",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u180e", "\u200b", "\ufeff", "\x0b", "\x0c",
          "\x1c"]
ADDED = ["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<|im", "<L>",
         "<R>", "<LR>",
         "<W>", "<LW>", "word", "Ångström", "A\u030angstro\u0308m", "Caf\u00e9", "Cafe\u0301", "\u00e9",
         "e\u0301", "    ",
         "日本語", "<tool_call>", "<s>", "<mask>"]


def texts():
    rng = random.Random(5)
    out = ["", " ", "a", *SENTENCES]
    # Contractions in both cases and with what folds to their letters.
    for ending in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D",
                   "'\u017f",
                   "\u2019s", "'x", "''s", "'s's", " 's"]:
        out.append(f"he{ending} it{ending}ay")
    # Digits, in runs and in other numeral systems.
    out += ["".join(rng.choice("0123456789") for _ in range(n)) for n in range(1, 21)]
    out += ["x" + "7" * n + "y" for n in (1, 2, 3, 4, 7)]
    out += ["٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "๐๑๒๓๔๕", "１２３４５６", "ⅠⅡⅢⅣ ½⅓¼ ²³¹ ①②③", "一二三四五 𝟘𝟙𝟚𝟛",
            "1,234.56 -7 +8 1e-10 0x1F"]
    # Combining marks: composed, decomposed, in wrong order, doubled, alone.
    out += ["é e\u0301 è e\u0300", "A\u030a \u212b Å", "o\u0323\u0302 o\u0302\u0323 ộ",
            "q\u0323\u0307 q\u0307\u0323",
            "\u0301", "\u0301a", "a" + "\u0301" * 20, "\u1e9b\u0323", "\u0344", "\ufb01 \u2126 \u212a",
            "が か\u3099 ガ ｶﾞ",
            "각 \u1100\u1161\u11a8 가\u11a8 \u1100\u1161", "\u0915\u093c \u0958", "\u09c7\u09be \u09cb",
            "\uf900 \u2f800",
            "\U00011099\U000110ba", "a\u0345\u08d3b", "i\u0307\u0301 \u0130",
            "Tiếng Việt Tie\u0302\u0301ng Vie\u0323\u0302t"]
    # White space.
    for space in SPACES:
        out += [f"a{space}b", f"{space}x{space}"]
    out += ["".join(rng.choice(SPACES) for _ in range(rng.randint(2, 9))) + rng.choice(["", "x", "1", "."])
            for _ in range(30)]
    out += [" " * n + "x" for n in (1, 2, 3, 4, 5, 8, 16)] + ["x" + " " * n for n in (1, 2, 4, 7)]
    out += ["a\n\n\nb", "a\r\n\r\nb", "a \n b", "if x:\n\treturn\n", "!\n\n", "!!\r\n?", "  \n\n  ",
            "\t\t\tx", "line\n" * 5]
    # Emoji, control characters, characters of every plane, of Unicode 15 and later, of none.
    out += ["👨‍👩‍👧‍👦", "👍🏻👍🏽👍🏿", "🇩🇪🇯🇵🇺🇸", "❤️‍🔥", "☺️ ☺", "1️⃣ #️⃣", "😀" * 9, "a😀b", "\U0001fae8 \U0001fa75",
            "\x00", "a\x00b", "\x01\x02\x03\x1b[0m", "\x7f\x80\x9f", "\ufffd", "\uffff\ufdd0",
            "\U0010ffff\U000e0001",
            "\U00031350\U000323af x", "\U00011f04\U00011f50", "\ua7cb\u1c89 \U00010d40\U00010d4a",
            "\U0001e030a\u0897",
            "ꙮ ꜳ ﷽ ﷺ", "𝔘𝔫𝔦 𝕏 𝒳", "ﬀ ﬁ ﬃ ﬆ", "ı İ ſ K Å", "ǅ ǈ ª º", "\u200d\u200c\u2060"]
    # Added tokens alone, glued to words, in spaces, in each other.
    for token in ADDED:
        out += [token, f"x{token}y", f"  {token}  ", f"{token}{token}", f"\n{token}\t.",
                f"_{token}é{token} {token}-"]
    out += ["".join(rng.choice(ADDED + SPACES + ["x", "1", "É", "."]) for _ in range(rng.randint(2, 10)))
            for _ in range(40)]
    out += ["<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "<|im_sta", "<|im_startt|>",
            "<<|im|>>",
            "\u3000\u3000", "x \u3000 \u3000 y", "<R> \u3000z", "\u3000<L>\u3000\u3000<LR>\u3000",
            "<R>    <L>",
            "words word sword wordé word_ word-word", "x<W>y <W>y x<W> <W>", "aW>b W> <W>W>",
            "e\u0301\u0301 xe\u0301 e\u0301x é"]
    # Code and addresses.
    out += ["std::vector<std::pair<int, std::string>> v{{1, \"a\"}};", "x = {'k': [1, 2.5, None]}  # note",
            "a+=b;c<<=2",
            "SELECT * FROM t WHERE a >= 10 AND b != 'x';", "<div class=\"a\">&nbsp;</div>",
            "C:\\dir\\file.txt", "/usr/lib",
            "ftp://user:pass@host:21/~x/?q=%20&r=é#1", "192.168.0.1:8080", "a_b__c--d...e",
            "camelCaseXMLHttpRequest2",
            "#include <x.h>\n\n\n", "```py\nprint('hi')\n```", "$x^2 + \\frac{1}{2}$",
            "QX quiz-Zoo X-ray -- -a- ABC-DEF"]
    # Mixed scripts at random.
    letters = "".join(SENTENCES) + "".join(SPACES)
    out += ["".join(rng.choice(letters) for _ in range(rng.randint(1, 40))) for _ in range(60)]
    # Long ones.
    out += [["a", 100000], ["ab", 5000], ["\u00e9", 3000], [" ", 4000], ["\n", 1000], ["7", 1000], ["x ",
            2000],
            ["e\u0301", 2000], ["日本", 1000], ["!", 3000], ["<|im_end|>", 300], [SENTENCES[0], 20],
            [" ".join(SENTENCES), 3]]
    return out


def fnv(data, value=0xCBF29CE484222325):
    """FNV-1a, 64 bits."""
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def short_ids(ids):
    """Long lists as [count, hash of the ids as 32-bit little-endian words]."""
    data = b"".join(i.to_bytes(4, "little") for i in ids)
    return ids if len(ids) <= 200 else [len(ids), f"{fnv(data):016x}"]


def short_text(text):
    """Long texts as [bytes, hash]."""
    data = text.encode()
    return text if len(data) <= 1000 else [len(data), f"{fnv(data):016x}"]


def expected(tokenizer, inputs, seed):
    prefix = tokenizer.encode("").ids
    suffix = []
    if len(prefix) == 2:  # RobertaProcessing
        prefix, suffix = prefix[:1], prefix[1:]
    encode = []
    for text in inputs:
        text = text if isinstance(text, str) else text[0] * text[1]
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).ids == prefix + ids + suffix
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        plain = tokenizer.decode(ids)
        encode.append([short_ids(ids), None if decoded == text else short_text(decoded),
                       None if plain == decoded else short_text(plain)])
    rng = random.Random(seed)
    n = tokenizer.get_vocab_size()
    bytes_only = [tokenizer.token_to_id(c) for c in pre_tokenizers.ByteLevel.alphabet()]
    bytes_only = sorted(i for i in bytes_only if i is not None)
    decode = []
    for i in range(90):
        pool = bytes_only if i % 3 == 0 else range(n + 5) if i % 3 == 1 else range(max(0, n - 20), n)
        if i % 3 == 2:
            pool = [*pool, *bytes_only]
        ids = [rng.choice(pool) for _ in range(rng.randint(1, 24))]
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        plain = tokenizer.decode(ids)
        decode.append([ids, decoded, None if plain == decoded else plain])
    return {"prefix": prefix, "suffix": suffix, "encode": encode, "decode": decode}


def invalid_utf8():
    rng = random.Random(6)
    good = ["", "a", "é", "日", "😀", "abcdefgh", "x" * 23 + "é"]
    bad = ["80", "bf", "c0", "c080", "c1bf", "c2", "c241", "e0", "e080", "e08080", "e09fbf", "e182",
           "e18241", "eda080",
           "edbfbf", "efbf", "f0", "f08080", "f08fbfbf", "f09f98", "f09f9841", "f4908080", "f5808080",
           "f8888080", "fe",
           "ff", "fffe", "e28228a1"]
    cases = [rng.choice(good).encode() + bytes.fromhex(b) + (rng.choice(good).encode() if i % 2 else b"")
             for i, b in enumerate(bad * 2)]
    cases += [bytes(rng.randrange(256) for _ in range(rng.randint(1, 12))) for _ in range(80)]
    out = []
    for case in cases:
        try:
            case.decode()
        except UnicodeDecodeError as error:
            out.append([case.hex(), error.start])
    return out


def code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matched(found):
    """Ranges of the code points for which `found`, which takes a list of them, returns true."""
    ranges = []
    points = code_points()
    for begin in range(0, len(points), 4096):
        chunk = points[begin:begin + 4096]
        for c, yes in zip(chunk, found(chunk)):
            if not yes:
                continue
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
    return ranges


def by_pattern(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed", False)

    def found(chunk):
        kept = set()
        for _, (a, b) in split.pre_tokenize_str("".join(map(chr, chunk))):
            kept.update(range(a, b))
        return [i not in kept for i in range(len(chunk))]

    return matched(found)


def by_single_word():
    """The word characters: those that keep a single_word token from being found."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("<W>", single_word=True, normalized=False)])
    return matched(lambda chunk: [not e.ids for e in tokenizer.encode_batch([f"{chr(c)}<W>" for c in chunk])])


def nfc_hashes():
    """[template, hash of each 0x1000 code points]: FNV-1a over the UTF-8 of the normal forms."""
    nfc = normalizers.NFC()
    out = []
    for template in ["{}", "a\u0345{}", "a{}\u0334\u0301", "\u1100{}\u11a8"]:
        hashes = []
        for begin in range(0, 0x110000, 0x1000):
            points = [c for c in range(begin, begin + 0x1000) if not 0xD800 <= c < 0xE000]
            normal = "".join(nfc.normalize_str(template.format(chr(c))) for c in points)
            hashes.append(f"{fnv(normal.encode()):016x}")
        out.append([template, hashes])
    return out


def splits():
    rng = random.Random(7)
    letters = "aAbsStTdD'\u2019\u017f019 \t\n\r\u00a0\u2028\u3000.,-/é日\u0301٣Ⅷ😀ǅ"
    inputs = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 24))) for _ in range(16)]
    inputs += ["don't STOP'LL 12345 x--y  \r\n\r\n z ", "aXbXXc"]
    cases = [(GPT2, "isolated", False), (LLAMA3, "isolated", False), (QWEN2, "removed", True),
             (O200K, "isolated", False)]
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            cases += [(r"\s|\p{Lu}", behavior, invert), (r"a*", behavior, invert)]
    cases += [(p, "isolated", False) for p in [
        r"(?<=a)b|\d{2,}|(?<!x)y", r"^\s*|[dt]$", r"[^\S\n]+|\P{L}", r"a{,2}b{|\x41|\u00e9|\x{1F600}|\v",
        r".{2}",
        r"(?i:'(?:ll|t)|k)|(?>a|ab)", r"[\p{P}\p{S}]+|\p{M}|\D", r"\p{^L}++"]]
    out = []
    for pattern, behavior, invert in cases:
        split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
        name = "".join(part.capitalize() for part in behavior.split("_"))
        pieces = [[piece for piece, _ in split.pre_tokenize_str(text)] for text in inputs]
        out.append([pattern, name, invert, pieces])
    return {"texts": inputs, "cases": out}


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        # Characters of no use on a screen stay escaped; the rest is readable.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    inputs = texts()
    write("texts.json", inputs)
    for seed, (name, style) in enumerate(STYLES.items()):
        value = style()
        write(f"{name}.tokenizer.json", value)
        tokenizer = Tokenizer.from_str(json.dumps(value))
        write(f"{name}.expected.json", expected(tokenizer, inputs, seed))
    write("invalid_utf8.json", invalid_utf8())
    write("unicode.json", {
        "classes": [[p, by_pattern(p)] for p in
                    [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{Lu}", r"\p{P}", r"\p{S}", r"\s", r"\d"]],
        "word": by_single_word(),
        "nfc": nfc_hashes(),
    })
    write("splits.json", splits())
    print(len(inputs), "texts;", sum(f.stat().st_size for f in folder.iterdir()), "bytes")


main()
