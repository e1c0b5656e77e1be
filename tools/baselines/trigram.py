#!/usr/bin/env python3
"""Byte 3-gram baseline for a masked-language-model recipe.

Trains an interpolated 3-gram model with absolute discounting (Kneser-Ney lower orders) on the training
part of the recipe's texts and measures it on the very places `perceiver eval` measures: same held-out
windows, same masks. It is given the TRUE two bytes before each hidden one, which the masked model often
does not see, so the comparison favours the baseline.

    tools/baselines/trigram.py --recipe recipes/byte-mlm.json --data DIR

Needs nothing but Python. The discounts are those that do best on the last tenth of the training part.
"""

import argparse
import json
import math
import pathlib
from collections import Counter, defaultdict

MASK64 = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
TEST_RATE = 0.15  # src/train/language_task.cpp: kTestRate
TEST_MASK = 5  # src/train/random.h: kTestMask
BYTES, WORDS = 0, 1  # src/train/masking.h: MaskKind
SPACES = frozenset(b" \t\n\v\f\r")
FRAME = 2  # [CLS] and [SEP] take two places of a window


class Random:
    """src/train/random.h, so that both draw the same masks."""

    def __init__(self, *keys):
        self.state = 0
        for key in keys:
            self.state = (self.mix(self.state ^ key) + STEP) & MASK64

    @staticmethod
    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
        return x ^ (x >> 31)

    def uniform(self):
        self.state = (self.state + STEP) & MASK64
        return (self.mix(self.state) >> 11) * 2.0**-53


def masked_places(kind, text, random):
    places, inside, hide = [], False, False
    for i, byte in enumerate(text):
        if kind == BYTES:
            hide = random.uniform() < TEST_RATE
        elif byte in SPACES:
            inside = hide = False
        elif not inside:
            inside, hide = True, random.uniform() < TEST_RATE
        if hide:
            places.append(i)
    return places


def read_text(spec, folder):
    raw = (folder / spec["path"]).read_bytes().removeprefix(b"\xef\xbb\xbf")
    begin, end = 0, len(raw)
    if spec.get("begin_after"):
        begin = raw.index(b"\n", raw.index(spec["begin_after"].encode())) + 1
    if spec.get("end_before"):
        end = raw.rindex(b"\n", 0, raw.index(spec["end_before"].encode(), begin)) + 1
    return raw[begin:end].replace(b"\r\n", b"\n")


class Trigram:
    """Interpolated: P3 = max(c - d, 0) / c(ab) + d n(ab) / c(ab) P2, lower orders by continuation counts."""

    def __init__(self, texts, discount=0.75):
        self.discount = discount
        self.three, self.two = defaultdict(Counter), defaultdict(Counter)
        for text in texts:
            for a, b, c in zip(text, text[1:], text[2:]):
                self.three[a, b][c] += 1
        for (a, b), followers in self.three.items():
            for c in followers:
                self.two[b][c] += 1  # in how many contexts a: Kneser-Ney
        self.one = Counter()
        for followers in self.two.values():
            self.one.update(followers.keys())
        self.total_one = sum(self.one.values())
        self.totals = {context: sum(f.values()) for context, f in self.three.items()}
        self.totals_two = {context: sum(f.values()) for context, f in self.two.items()}

    def interpolate(self, followers, total, byte, lower):
        if not followers:
            return lower
        kept = max(followers.get(byte, 0) - self.discount, 0.0)
        return (kept + self.discount * len(followers) * lower) / total

    def probability(self, a, b, byte):
        uniform = 1 / 256
        p = self.interpolate(self.one, self.total_one, byte, uniform)
        p = self.interpolate(self.two.get(b), self.totals_two.get(b), byte, p)
        return self.interpolate(self.three.get((a, b)), self.totals.get((a, b)), byte, p)

    def best(self, a, b):
        candidates = self.three.get((a, b)) or self.two.get(b) or self.one
        return max(candidates, key=lambda byte: self.probability(a, b, byte))


def measure(model, windows, kind):
    bits = correct = places = 0
    for index, (window, before) in enumerate(windows):
        for i in masked_places(kind, window, Random(TEST_MASK, kind, index)):
            context = (before + window)[i : i + 2]
            p = model.probability(context[0], context[1], window[i])
            bits -= math.log2(p)
            correct += model.best(context[0], context[1]) == window[i]
            places += 1
    return bits / places, correct / places, places


def held_out_windows(texts, cuts, length):
    windows = []
    for text, cut in zip(texts, cuts):
        for at in range(cut, len(text) - length + 1, length):
            windows.append((text[at : at + length], text[at - 2 : at]))
    return windows


def tune(texts):
    """The discount that predicts the last tenth of the training part best."""
    fit = [text[: len(text) * 9 // 10] for text in texts]
    check = [text[len(text) * 9 // 10 :] for text in texts]
    best = (math.inf, 0.75)
    model = Trigram(fit)
    for discount in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        model.discount = discount
        bits = sum(
            -math.log2(model.probability(a, b, c))
            for text in check
            for a, b, c in zip(text, text[1:], text[2:])
        )
        best = min(best, (bits, discount))
    return best[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, help="folder of relative data paths")
    arguments = parser.parse_args()
    recipe = json.loads(arguments.recipe.read_text())
    data = recipe["data"]
    length = recipe["model"]["hugging_face"]["max_position_embeddings"] - FRAME
    texts = [read_text(spec, arguments.data or arguments.recipe.parent) for spec in data["files"]]
    cuts = [int(len(text) * (1 - data.get("held_out", 0.05))) for text in texts]
    training = [text[:cut] for text, cut in zip(texts, cuts)]
    windows = held_out_windows(texts, cuts, length)
    model = Trigram(training, tune(training))
    print(f"3-gram, discount {model.discount}, {sum(map(len, training))} training bytes, {len(windows)} windows")
    for name, kind in (("byte", BYTES), ("word", WORDS)):
        bits, accuracy, places = measure(model, windows, kind)
        print(f"{name}_bits {bits:.4f}  {name}_accuracy {accuracy:.4f}  {name}_places {places}")


if __name__ == "__main__":
    main()
