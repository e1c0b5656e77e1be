#!/usr/bin/env python3
"""Draws the digits that `perceiver demo` shows: pen strokes of our own, no data set involved.

Every digit is one or two strokes through a few control points, drawn by a pen whose slant, size and
pressure vary with the seed, and centred by mass as MNIST's digits are. Needs Pillow and NumPy.

usage: python3 tools/make_demo_samples.py models/demo/digits
"""

import math
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 112  # four times the 28 pixels the model reads
INK_BOX = 80  # MNIST: the ink fits 20 of 28 pixels

# Strokes in a box of width 1 and height 1.5, y down.
STROKES = {
    0: [[(0.55, 0.02), (0.2, 0.2), (0.05, 0.75), (0.2, 1.3), (0.5, 1.48), (0.8, 1.3), (0.95, 0.75),
         (0.82, 0.2), (0.55, 0.02)]],
    1: [[(0.55, 0.0), (0.5, 0.5), (0.46, 1.0), (0.42, 1.5)]],
    2: [[(0.1, 0.35), (0.3, 0.08), (0.65, 0.03), (0.88, 0.3), (0.75, 0.7), (0.4, 1.1), (0.08, 1.42)],
        [(0.08, 1.42), (0.5, 1.4), (0.98, 1.42)]],
    3: [[(0.12, 0.2), (0.45, 0.0), (0.85, 0.15), (0.8, 0.5), (0.42, 0.7)],
        [(0.42, 0.7), (0.85, 0.8), (0.95, 1.15), (0.6, 1.47), (0.1, 1.35)]],
    4: [[(0.2, 0.05), (0.14, 0.4), (0.1, 0.78), (0.5, 0.8), (0.95, 0.74)],
        [(0.78, 0.02), (0.74, 0.5), (0.7, 1.0), (0.68, 1.5)]],
    5: [[(0.88, 0.05), (0.55, 0.06), (0.25, 0.08)],
        [(0.25, 0.08), (0.2, 0.35), (0.15, 0.62), (0.55, 0.55), (0.88, 0.8), (0.85, 1.2),
         (0.5, 1.47), (0.08, 1.36)]],
    6: [[(0.75, 0.02), (0.4, 0.3), (0.15, 0.75), (0.12, 1.15), (0.4, 1.47), (0.78, 1.35),
         (0.85, 1.0), (0.58, 0.8), (0.28, 0.92), (0.14, 1.15)]],
    7: [[(0.06, 0.08), (0.5, 0.06), (0.94, 0.05)],
        [(0.94, 0.05), (0.7, 0.5), (0.5, 1.0), (0.38, 1.5)]],
    8: [[(0.55, 0.72), (0.2, 0.48), (0.22, 0.15), (0.55, 0.02), (0.85, 0.18), (0.8, 0.48),
         (0.5, 0.75), (0.15, 1.05), (0.2, 1.38), (0.52, 1.48), (0.86, 1.35), (0.86, 1.02),
         (0.55, 0.72)]],
    9: [[(0.85, 0.25), (0.55, 0.02), (0.2, 0.15), (0.15, 0.5), (0.45, 0.7), (0.78, 0.5),
         (0.86, 0.25)],
        [(0.86, 0.25), (0.84, 0.7), (0.78, 1.1), (0.7, 1.5)]],
}


def curve(points, steps=40):
    """Catmull-Rom through every control point."""
    ends = [points[0], *points, points[-1]]
    out = []
    for p0, p1, p2, p3 in zip(ends, ends[1:], ends[2:], ends[3:]):
        for k in range(steps):
            t = k / steps
            out.append(tuple(
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t
                       + (3 * b - a - 3 * c + d) * t ** 3)
                for a, b, c, d in zip(p0, p1, p2, p3)))
    return [*out, points[-1]]


def draw(digit, rng):
    slant = rng.uniform(-0.05, 0.28)
    turn = math.radians(rng.uniform(-6, 6))
    width = rng.uniform(0.85, 1.05)
    pen = rng.uniform(4.2, 6.2)
    size = INK_BOX / 1.5 * rng.uniform(0.9, 1.0)
    points = []
    for stroke in STROKES[digit]:
        wobbly = [(x + rng.gauss(0, 0.018), y + rng.gauss(0, 0.018)) for x, y in stroke]
        for x, y in curve(wobbly):
            x, y = (x - 0.5) * width - (y - 0.75) * slant, y - 0.75
            points.append((x * math.cos(turn) - y * math.sin(turn),
                           x * math.sin(turn) + y * math.cos(turn)))
    points = np.array(points) * size + SIDE / 2
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    ink = np.zeros((SIDE, SIDE))
    for i, (x, y) in enumerate(points):
        radius = pen * (1 + 0.12 * math.sin(i / 23 + digit))
        distance = np.hypot(columns - x, rows - y)
        ink = np.maximum(ink, np.clip((radius + 1.2 - distance) / 2.4, 0, 1))
    centre = [(ink * axis).sum() / ink.sum() for axis in (rows, columns)]
    shift = [int(round(SIDE / 2 - c)) for c in centre]
    return np.roll(ink, shift, axis=(0, 1))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2026)
    for digit in STROKES:
        picture = (255 * draw(digit, rng)).round().astype(np.uint8)
        Image.fromarray(picture, "L").save(folder / f"{digit}.png", optimize=True)


if __name__ == "__main__":
    main()
