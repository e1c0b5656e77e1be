"""The worked example of docs/your-own-modality.md: arrays from a script, a recipe, a trained model."""

import subprocess
import sys
import unittest

from program import ROOT, WITH_TORCH, SystemTest, main

RECIPE = ROOT / "recipes/tensors-example.json"


@unittest.skipUnless(WITH_TORCH, "this program does not train")
class Tensors(SystemTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.data = cls.folder / "crane-data"
        subprocess.run([sys.executable, ROOT / "examples/tensors/make_data.py", cls.data,
                        "--train", "200", "--test", "50"], check=True)

    def test_trains_and_measures_the_same(self):
        short = ("--data", self.data, "--threads", "1", "--set", "steps=4", "--set",
                 "schedule.warmup_steps=1")
        trained = self.good("train", RECIPE, *short, "--out", self.path("crane"),
                            "--json").last_json
        measured = self.good("eval", "--recipe", RECIPE, "--data", self.data, "--model",
                             self.path("crane"), "--threads", "1", "--json").json
        self.assertEqual(measured["metrics"], trained["metrics"])
        for name in ("centre_rmse", "centre_mean_rmse", "overload_accuracy", "speed_accuracy",
                     "speed_majority_accuracy"):
            self.assertIn(name, trained["metrics"])

    def test_names_file_array_and_shapes_of_a_misfit(self):
        self.bad("train", RECIPE, "--data", self.data, "--out", self.path("never"), "--set",
                 "data.train.engine=train_boxes.npy",
                 says=["train_boxes.npy", "'engine'", "[n, 8, 3]", "[n, 64, 2]"])


if __name__ == "__main__":
    main()
