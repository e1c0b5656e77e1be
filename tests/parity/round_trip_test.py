"""transformers loads what we write and computes what we compute."""

import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.environ.get("PERCEIVER_SOURCE_DIR",
                      os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PROGRAM = os.environ.get("PERCEIVER_PROGRAM", os.path.join(ROOT, "build", "bin", "perceiver"))
sys.path.insert(0, os.path.join(ROOT, "tools", "oracle"))

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    import stages
    import transformers_small
except ImportError as missing:
    print(f"SKIPPED: {missing}; pip install torch transformers safetensors")
    sys.exit(77)

if not os.path.exists(PROGRAM):
    print(f"SKIPPED: {PROGRAM} is not built")
    sys.exit(77)

# Of the largest logit. Both are float32; a table of Fourier features is within a last bit of theirs.
CLOSE = 3e-5


def perceiver(*arguments):
    result = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssertionError(f"perceiver {' '.join(arguments)}: {result.stderr.strip()}")


def ours(folder, tensors):
    with tempfile.TemporaryDirectory() as scratch:
        given, answer = (os.path.join(scratch, leaf) for leaf in ("in.safetensors", "out.safetensors"))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, given)
        perceiver("forward", "--model", folder, "--inputs", given, "--outputs", answer)
        return load_file(answer)


class RoundTrip(unittest.TestCase):
    def load(self, kind, folder):
        """The folder as transformers loads it, every tensor accounted for."""
        model, report = kind.from_pretrained(folder, output_loading_info=True)
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            self.assertFalse(report[what], f"{what} in {folder}")
        return model.eval()

    def expect_same_logits(self, model, folder, tensors):
        theirs = {name: value for name, value in stages.run(model, tensors).items() if name.startswith("logits")}
        answers = ours(folder, tensors)
        self.assertEqual(sorted(theirs), sorted(answers))
        for name, expected in theirs.items():
            self.assertEqual(answers[name].shape, expected.shape, name)
            apart = (answers[name] - expected).abs().max() / expected.abs().max()
            self.assertLessEqual(apart.item(), CLOSE, name)

    def round_trip(self, name):
        torch.manual_seed(0)
        model, calls = transformers_small.CASES[name](transformers_small.Draw(1))
        stages.spread_weights(model.eval(), 1)
        tensors = next(iter(calls.values()))
        with tempfile.TemporaryDirectory() as scratch:
            theirs, written, fresh = (os.path.join(scratch, leaf) for leaf in ("theirs", "written", "fresh"))
            model.save_pretrained(theirs)

            perceiver("convert", theirs, written)
            again = self.load(type(model), written)
            for key, tensor in model.state_dict().items():
                self.assertTrue(torch.equal(again.state_dict()[key], tensor), key)
            self.expect_same_logits(again, written, tensors)

            perceiver("init", "--spec", os.path.join(theirs, "config.json"), "--seed", "5", fresh)
            self.expect_same_logits(self.load(type(model), fresh), fresh, tensors)


def add_test(name):
    setattr(RoundTrip, f"test_{name}", lambda self: self.round_trip(name))


for case_name in transformers_small.CASES:
    add_test(case_name)

if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    unittest.main(verbosity=2)
