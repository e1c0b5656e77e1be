#!/usr/bin/env python3
"""AlphaStar's kind of entity encoder as a baseline for recipes/starcraft2.json.

A Transformer over the entities at the widths of arXiv 2107.14795, sec. B: 3 layers of 2 heads of 128,
width 256, MLP 1024, a linear of 256 after them; the whole set is the mean over its entities, linear, ReLU.
It reads the tokens the recipe's model reads, learns on the same games and is measured on the very
entities that `perceiver eval` measures.

    tools/baselines/entity_transformer.py --recipe recipes/starcraft2.json --data DIR --steps 300

Needs torch.
"""

import argparse
import csv
import gzip
import json
import math
import pathlib
import random
import time

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trigram import Random

TEST_HIDDEN = 186  # src/train/random.h: kEntityTestHidden
FIXED = 8  # src/train/tasks/entity_task.cpp: kFixedFeatures
WIDTH, HEADS, HEAD, HIDDEN, LAYERS = 256, 2, 128, 1024, 3


def name_hash(name):
    value = 2166136261
    for byte in name.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


def read_frames(path, limit):
    """(seconds, entities) each; an entity is [x, y, owner, moved, recent, type] as in src/train/data/entities.cpp."""
    frames = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seconds, since = float(row["t_s"]), float(row["position_s"])
            if not frames or frames[-1][0] != seconds:
                frames.append((seconds, []))
            owner = int(row["owner"]) if row["owner"] in ("1", "2") else 0
            frames[-1][1].append([float(row["x"]), float(row["y"]), owner, since > 0,
                                  since > 0 and seconds - since < 60, name_hash(row["type"])])
    places = [entity[:2] for _, entities in frames for entity in entities]
    low, high = [min(axis) for axis in zip(*places)], [max(axis) for axis in zip(*places)]
    half = max(high[0] - low[0], high[1] - low[1]) / 2
    for _, entities in frames:
        for entity in entities:
            for axis in range(2):
                entity[axis] = (entity[axis] - (low[axis] + high[axis]) / 2) / half
        if len(entities) > limit:
            entities.sort(key=lambda entity: entity[2] == 0)
            del entities[limit:]
    return frames


def changed(entities, rng):
    """The map turned and flipped, the players exchanged."""
    symmetry, exchange = rng.randrange(8), rng.random() < 0.5
    result = []
    for x, y, owner, *rest in entities:
        x, y = (-x if symmetry & 1 else x), (-y if symmetry & 2 else y)
        if symmetry & 4:
            x, y = y, x
        result.append([x, y, 3 - owner if exchange and owner else owner, *rest])
    return result


def make_batch(examples, buckets, position):
    """examples: (entities, hidden flags, phase). Returns tokens, present, hidden, owners, phases."""
    count, length = len(examples), max(len(entities) for entities, _, _ in examples)
    features = torch.zeros(count, length, FIXED + buckets)
    present, hidden = (torch.zeros(count, length, dtype=torch.bool) for _ in range(2))
    owners = torch.zeros(count, length, dtype=torch.long)
    for i, (entities, flags, _) in enumerate(examples):
        rows = [[x, y, owner == 1 and not hide, owner == 2 and not hide, owner == 0, hide, moved, recent]
                for (x, y, owner, moved, recent, _), hide in zip(entities, flags)]
        features[i, :len(rows), :FIXED] = torch.tensor(rows, dtype=torch.float)
        types = torch.tensor([entity[5] % buckets for entity in entities])
        features[i, torch.arange(len(rows)), FIXED + types] = 1
        present[i, :len(rows)] = True
        hidden[i, :len(rows)] = torch.tensor(flags, dtype=torch.bool)
        owners[i, :len(rows)] = torch.tensor([max(entity[2] - 1, 0) for entity in entities])
    bands = torch.linspace(1, position["max_resolution"][0] / 2, position["num_bands"]) * math.pi
    phase = (features[..., :2, None] * bands).flatten(-2)
    tokens = torch.cat([features, phase.sin(), phase.cos()], -1)
    return tokens, present, hidden, owners, torch.tensor([example[2] for example in examples])


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * HEADS * HEAD)
        self.output = nn.Linear(HEADS * HEAD, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x, present):
        query, key, value = self.query_key_value(self.norm(x)).unflatten(-1, (3, HEADS, HEAD)).unbind(2)
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
            attn_mask=present[:, None, None, :])
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x))


class EntityTransformer(nn.Module):
    def __init__(self, channels, phases):
        super().__init__()
        self.embed = nn.Linear(channels, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.entity = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.pooled = nn.Linear(WIDTH, WIDTH)
        self.owner, self.phase = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, phases)

    def forward(self, tokens, present):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, present)
        x = self.norm(x)
        weight = present[..., None] / present.sum(1, keepdim=True)[..., None]
        pooled = self.pooled((x * weight).sum(1)).relu()
        return self.owner(self.entity(x.relu())), self.phase(pooled)


class Games:
    """The recipe's data: frames to train on and frames that are only measured on."""

    def __init__(self, recipe, folder):
        self.spec = recipe["data"]
        self.input = recipe["model"]["spec"]["inputs"][0]
        self.buckets = self.input["channels"] + self.input.get("coordinates", 0) - FIXED
        self.channels = FIXED + self.buckets + 4 * self.input["position"]["num_bands"]
        self.train, self.test = [], []
        listing = folder / self.spec["replays"]
        with open(listing, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                frames = read_frames(listing.parent / f"{row['id']}.csv.gz", self.input["index_dims"][0])
                (self.test if row["id"] in self.spec["held_out"] else self.train).extend(frames)

    def example(self, seconds, frame, uniform):
        hidden = [entity[2] > 0 and uniform() < self.spec["hidden"] for entity in frame]
        return frame, hidden, sum(seconds >= 60 * minutes for minutes in self.spec["phases"])

    def batch(self, examples):
        return make_batch(examples, self.buckets, self.input["position"])


def train(model, games, args):
    rng = random.Random(1)
    optimiser = torch.optim.AdamW(model.parameters(), args.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / args.steps)) / 2)
    start = time.time()
    for step in range(args.steps):
        chosen = rng.choices(games.train, k=args.batch_size)
        tokens, present, hidden, owners, phases = games.batch(
            [games.example(seconds, changed(frame, rng), rng.random) for seconds, frame in chosen])
        owner, whole = model(tokens, present)
        loss = functional.cross_entropy(owner[hidden], owners[hidden]) + functional.cross_entropy(whole, phases)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1}, loss {loss.item():.3f}, {time.time() - start:.0f} s", flush=True)


@torch.no_grad()
def measure(model, games):
    right = count = phase_right = 0
    for i, (seconds, frame) in enumerate(games.test):
        tokens, present, hidden, owners, phases = games.batch(
            [games.example(seconds, frame, Random(TEST_HIDDEN, i).uniform)])
        owner, whole = model(tokens, present)
        right += (owner[hidden].argmax(-1) == owners[hidden]).sum().item()
        count += hidden.sum().item()
        phase_right += (whole.argmax(-1) == phases).sum().item()
    print(f"{len(games.test)} frames, {count} hidden entities")
    print(f"owner_accuracy {right / max(count, 1):.4f}, phase_accuracy {phase_right / len(games.test):.4f}")


@torch.no_grad()
def flops(model, games):
    """Multiplications and additions of one full set, as torch counts them."""
    size = games.input["index_dims"][0]
    # fused attention on a CPU is not counted, so it is done as products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, size, games.channels), torch.ones(1, size, dtype=torch.bool))
    return counter.get_total_flops()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of relative data paths")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    games = Games(json.loads(args.recipe.read_text()), args.data)
    model = EntityTransformer(games.channels, len(games.spec["phases"]) + 1)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {flops(model, games) / 1e9:.2f} G "
          f"multiplications and additions, {len(games.train)} frames to train on")
    train(model, games, args)
    measure(model.eval(), games)


if __name__ == "__main__":
    main()
