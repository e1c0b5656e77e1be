"""The program as seen from outside, and small files to feed it. Standard library only."""

import array
import json
import math
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
import zlib
from pathlib import Path

ROOT = Path(os.environ.get("PERCEIVER_SOURCE_DIR", Path(__file__).resolve().parents[2]))
PROGRAM = os.environ.get("PERCEIVER_PROGRAM", str(ROOT / "build/bin/perceiver"))
WITH_TORCH = os.environ.get("PERCEIVER_WITH_TORCH", "ON") == "ON"
SHARED = Path(os.environ.get("PERCEIVER_SHARED", ROOT / "../shared"))

BYTES = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
CODES = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "U8": "B", "BOOL": "B"}

TINY = {
    "model_type": "perceiver", "num_latents": 4, "d_latents": 16, "num_blocks": 1,
    "num_self_attends_per_block": 2, "num_self_attention_heads": 2, "qk_channels": 16,
    "v_channels": 16,
}
LANGUAGE = {**TINY, "architectures": ["PerceiverForMaskedLM"], "d_model": 8,
            "num_cross_attention_heads": 2, "max_position_embeddings": 24}
SENTIMENT = {**TINY, "architectures": ["PerceiverForSequenceClassification"], "d_model": 8,
             "num_cross_attention_heads": 2, "max_position_embeddings": 24,
             "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
FLOW = {**TINY, "architectures": ["PerceiverForOpticalFlow"], "d_model": 322,
        "num_cross_attention_heads": 1, "train_size": [24, 32]}
MULTIMODAL = {**TINY, "architectures": ["PerceiverForMultimodalAutoencoding"], "d_model": 704,
              "num_cross_attention_heads": 1, "num_frames": 4, "image_size": 3,
              "audio_samples_per_frame": 12, "samples_per_patch": 4, "output_shape": [1, 4, 8, 8],
              "output_num_channels": 16, "_label_trainable_num_channels": 20,
              "id2label": {str(i): f"deed {i}" for i in range(7)},
              "label2id": {f"deed {i}": i for i in range(7)}}
PICTURES = {
    "name": "pictures",
    "inputs": [{"name": "image", "kind": "grid", "index_dims": [12, 10], "channels": 3,
                "position": {"kind": "fourier", "num_bands": 3}}],
    "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2},
                "num_self_attends_per_block": 2},
    "decoder": {"output_channels": 3, "cross_attend": {"use_query_residual": True}},
    "outputs": [{"name": "class", "query": "learned", "index_dims": [1], "channels": 16,
                 "single_row": True}],
    "labels": ["cat", "dog", "bird"],
}
SOUNDS = {
    **PICTURES,
    "name": "sounds",
    "inputs": [{"name": "audio", "kind": "grid", "index_dims": [64], "channels": 1, "stem": "patches",
                "downsample": [8], "position": {"kind": "fourier", "num_bands": 3}}],
}
SERIES = {
    "name": "series",
    "inputs": [{"name": "sensor", "kind": "grid", "index_dims": [20], "channels": 2,
                "position": {"kind": "fourier", "num_bands": 3}}],
    "encoder": {"num_latents": 4, "latent_channels": 16},
    "decoder": {"output_channels": 5},
    "outputs": [{"name": "state", "query": "learned", "index_dims": [6], "channels": 16}],
}


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, flat values)."""
    header, blobs, offset = {}, [], 0
    for name, (dtype, shape, values) in tensors.items():
        blob = array.array(CODES[dtype], values).tobytes()
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    data = Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, info in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + at for at in info["data_offsets"])
        values = array.array(CODES[info["dtype"]])
        values.frombytes(data[begin:end])
        out[name] = (info["dtype"], info["shape"], values)
    return out


def zeros(dtype, shape):
    return dtype, shape, [0] * math.prod(shape)


def png(width, height, pixel=lambda x, y: (x * 7 % 256, y * 5 % 256, (x + y) % 256)):
    """Bytes of an RGB picture."""
    rows = b"".join(b"\0" + bytes(c for x in range(width) for c in pixel(x, y))
                    for y in range(height))

    def chunk(kind, body):
        return (struct.pack(">I", len(body)) + kind + body
                + struct.pack(">I", zlib.crc32(kind + body)))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Answer:
    def __init__(self, done):
        self.code = done.returncode
        self.out = (done.stdout or b"").decode("utf-8", "replace")
        self.err = done.stderr.decode("utf-8", "replace")

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def last_json(self):
        """Of a verb that prints a line as it goes on: the result."""
        return json.loads(self.out.splitlines()[-1])

    def __repr__(self):
        return f"code {self.code}\nstdout: {self.out[:2000]}\nstderr: {self.err[:2000]}"


def run(*arguments, stdin=b"", **options):
    """`stdout=` an open file sends the results there instead."""
    options.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, timeout=300,
                          stderr=subprocess.PIPE, check=False, **options)
    return Answer(done)


class SystemTest(unittest.TestCase):
    """A folder with tiny random models, made once per class."""

    models = {}

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="perceiver-system-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        for name, spec in cls.models.items():
            description = cls.folder / f"{name}.description.json"
            description.write_text(json.dumps(spec))
            made = run("init", "--spec", description, "--seed", "3", cls.folder / name)
            if made.code != 0:
                raise AssertionError(f"init {name}: {made}")

    def path(self, name):
        return self.folder / name

    def good(self, *arguments, **options):
        answer = run(*arguments, **options)
        self.assertEqual(answer.code, 0, answer)
        return answer

    def bad(self, *arguments, code=1, says=(), **options):
        """Fails with `code`, one line on stderr that holds every text of `says`, nothing on stdout."""
        answer = run(*arguments, **options)
        self.assertEqual(answer.code, code, answer)
        self.assertEqual(answer.out, "", answer)
        self.assertEqual(answer.err.count("\n"), 1, answer)
        self.assertTrue(answer.err.startswith("perceiver: "), answer)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, answer.err)
        return answer


def main():
    if not Path(PROGRAM).exists():
        print(f"skipped: {PROGRAM} is not built")
        raise SystemExit(77)
    unittest.main()
