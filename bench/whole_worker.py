"""Whole training steps of transformers' model, eager: batch, forward, backward, AdamW.

    python bench/whole_worker.py FOLDER RECIPE TEXT THREADS REPORT     # see whole_step.py

Task, model, batch size, steps, masking and optimiser are those of the recipe. REPORT, JSON: {"seconds": [per step],
"loss": of the first one}.
"""

import json
import os
import sys
import time

import torch
from torch.nn import functional

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "oracle"))
import full_models  # noqa: E402

MASK, CLS, SEP, FIRST_BYTE = 3, 4, 5, 6  # of PerceiverTokenizer
NOT_ASKED = -100


def windows(text, length, size, rate, random):
    """`size` windows of the text with hidden bytes, and what they hid."""
    begins = torch.randint(len(text) - length, (size, 1), generator=random)
    ids = text[begins + torch.arange(length - 2)] + FIRST_BYTE
    hidden = torch.rand(ids.shape, generator=random) < rate
    labels = torch.where(hidden, ids, NOT_ASKED)
    ids = torch.where(hidden, MASK, ids)
    frame = functional.pad(ids, (1, 1))
    frame[:, 0], frame[:, -1] = CLS, SEP
    return frame, functional.pad(labels, (1, 1), value=NOT_ASKED)


class Text:
    """Masked language modelling."""

    def __init__(self, folder, recipe, text):
        self.model, self.recipe = full_models.load_peer(folder).float(), recipe
        with open(text, "rb") as file:
            self.text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).long()
        self.random = torch.Generator().manual_seed(1)

    def loss(self):
        ids, labels = windows(self.text, self.model.config.max_position_embeddings, self.recipe["batch_size"],
                              self.recipe["masking"]["rate"], self.random)
        logits = self.model(input_ids=ids).logits
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NOT_ASKED)


class Random:
    """A model of the recipe's configuration, on random numbers."""

    def __init__(self, folder, recipe, text):
        import transformers

        config = transformers.PerceiverConfig.from_dict(recipe["model"]["hugging_face"])
        self.model, self.size = getattr(transformers, config.architectures[0])(config), recipe["batch_size"]


class Pictures(Random):
    def loss(self):
        labels = torch.randint(self.model.config.num_labels, (self.size,))
        return functional.cross_entropy(self.model(inputs=torch.randn(self.size, 3, 224, 224)).logits, labels)


class Flow(Random):
    def loss(self):
        height, width = self.model.config.train_size
        flow = self.model(inputs=torch.randn(self.size, 2, 27, height, width)).logits
        return (flow - torch.randn_like(flow)).norm(dim=-1).mean()


TASKS = {"masked_language_model": Text, "image_classification": Pictures, "optical_flow": Flow}


def main():
    folder, recipe, text, threads, report = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with open(recipe, encoding="utf-8") as file:
        recipe = json.load(file)
    task = TASKS[recipe["task"]](folder, recipe, text)
    model = task.model.eval()  # no dropout, gradients all the same
    own = recipe["optimiser"]
    optimiser = torch.optim.AdamW(model.parameters(), own["learning_rate"], (own["beta1"], own["beta2"]),
                                  own["epsilon"], own["weight_decay"])
    seconds, losses = [], []
    for _ in range(recipe["steps"]):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss = task.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), own["clip_norm"])
        optimiser.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    with open(report, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "loss": losses[0]}, file)


if __name__ == "__main__":
    main()
