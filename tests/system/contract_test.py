"""`perceiver forward`: names, shapes and files other programs rely on."""

import json
import unittest

from program import (FLOW, LANGUAGE, MULTIMODAL, PICTURES, SERIES, SHARED, WITH_TORCH, SystemTest,
                     main, read_safetensors, write_safetensors, zeros)

ENGINES = ("runtime", "nn") if WITH_TORCH else ("runtime",)


class Forward(SystemTest):
    models = {"language": LANGUAGE, "flow": FLOW, "multimodal": MULTIMODAL, "series": SERIES,
              "pictures": PICTURES}

    def forward(self, model, tensors, *options):
        inputs, outputs = self.path("in.safetensors"), self.path("out.safetensors")
        outputs.unlink(missing_ok=True)
        write_safetensors(inputs, tensors)
        self.good("forward", "--model", self.path(model), "--inputs", inputs, "--outputs", outputs,
                  *options)
        return read_safetensors(outputs)

    def shapes(self, answers):
        return {name: (dtype, shape) for name, (dtype, shape, _) in answers.items()}

    def test_language_answers_every_row_whatever_the_length(self):
        answers = self.forward("language", {"inputs": ("I64", [1, 5], [4, 70, 71, 72, 5])})
        self.assertEqual(self.shapes(answers), {"logits": ("F32", [1, 24, 262])})

    def test_padding_with_a_mask_changes_nothing(self):
        short = self.forward("language", {"inputs": ("I64", [1, 3], [4, 70, 5])})
        padded = self.forward("language", {"inputs": ("I64", [1, 6], [4, 70, 5, 0, 0, 0]),
                                           "attention_mask": ("I64", [1, 6], [1, 1, 1, 0, 0, 0])})
        for a, b in zip(short["logits"][2], padded["logits"][2]):
            self.assertAlmostEqual(a, b, delta=1e-5)

    def test_flow_answers_per_pixel(self):
        answers = self.forward("flow", {"inputs": zeros("F32", [1, 2, 27, 24, 32])})
        self.assertEqual(self.shapes(answers), {"logits": ("F32", [1, 24, 32, 2])})

    def multimodal_inputs(self):
        return {"inputs.image": zeros("F32", [1, 4, 3, 8, 8]),
                "inputs.audio": zeros("F32", [1, 48, 1]), "inputs.label": zeros("F32", [1, 7])}

    def test_multimodal_decodes_everything_without_points(self):
        answers = self.forward("multimodal", self.multimodal_inputs())
        self.assertEqual(self.shapes(answers), {"logits.image": ("F32", [1, 4, 8, 8, 3]),
                                                "logits.audio": ("F32", [1, 48]),
                                                "logits.label": ("F32", [1, 7])})

    def test_multimodal_decodes_the_asked_points(self):
        points = {"subsampled_output_points.image": ("I64", [3], [255, 0, 0]),
                  "subsampled_output_points.audio": ("I64", [2], [11, 3])}
        answers = self.forward("multimodal", {**self.multimodal_inputs(), **points})
        self.assertEqual(self.shapes(answers), {"logits.image": ("F32", [1, 3, 3]),
                                                "logits.audio": ("F32", [1, 8]),
                                                "logits.label": ("F32", [1, 7])})
        image = answers["logits.image"][2]
        for a, b in zip(image[3:6], image[6:9]):  # the same point twice
            self.assertAlmostEqual(a, b, delta=1e-6)

    def test_a_small_memory_budget_gives_the_same_answer(self):
        whole = self.forward("multimodal", self.multimodal_inputs())
        pieces = self.forward("multimodal", self.multimodal_inputs(), "--memory-budget", "64KiB")
        for name, (_, _, values) in whole.items():
            for a, b in zip(values, pieces[name][2]):
                self.assertAlmostEqual(a, b, delta=1e-5)

    def test_a_model_from_a_spec_file_reads_by_its_own_names(self):
        tensors = {"inputs.sensor": ("F32", [1, 20, 2], [i / 7 for i in range(40)])}
        whole = self.forward("series", tensors)
        self.assertEqual(self.shapes(whole), {"logits": ("F32", [1, 6, 5])})
        some = self.forward("series", {**tensors, "points.state": ("I64", [2], [4, 1])})
        for a, b in zip(whole["logits"][2][20:25], some["logits"][2][:5]):
            self.assertAlmostEqual(a, b, delta=1e-5)

    def stats(self, model, tensors, *options):
        stats = self.path("stats.json")
        self.forward(model, tensors, "--stats", stats, *options)
        return json.loads(stats.read_text())

    def test_stats_say_what_the_run_cost(self):
        said = self.stats("series", {"inputs": zeros("F32", [2, 20, 2])}, "--repeat", 3, "--threads", 1,
                          "--gemm-peak")
        self.assertEqual(len(said["forward_seconds"]), 3)
        self.assertTrue(all(seconds > 0 for seconds in said["forward_seconds"]))
        self.assertGreater(said["load_seconds"], 0)
        self.assertGreater(said["peak_rss_bytes"], 1 << 20)
        self.assertEqual(said["engine"], "runtime")
        self.assertEqual(said["requested_plan"], "auto")
        self.assertTrue(said["kernels"])
        self.assertEqual(said["bfloat16_kernels"], "")  # nothing asked for bfloat16
        self.assertGreater(said["flops"], 0)
        self.assertGreater(said["gemm_peak_flops"], 1e8)
        for one in said["attentions"]:
            self.assertIn(one["plan"], ("textbook", "absorbed", "factored"))
            self.assertTrue(one["reason"])
            self.assertGreater(one["flops"], 0)
        self.assertEqual({one["attention"] for one in said["attentions"]}, set(said["plan"]))
        self.assertIn("encoder.cross_attend.0", said["plan"])

    def test_a_forced_plan_runs_or_says_why_not(self):
        inputs = {"series": {"inputs": zeros("F32", [1, 20, 2])},
                  "language": {"inputs": ("I64", [1, 3], [4, 70, 5])}}
        for engine in ENGINES:
            with self.subTest(engine=engine):
                for plan in ("textbook", "absorbed"):
                    said = self.stats("series", inputs["series"], "--plan", plan, "--engine", engine)
                    self.assertEqual(said["engine"], engine)
                    self.assertEqual(said["requested_plan"], plan)
                    self.assertEqual(said["plan"]["encoder.cross_attend.0"], plan)
                said = self.stats("series", inputs["series"], "--plan", "factored", "--engine", engine)
                self.assertEqual(said["plan"]["encoder.cross_attend.0"], "factored")
                self.assertEqual(said["plan"]["encoder.self_attend"], "textbook")
                # learned positions: nothing to factor, and the stats say so
                said = self.stats("language", inputs["language"], "--plan", "factored", "--engine",
                                  engine)
                self.assertEqual(said["plan"]["encoder.cross_attend.0"], "absorbed")
                reasons = {one["attention"]: one["reason"] for one in said["attentions"]}
                self.assertIn("factored", reasons["encoder.cross_attend.0"])

    def test_every_engine_and_plan_gives_the_same_answer(self):
        calls = {"series": {"inputs": ("F32", [2, 20, 2], [i % 13 / 7 - 1 for i in range(80)])},
                 "pictures": {"inputs": ("F32", [1, 12, 10, 3], [i % 11 / 5 - 1 for i in range(360)])},
                 "language": {"inputs": ("I64", [2, 5], [4, 70, 71, 72, 5, 4, 90, 5, 0, 0]),
                              "attention_mask": ("I64", [2, 5], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0])},
                 "multimodal": self.multimodal_inputs(), "flow": {"inputs": (
                     "F32", [1, 2, 27, 24, 32], [i % 17 / 8 - 1 for i in range(2 * 27 * 24 * 32)])}}
        for model, tensors in calls.items():
            truth = self.forward(model, tensors, "--engine", ENGINES[-1], "--plan", "textbook")
            for engine in ENGINES:
                for plan in ("auto", "textbook", "absorbed", "factored"):
                    with self.subTest(model=model, engine=engine, plan=plan):
                        answers = self.forward(model, tensors, "--engine", engine, "--plan", plan)
                        self.assertEqual(self.shapes(answers), self.shapes(truth))
                        for name, (_, _, values) in truth.items():
                            worst = max(abs(a - b) for a, b in zip(values, answers[name][2]))
                            self.assertLess(worst, 1e-4, name)

    def test_precisions(self):
        tensors = {"inputs": ("F32", [1, 20, 2], [i / 7 for i in range(40)])}
        exact = self.forward("series", tensors)
        if WITH_TORCH:
            self.assertEqual(self.stats("series", tensors, "--precision", "fp64")["engine"], "nn")
            exact = self.forward("series", tensors, "--precision", "fp64")
            self.assertEqual(exact["logits"][0], "F64")
        for engine in ENGINES:
            for precision, tolerance in [("fp32", 1e-5), ("bf16", 0.1)]:
                rough = self.forward("series", tensors, "--precision", precision, "--engine", engine)
                self.assertEqual(rough["logits"][0], "F32")
                for a, b in zip(exact["logits"][2], rough["logits"][2]):
                    self.assertAlmostEqual(a, b, delta=tolerance)

    def test_what_an_engine_cannot_do_is_told(self):
        write_safetensors(self.path("in.safetensors"), {"inputs": zeros("F32", [1, 20, 2])})
        files = ["forward", "-m", self.path("series"), "-i", self.path("in.safetensors"), "-o",
                 self.path("never.safetensors")]
        self.bad(*files, "--engine", "runtime", "--precision", "fp64", says=["runtime", "fp64"])
        self.bad(*files, "--engine", "runtime", "--device", "cuda", says=["runtime", "cuda"])
        self.bad(*files, "--device", "warp", says=["warp"] if WITH_TORCH else ["LibTorch"])
        if not WITH_TORCH:
            self.bad(*files, "--engine", "nn", says=["LibTorch"])
            self.bad(*files, "--precision", "fp64", says=["LibTorch"])
        self.assertFalse(self.path("never.safetensors").exists())

    def test_json_lists_the_outputs(self):
        write_safetensors(self.path("in.safetensors"), {"inputs": zeros("F32", [1, 20, 2])})
        said = self.good("forward", "-m", self.path("series"), "-i", self.path("in.safetensors"),
                         "-o", self.path("out.safetensors"), "--json").json
        self.assertEqual(said["outputs"], {"logits": {"dtype": "F32", "shape": [1, 6, 5]}})

    def test_mistakes_name_the_tensor(self):
        cases = [
            ("series", {"inputs": zeros("F32", [1, 20, 3])}, ['"inputs"', "[B, 20, 2]", "[1, 20, 3]"]),
            ("series", {"inputs": zeros("I64", [1, 20, 2])}, ['"inputs"', "I64"]),
            ("series", {"x": zeros("F32", [1, 20, 2])}, ['"inputs"', "missing"]),
            ("language", {"inputs": zeros("I64", [1, 25])}, ["25 tokens", "24"]),
            ("language", {"inputs": ("I64", [1, 1], [-1])}, ["token id -1"]),
            ("language", {"inputs": zeros("I64", [1, 4]), "typo": zeros("I64", [1])}, ['"typo"']),
            ("flow", {"inputs": zeros("F32", [1, 2, 24, 32, 27])}, ["[B, 2, 27, 24, 32]"]),
            ("multimodal", {**self.multimodal_inputs(), "inputs.label": zeros("F32", [1, 8])},
             ['"inputs.label"', "[1, 8]"]),
            ("multimodal", {**self.multimodal_inputs(),
                            "subsampled_output_points.image": ("I64", [1], [256])},
             ["index 256", "256 rows"]),
        ]
        for model, tensors, says in cases:
            with self.subTest(model=model, says=says):
                outputs = self.path("never.safetensors")
                outputs.unlink(missing_ok=True)
                write_safetensors(self.path("in.safetensors"), tensors)
                self.bad("forward", "-m", self.path(model), "-i", self.path("in.safetensors"),
                         "-o", outputs, says=says)
                self.assertFalse(outputs.exists())


@unittest.skipUnless((SHARED / "fixtures/transformers").is_dir(),
                     "needs ../shared/fixtures, which is not beside this checkout")
class RecordedAnswers(SystemTest):
    """What transformers answered at small sizes, from its own folders."""

    CASES = [("language", ""), ("language", "short."), ("vision_fourier", ""), ("vision_learned", ""),
             ("vision_conv", ""), ("optical_flow", ""), ("multimodal", ""), ("multimodal", "points."),
             ("sequence_classification", ""), ("hub_style_vision_conv", "")]
    ARGUMENTS = ("inputs", "attention_mask", "subsampled_output_points")

    def test_forward_answers_the_same(self):
        for model, call in self.CASES:
            with self.subTest(model=model, call=call):
                self.compare(SHARED / "fixtures/transformers" / model, call)

    def compare(self, folder, call):
        recorded = read_safetensors(folder / "io.safetensors")
        inputs = {name[len("in." + call):]: value for name, value in recorded.items()
                  if name.startswith("in." + call)}
        inputs = {name: value for name, value in inputs.items()
                  if name.split(".")[0] in self.ARGUMENTS}
        write_safetensors(self.path("in.safetensors"), inputs)
        self.good("forward", "-m", folder, "-i", self.path("in.safetensors"),
                  "-o", self.path("out.safetensors"))
        answers = read_safetensors(self.path("out.safetensors"))
        for name, (_, shape, values) in answers.items():
            _, expected_shape, expected = recorded[f"f64.{call}{name}"]
            self.assertEqual(shape, expected_shape, name)
            # Ten times transformers' own float32 error at these sizes; tests/parity judges exactly.
            worst = max(abs(a - b) for a, b in zip(values, expected))
            self.assertLess(worst, 1e-4, name)


if __name__ == "__main__":
    main()
