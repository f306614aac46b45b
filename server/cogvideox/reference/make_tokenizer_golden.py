#!/usr/bin/env python3
"""What transformers' slow T5Tokenizer makes of awkward prompts and of unusual settings: goldens of `tests/it/tokenizer.rs`.

  ORACLE/bin/python make_tokenizer_golden.py GOLDEN_DIR [--count 300 --seed 0] [--prompts FILE]

awkward_prompts.jsonl: random mixtures of words, special tokens, whitespace of every kind, control characters, combining marks, emoji and
blocks of Unicode, encoded by the published tokenizer (`t5-tokenizer/`) and by the tiny one of the forms
(`2b/tokenizer/`). One JSON object a line: prompt, published, tiny. With a large --count it is a fuzzer.

tokenizer_settings.jsonl: the tiny tokenizer with some of its files left out and keys of tokenizer_config.json changed
(null: removed); texts, and their ids padded to one more than they are.
"""
import argparse
import json
import pathlib
import random
import shutil
import tempfile
import warnings

import transformers
from transformers import T5Tokenizer

SPECIALS = ["</s>", "<pad>", "<unk>", "<s>", "<", ">", "</", "<extra_id_", "<extra_id_007>", "<EXTRA_ID_0>", "[SEP]", "<0x0A>",
            "\uff1cextra_id_3\uff1e"] + [f"<extra_id_{i}>" for i in (0, 1, 9, 10, 11, 50, 99, 100)]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u2028", "\u2029", "\u0085", "\u200b", "\u200d", "\ufeff", "\x0b", "\x0c",
          "\x1c", "\x1d", "\x1e", "\x1f", "\u1680", "\u180e", "\u202f", "\u205f", "\x00", "\x7f", "\u2581", "\u2581\u2581", "\u00ad", "\u2060"]
BLOCKS = [(0x20, 0x7F), (0x80, 0x17F), (0x180, 0x2AF), (0x2B0, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
          (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x214F), (0x2150, 0x218F), (0x2460, 0x24FF), (0x3000, 0x30FF), (0x3130, 0x318F),
          (0x3200, 0x33FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFAFF), (0xFB00, 0xFEFF), (0xFF00, 0xFFFF), (0x1D400, 0x1D7FF),
          (0x1F100, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x2FA1F), (0xE0000, 0xE01EF), (0, 0x1F), (0x80, 0x9F), (0x10FFF0, 0x10FFFF)]
MARKS = "\u0301\u0300\u0308\u0327\u0323\u3099\u309a\u1161\u11a8\u0654\u093c\u0338\u200d\ufe0f\u20e3\u0e33"
EMOJI = ["\U0001f469", "\U0001f467", "\u200d", "\ufe0f", "\U0001f3fd", "\U0001f43c", "\U0001f1e9", "\U0001f1ea", "\u2764", "1\ufe0f\u20e3", "\u2122"]


class Prompts:
    def __init__(self, seed, words):
        self.random, self.words = random.Random(seed), words

    def character(self, first, last):
        code = self.random.randint(first, last)
        return "x" if 0xD800 <= code <= 0xDFFF else chr(code)

    def some(self, least, most, make):
        return "".join(make() for _ in range(self.random.randint(least, most)))

    def atom(self):
        r = self.random
        return r.choices([
            lambda: r.choice(self.words),
            lambda: r.choice(SPECIALS),
            lambda: r.choice(SPACES),
            lambda: self.some(1, 6, lambda: self.character(*r.choice(BLOCKS))),
            lambda: r.choice("aeioucnAEIOUs\uac00\u1100\u304b\u6f22\u0627\u0915\u01d6") + self.some(1, 4, lambda: r.choice(MARKS)),
            lambda: self.some(1, 6, lambda: r.choice(EMOJI)),
            lambda: self.some(1, 30, lambda: r.choice("abcdefghijklmnopqrstuvwxyz")),
            lambda: r.choice("aehs.1-=!_\u4e00") * r.randint(1, 200),
            lambda: str(r.random() * 10 ** r.randint(-5, 9)),
            lambda: self.character(0, 0x10FFFF),
            lambda: self.some(1, 8, lambda: r.choice(".,;:!?-_()[]{}<>\"'`~@#$%^&*+=|\\/ ")),
        ], [30, 9, 20, 10, 6, 5, 3, 2, 4, 4, 5])[0]()

    def prompt(self):
        r = self.random
        kind = r.random()
        if kind < 0.05:
            return self.some(1, 20, lambda: self.character(0, 0x10FFFF))
        if kind < 0.1:
            return " ".join(r.choice(self.words) for _ in range(r.randint(1, 100)))
        if kind < 0.15:
            return self.some(1, 300, lambda: r.choice("etaoinshrdlu"))
        return r.choice(["", " ", ""]).join(self.atom() for _ in range(r.randint(0, 14)))


FILES = ["spiece.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
OLD = {"added_tokens_decoder": None}                         # as transformers before 4.34 saved it
UNNAMED = {**OLD, "additional_special_tokens": None}
NEW = {"content": "<new>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}
SETTINGS = [
    ("as published", 4, {}),
    ("before 4.34, with added_tokens.json", 4, OLD),
    ("before 4.34, without", 3, OLD),
    ("nothing but the model", 1, {}),
    ("config alone", 2, UNNAMED),
    ("fewer extra ids", 2, {**UNNAMED, "extra_ids": 7}),
    ("a token of its own, no extra ids named", 2, {**OLD, "additional_special_tokens": ["<new>"]}),
    ("a token of its own in the decoder", 2, {"added_tokens_decoder": {"345": NEW}}),
    ("not legacy", 4, {"legacy": False}),
    ("not legacy, no prefix", 4, {"legacy": False, "add_prefix_space": False}),
    ("specials are split", 4, {"split_special_tokens": True}),
    ("other end of sequence", 2, {"eos_token": "<extra_id_5>"}),
    ("padding beyond the vocabulary", 2, {"pad_token": "<none>"}),
]
TEXTS = ["<extra_id_3> small <extra_id_0> panda <new>x <extra_id_99>", "\u9326panda</s>", " a \u2581 b"]


def settings(tiny_dir):
    for what, count, edits in SETTINGS:
        with tempfile.TemporaryDirectory() as d:
            for file in FILES[:count]:
                shutil.copy(tiny_dir / file, d)
            if edits:
                path = pathlib.Path(d) / "tokenizer_config.json"
                config = {**json.loads(path.read_text()), **edits}
                path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
            tokenizer = T5Tokenizer.from_pretrained(d)
            lengths = [len(tokenizer(text).input_ids) + 1 for text in TEXTS]
            ids = [tokenizer(text, padding="max_length", max_length=n, truncation=True).input_ids for text, n in zip(TEXTS, lengths)]
        yield {"what": what, "files": FILES[:count], "edits": edits, "texts": TEXTS, "ids": ids}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("golden", type=pathlib.Path)
    p.add_argument("--count", type=int, default=300)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--prompts", type=pathlib.Path)
    a = p.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    published = T5Tokenizer.from_pretrained(a.golden / "t5-tokenizer")
    tiny = T5Tokenizer.from_pretrained(a.golden / "2b/tokenizer")
    lines = (a.golden / "t5-tokenizer/prompts.jsonl").read_text().splitlines()
    prompts = Prompts(a.seed, [word for line in lines for word in json.loads(line)["prompt"].split()])
    with open(a.prompts or a.golden / "awkward_prompts.jsonl", "w") as f:
        for _ in range(a.count):
            prompt = prompts.prompt()
            row = {"prompt": prompt, "published": published(prompt).input_ids, "tiny": tiny(prompt).input_ids}
            f.write(json.dumps(row, separators=(",", ":")) + "\n")
    with open(a.golden / "tokenizer_settings.jsonl", "w") as f:
        for row in settings(a.golden / "2b/tokenizer"):
            f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
