"""What the bench measures: the six released configurations and two tasks, and what each must reach."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "oracle"))
import full_models  # noqa: E402

MIB = 2**20
CHUNKS = 128  # transformers decodes the multimodal model in so many parts


@dataclass
class Target:
    eager: float = 0  # times faster than transformers eager
    best: float = 0  # times faster than the faster of torch.compile and OpenVINO
    peak_mib: float = 0


@dataclass
class Case:
    name: str
    preset: str
    target: Target = field(default_factory=Target)
    peers: tuple = ("eager", "compile", "openvino")
    skipped: dict = field(default_factory=dict)  # column -> why it is not tried
    rounds: int = 3
    exact: bool = False  # a float64 run takes seconds, so it is part of every bench
    peer_chunks: int = 1  # so many forwards of the peer make one of ours

    def peer_inputs(self):
        return full_models.inputs(self.preset)

    def our_inputs(self):
        return self.peer_inputs()

    def comparable(self, ours, theirs):
        """Of our answers, what corresponds to a peer's."""
        return {name: ours[name][:, : theirs[name].shape[1]] if name == "logits" else ours[name] for name in theirs}, theirs


class FillMask(Case):
    """One masked word in a line of 60 bytes. transformers pads to 2,048 bytes, as its tokenizer's
    padding="max_length" does in every published example, and answers for all of them."""

    def tokens(self):
        line = b"The quick brown fox jumps over the lazy dog near a riverbank"
        start = line.index(b"jumps")
        ids = [4] + [byte + 6 for byte in line] + [5]  # [CLS] and [SEP] around bytes shifted by 6
        masked = np.arange(start, start + len(b"jumps")) + 1
        ids = np.array([ids], np.int64)
        ids[0, masked] = 3
        return ids, masked

    def our_inputs(self):
        ids, masked = self.tokens()
        return {"inputs": ids, "subsampled_output_points.logits": masked.astype(np.int64)}

    def peer_inputs(self):
        ids, _ = self.tokens()
        padded = np.zeros((1, 2048), np.int64)
        padded[0, : ids.shape[1]] = ids
        return {"inputs": padded, "attention_mask": (np.arange(2048) < ids.shape[1])[None].astype(np.int64)}

    def comparable(self, ours, theirs):
        return ours, {"logits": theirs["logits"][:, self.tokens()[1]]}


class MultimodalAll(Case):
    """All 804,737 outputs. We encode once; a peer that encodes again for each of its 128 chunks is
    measured on one of them."""

    def our_inputs(self):
        return {name: value for name, value in self.peer_inputs().items() if name.startswith("inputs")}

    def comparable(self, ours, theirs):
        points = {name.rpartition(".")[2]: value for name, value in self.peer_inputs().items()
                  if name.startswith("subsampled")}
        image = ours["logits.image"].reshape(1, -1, 3)[:, points["image"]]
        sound = ours["logits.audio"].reshape(1, 1920, -1)[:, points["audio"]]
        return ({"logits.image": image.reshape(theirs["logits.image"].shape),
                 "logits.audio": sound.reshape(theirs["logits.audio"].shape),
                 "logits.label": ours["logits.label"]}, theirs)


SLOW_CONVERSION = "did not convert within 400 s when tried"
CASES = [
    Case("language-perceiver", "language-perceiver", Target(1.4, 1.1, 1100), exact=True),
    FillMask("fill-mask, one word of 60 bytes", "language-perceiver", Target(1.7, 1.3)),
    Case("vision-perceiver-learned", "vision-perceiver-learned", Target(1.4, 0, 700), rounds=2, exact=True),
    Case("vision-perceiver-fourier", "vision-perceiver-fourier", Target(1.4, 1.2, 450), rounds=2, exact=True),
    Case("vision-perceiver-conv", "vision-perceiver-conv", Target(1.2, 1.15, 450), rounds=2, exact=True),
    Case("optical-flow-perceiver", "optical-flow-perceiver", Target(5, 2.3, 900), rounds=2,
         skipped={"textbook": "not asked for: the slow order of a slow model", "openvino": SLOW_CONVERSION}),
    Case("multimodal-perceiver, one chunk", "multimodal-perceiver", rounds=2),
    MultimodalAll("multimodal-perceiver, all outputs", "multimodal-perceiver", Target(12, 0, 1000), rounds=2,
                  peers=("eager",), peer_chunks=CHUNKS,
                  skipped={"textbook": "not asked for: the slow order of a slow model",
                           "nn": "minutes a forward"}),
]


def make_model(program, preset, folder):
    """A model folder of random weights, always the same; kept between runs."""
    if not os.path.exists(folder):
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        subprocess.run([program, "init", "--preset", preset, "--seed", "1", "--quiet", folder], check=True,
                       stdout=subprocess.DEVNULL)


def case(name):
    return next(c for c in CASES if c.name == name)
