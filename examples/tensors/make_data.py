#!/usr/bin/env python3
"""Writes the arrays that recipes/tensors-example.json trains on: npy files, without numpy.

    python3 examples/tensors/make_data.py DIR
    perceiver train recipes/tensors-example.json --data DIR --out my-crane

A crane carries up to 8 boxes and its engine is listened to. Per example:
  boxes     float32 [8, 3]   x, y in [-1, 1] and weight in [0.2, 1]; rows that `present` leaves out are noise
  present   bool    [8]      which boxes are there
  engine    float32 [64, 2]  two noisy sensors of one turning shaft
  centre    float32 [2]      centre of gravity of the boxes
  overload  uint8   [1]      1 if the boxes weigh more than 2.5 together
  speed     int64   []       turns of the shaft in the 64 moments: 2, 3, 5 or 8, as class 0 to 3
"""

import argparse
import array
import math
import pathlib
import random

BOXES, MOMENTS = 8, 64
TURNS = (2, 3, 5, 8)
LIMIT = 2.5


def write_npy(path, code, descr, shape, values):
    """One array in version 1.0 of numpy's format."""
    header = repr({"descr": descr, "fortran_order": False, "shape": tuple(shape)})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    data = array.array(code, values)
    assert len(data) == math.prod(shape), (path, len(data), shape)
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        file.write(data.tobytes())


def example(rng):
    """Values of one example by array name."""
    count = rng.randint(1, BOXES)
    present = [1] * count + [0] * (BOXES - count)
    rng.shuffle(present)
    boxes = [(rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.2, 1)) for _ in range(BOXES)]
    there = [box for box, here in zip(boxes, present) if here]
    weight = sum(box[2] for box in there)
    centre = [sum(box[axis] * box[2] for box in there) / weight for axis in range(2)]
    speed = rng.randrange(len(TURNS))
    phase = rng.uniform(0, 2 * math.pi)
    engine = []
    for t in range(MOMENTS):
        angle = 2 * math.pi * TURNS[speed] * t / MOMENTS + phase
        engine += [math.sin(angle) + rng.gauss(0, 0.5), math.cos(angle) + rng.gauss(0, 0.5)]
    return {"boxes": [value for box in boxes for value in box], "present": present, "engine": engine,
            "centre": centre, "overload": [int(weight > LIMIT)], "speed": [speed]}


def write_part(folder, part, count, rng):
    kinds = {"boxes": ("f", "<f4", (BOXES, 3)), "present": ("B", "|b1", (BOXES,)),
             "engine": ("f", "<f4", (MOMENTS, 2)), "centre": ("f", "<f4", (2,)),
             "overload": ("B", "|u1", (1,)), "speed": ("q", "<i8", ())}
    columns = {name: [] for name in kinds}
    for _ in range(count):
        for name, values in example(rng).items():
            columns[name] += values
    for name, (code, descr, shape) in kinds.items():
        write_npy(folder / f"{part}_{name}.npy", code, descr, (count, *shape), columns[name])


def main():
    parser = argparse.ArgumentParser(description="Writes example arrays for task 'tensors'.")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=8000, help="examples to train on")
    parser.add_argument("--test", type=int, default=1000, help="examples to measure on")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    write_part(args.folder, "train", args.train, rng)
    write_part(args.folder, "test", args.test, rng)


if __name__ == "__main__":
    main()
