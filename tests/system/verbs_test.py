"""What each verb answers, where it writes it, and that --json is JSON."""

import json
import unittest
import wave
from pathlib import Path

from program import (FLOW, LANGUAGE, MULTIMODAL, PICTURES, ROOT, SENTIMENT, SERIES, SHARED, SOUNDS,
                     WITH_TORCH, SystemTest, main, png, read_safetensors, run)

VERBS = ("demo", "info", "forward", "fill-mask", "classify", "flow", "autoencode", "convert", "init",
         "verify", "train", "eval", "plot")


class Help(SystemTest):
    def test_every_verb_explains_itself(self):
        listed = self.good("--help").out
        self.assertIn("Exit codes", listed)
        for verb in VERBS:
            self.assertIn(f"\n  {verb} ", listed)
            answer = self.good(verb, "--help")
            self.assertIn("--json", answer.out)
            self.assertEqual(answer.err, "")

    def test_version(self):
        self.assertRegex(self.good("--version").out, r"^perceiver \d+\.\d+\.\d+\n$")


class Info(SystemTest):
    models = {"series": SERIES, "language": LANGUAGE}

    def test_lists_the_presets(self):
        presets = {one["name"]: one for one in self.good("info", "--json").json["presets"]}
        self.assertEqual(presets["language-perceiver"]["parameters"], 201108230)
        self.assertEqual(presets["optical-flow-perceiver"]["parameters"], 41057134)
        self.assertIn("starcraft2-entities", self.good("info").out)

    def test_describes_a_preset_per_stage(self):
        answer = self.good("info", "--preset", "vision-perceiver-fourier")
        for text in ("48,440,627", "50,176 x 261", "512 x 1024", "encode", "decode", "textbook",
                     "factored", "absorbed would be", "Kernels:", "Attention in bfloat16:", "softmax state",
                     "185 MiB"):
            self.assertIn(text, answer.out)
        said = self.good("info", "--preset", "vision-perceiver-fourier", "--json").json
        self.assertAlmostEqual(said["flops"], 406.1e9, delta=0.1e9)
        self.assertEqual(said["spec"]["encoder"]["num_latents"], 512)
        plans = {one["attention"]: one for one in said["plans"]}
        self.assertEqual(plans["encoder.cross_attend.0"]["plan"], "factored")
        self.assertLess(plans["encoder.cross_attend.0"]["flops"], 4e9)
        self.assertGreater(plans["encoder.cross_attend.0"]["textbook_flops"], 40e9)
        self.assertEqual([one["active"] for one in said["kernels"]].count(True), 1)
        for one in said["bfloat16_kernels"]:  # either in use or it says why not
            self.assertNotEqual(one["active"], bool(one["reason"]))
        self.assertGreater(said["peak_bytes"], 4 * 48440627)
        forced = self.good("info", "--preset", "vision-perceiver-learned", "--plan", "factored",
                           "--json").json["plans"]
        self.assertEqual(forced[0]["plan"], "absorbed")
        self.assertIn("learned positions", forced[0]["reason"])

    def test_describes_a_folder(self):
        for model in ("series", "language"):
            self.assertEqual(self.good("info", "-m", self.path(model)).out,
                             self.good("info", self.path(model)).out)


class InitAndConvert(SystemTest):
    models = {"series": SERIES, "language": LANGUAGE}

    def weights(self, folder):
        return {name: (dtype, shape, list(values)) for name, (dtype, shape, values)
                in read_safetensors(folder / "model.safetensors").items()}

    def test_the_seed_decides_the_weights(self):
        for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
            self.good("init", "--preset", "timeseries", "--seed", seed, self.path(name))
        self.assertEqual(self.weights(self.path("a")), self.weights(self.path("b")))
        self.assertNotEqual(self.weights(self.path("a")), self.weights(self.path("c")))

    def test_a_vision_preset_carries_its_image_processor(self):
        self.good("init", "--preset", "vision-perceiver-conv", self.path("conv"))
        said = json.loads((self.path("conv") / "preprocessor_config.json").read_text())
        self.assertEqual(said["size"], {"height": 224, "width": 224})

    def test_layouts_there_and_back(self):
        ours, back = self.path("ours"), self.path("back")
        said = self.good("convert", self.path("language"), ours, "--layout", "perceiver", "--json").json
        self.assertEqual(said["layout"], "perceiver")
        self.assertTrue((ours / "spec.json").exists())
        self.good("convert", ours, back)
        self.assertEqual(self.weights(back), self.weights(self.path("language")))
        self.assertEqual(json.loads((back / "config.json").read_text()),
                         json.loads((self.path("language") / "config.json").read_text()))

    def test_computing_like_deepmind_needs_our_layout(self):
        out = self.path("deepmind")
        self.good("convert", self.path("language"), out, "--compat", "deepmind")
        spec = json.loads((out / "spec.json").read_text())
        self.assertEqual(spec["compatibility"]["activation"], "gelu_tanh")
        self.good("convert", out, self.path("transformers"), "--compat", "transformers")
        self.assertTrue((self.path("transformers") / "config.json").exists())
        self.bad("convert", out, self.path("never"), "--layout", "transformers")
        self.assertFalse(self.path("never").exists())

    @unittest.skipUnless((SHARED / "fixtures").is_dir(), "needs ../shared/fixtures")
    def test_torch_weights_become_safetensors(self):
        source = SHARED / "fixtures/transformers/hub_style_vision_conv"
        self.good("convert", source / "pytorch_model.bin", self.path("w.safetensors"))
        self.good("convert", source, self.path("folder"))
        self.assertIn("perceiver.embeddings.latents", read_safetensors(self.path("w.safetensors")))
        self.assertTrue((self.path("folder") / "preprocessor_config.json").exists())


class Text(SystemTest):
    models = {"language": LANGUAGE, "sentiment": SENTIMENT}

    def test_fill_mask(self):
        said = self.good("fill-mask", "-m", self.path("language"), "the [MASK]at", "--top", 3,
                         "--json").json["results"][0]
        self.assertEqual(said["text"], "the [MASK]at")
        self.assertEqual(len(said["masks"]), 1)
        self.assertEqual(said["masks"][0]["position"], 5)  # after [CLS]
        candidates = said["masks"][0]["candidates"]
        self.assertEqual(len(candidates), 3)
        self.assertGreaterEqual(candidates[0]["probability"], candidates[1]["probability"])

    def test_fill_mask_reads_standard_input_and_hides_words(self):
        answer = self.good("fill-mask", "-m", self.path("language"), "-", "--hide", "cat", "--top", 0,
                           stdin=b"a cat\nmy cat sat\n")
        self.assertEqual(answer.out.count("\n"), 2)
        self.assertTrue(answer.out.startswith("a "))
        said = self.good("fill-mask", "-m", self.path("language"), "a [MASK]", "--span", 4,
                         "--one-by-one", "--json").json["results"][0]
        self.assertEqual(len(said["masks"]), 4)

    def test_classify_text(self):
        said = self.good("classify", "-m", self.path("sentiment"), "I liked it", "--json").json
        classes = said["results"][0]["classes"]
        self.assertEqual({one["label"] for one in classes}, {"good", "bad"})
        self.assertAlmostEqual(sum(one["probability"] for one in classes), 1, places=6)
        self.assertIn("%", self.good("classify", "-m", self.path("sentiment"), "I liked it").out)


class Pictures(SystemTest):
    models = {"pictures": PICTURES, "flow": FLOW}

    def setUp(self):
        self.path("a.png").write_bytes(png(40, 30))
        self.path("b.png").write_bytes(png(40, 30, lambda x, y: (y * 9 % 256, x * 3 % 256, 80)))

    def test_classify(self):
        said = self.good("classify", "-m", self.path("pictures"), self.path("a.png"),
                         self.path("b.png"), "--top", 2, "--json").json["results"]
        self.assertEqual([one["input"] for one in said],
                         [str(self.path("a.png")), str(self.path("b.png"))])
        self.assertEqual(len(said[0]["classes"]), 2)
        self.assertIn(said[0]["classes"][0]["label"], ("cat", "dog", "bird"))

    def test_attention_is_a_picture(self):
        out = self.path("attention.png")
        self.good("classify", "-m", self.path("pictures"), self.path("a.png"), "--attention", out)
        self.assertEqual(out.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_flow_of_any_size_in_both_formats(self):
        for size in [(40, 30), (20, 10), (32, 24)]:
            with self.subTest(size=size):
                self.path("a.png").write_bytes(png(*size))
                flo, picture = self.path("o.flo"), self.path("o.png")
                said = self.good("flow", "-m", self.path("flow"), self.path("a.png"),
                                 self.path("a.png"), "-o", flo, "--picture", picture, "--json").json
                self.assertEqual((said["width"], said["height"]), size)
                self.assertEqual(flo.stat().st_size, 12 + 8 * size[0] * size[1])
                self.assertEqual(flo.read_bytes()[:4], b"PIEH")
                self.assertEqual(picture.read_bytes()[:4], b"\x89PNG")
        self.good("flow", "-m", self.path("flow"), self.path("a.png"), self.path("a.png"), "-o",
                  self.path("kitti.png"))


class Sounds(SystemTest):
    models = {"sounds": SOUNDS}

    def setUp(self):
        with wave.open(str(self.path("a.wav")), "wb") as file:
            file.setparams((2, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(range(250)) * 8)

    def test_classify_needs_the_models_rate(self):
        folder = self.path("sounds")
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
        self.bad("classify", "-m", folder, self.path("a.wav"), says=["sampling_rate"])
        (folder / "preprocessor_config.json").write_text('{"sampling_rate": 4000}')
        said = self.good("classify", "-m", folder, self.path("a.wav"), "--top", 2, "--windows", 3,
                         "--json").json["results"]
        self.assertEqual(len(said[0]["classes"]), 2)
        self.assertIn(said[0]["classes"][0]["label"], ("cat", "dog", "bird"))
        self.bad("classify", "-m", folder, self.path("none.wav"), says=["none.wav"])


@unittest.skipUnless((SHARED / "data/video").is_dir(), "needs ../shared/data, absent here")
class Film(SystemTest):
    models = {"multimodal": MULTIMODAL}

    def test_autoencode_writes_a_film_with_sound(self):
        films = sorted(Path(SHARED / "data/video").glob("*.mp4"))
        out = self.path("out.mp4")
        said = self.good("autoencode", "-m", self.path("multimodal"), films[0], "-o", out, "--chunks",
                         3, "--json").json
        self.assertEqual(said["frames"], 4)
        self.assertIn(b"ftyp", out.read_bytes()[:16])
        self.assertEqual(len(said["classes"]), 5)
        self.assertTrue(said["classes"][0]["label"].startswith("deed"))


class Verify(SystemTest):
    models = {"language": LANGUAGE}

    def test_a_random_model_fails(self):
        answer = run("verify", "-m", self.path("language"), "--json")
        self.assertEqual(answer.code, 1)
        self.assertFalse(answer.json["pass"])
        self.assertIn("NOT verified", run("verify", "-m", self.path("language")).out)


@unittest.skipIf(WITH_TORCH, "this program trains")
class WithoutTraining(SystemTest):
    def test_train_and_eval_say_what_is_missing(self):
        for verb in ("train", "eval"):
            self.bad(verb, ROOT / "recipes/mnist.json", "--out", self.path("never"), "--set", "a=b",
                     says=[verb, "without LibTorch", "make build"])
            self.assertIn("not in this build", self.good(verb, "--help").out)
        self.assertFalse(self.path("never").exists())

    def test_help_offers_only_what_is_there(self):
        self.assertNotIn("nn", self.good("forward", "--help").out.split("Engine:")[1].split(";")[0])


SHIPPED = all((ROOT / "models" / name).is_dir() for name in ("mnist-perceiver", "byte-mlm-perceiver"))


@unittest.skipUnless(SHIPPED, "the shipped models are not in this checkout")
class Demo(SystemTest):
    def test_the_demo_reads_well_and_writes_its_page(self):
        page = self.path("demo.html")
        said = self.good("demo", "--page", page, "--json").json
        right = sum(one["classes"][0]["label"] == one["truth"] for one in said["pictures"])
        self.assertGreaterEqual(right, 8)
        for line in said["lines"]:
            self.assertTrue(line["hidden"])
            self.assertNotIn("[MASK]", line["filled"])
            shown, filled = line["text"].encode(), line["filled"].encode()
            if len(shown) == len(filled):  # a hidden byte may come back as part of a longer character
                kept = set(range(len(shown))) - set(line["hidden"])
                self.assertEqual(bytes(shown[i] for i in kept), bytes(filled[i] for i in kept))
        text = page.read_text(encoding="utf-8")
        self.assertIn("data:image/png;base64,", text)
        self.assertNotIn("http", text)

    def test_shipped_models_are_the_default(self):
        digit = ROOT / "models/demo/digits/7.png"
        self.assertIn("7", self.good("classify", digit, "--top", 1).out.split("\n")[1])
        self.good("fill-mask", "She was very [MASK][MASK][MASK][MASK][MASK] to see him.")

    def test_the_words_printed(self):
        answer = self.good("demo", "--page", "")
        self.assertIn("PICTURES", answer.out)
        self.assertIn("TEXT", answer.out)


if __name__ == "__main__":
    main()
