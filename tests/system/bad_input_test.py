"""Whatever is wrong with what the program is given: one line that names it, nothing half-written."""

import json
import os
import resource
import struct
import unittest
import zlib

from program import (FLOW, LANGUAGE, MULTIMODAL, PICTURES, SENTIMENT, SERIES, WITH_TORCH, SystemTest,
                     main, png, read_safetensors, run, write_safetensors, zeros)


class Usage(SystemTest):
    models = {"series": SERIES}

    def test_wrong_usage_is_code_2(self):
        model = self.path("series")
        files = ["-i", "a.safetensors", "-o", "b.safetensors"]
        cases = [
            (["clasify"], ["unknown verb 'clasify'", "did you mean 'classify'"]),
            (["xyzzy"], ["unknown verb", "--help"]),
            (["info", "--preset", "langauge-perceiver"], ["did you mean 'language-perceiver'"]),
            (["info", "--preset", "vision"], ["did you mean 'vision-perceiver-"]),
            (["info", "--modle", "x"], ["'--modle'", "did you mean '--model'"]),
            (["forward", "-m", model], ["--inputs", "perceiver forward --help"]),
            (["forward", "-m", model, *files, "--plan", "magic"], ["--plan", "textbook"]),
            (["forward", "-m", model, *files, "--engine", "warp"], ["--engine", "nn"]),
            (["forward", "-m", model, *files, "--precision", "int4"], ["--precision", "bf16"]),
            (["forward", "-m", model, *files, "--threads", "-1"], ["--threads"]),
            (["forward", "-m", model, *files, "--repeat", "0"], ["--repeat"]),
            (["forward", "-m", model, *files, "--memory-budget", "lots"], ["--memory-budget", "512MiB"]),
            (["init", self.path("new")], ["--preset", "--spec"]),
            (["init", "--preset", "modelnet4", self.path("new")], ["did you mean 'modelnet40'"]),
            (["flow", "-m", model, "a.png", "b.png"], ["--out"]),
            (["flow", "-m", model, "a.png", "b.png", "-o", "c.txt"], [".flo"]),
            (["demo", "--plan", "magic"], ["--plan", "textbook"]),
            (["info", "--preset", "timeseries", "--plan", "magic"], ["--plan", "factored"]),
            (["fill-mask"], ["text"]),
        ]
        if WITH_TORCH:
            cases.append((["train", "recipe.json", "--set", "nonsense"], ["--set", "key=value"]))
        for arguments, says in cases:
            with self.subTest(arguments=arguments):
                self.bad(*arguments, code=2, says=says)

    def test_no_arguments_show_the_help_as_an_error(self):
        answer = run()
        self.assertEqual((answer.code, answer.out), (2, ""))
        self.assertIn("fill-mask", answer.err)

    def test_lost_results_are_an_error(self):
        with open("/dev/full", "wb") as full:
            self.bad("info", says=["standard output", "No space left"], stdout=full)


class Models(SystemTest):
    models = {"series": SERIES, "language": LANGUAGE}

    def broken(self, name, base="series"):
        folder = self.path(name)
        folder.mkdir()
        for file in self.path(base).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    def refuse(self, folder, says):
        """Whatever runs or rewrites a model refuses it the same way."""
        self.bad("convert", folder, self.path("never"), says=says)
        self.assertFalse(self.path("never").exists())

    def test_missing_and_empty_folders(self):
        self.bad("info", "-m", self.path("absent"), says=["absent", "No such file"])
        self.path("empty").mkdir()
        self.refuse(self.path("empty"), ["empty", "config.json"])

    def test_descriptions(self):
        config = json.loads((self.path("language") / "config.json").read_text())
        spec = json.loads((self.path("series") / "spec.json").read_text())
        cases = [
            ("language", "config.json", b"", ["config.json"]),
            ("language", "config.json", json.dumps(config).encode()[:40], ["config.json", "byte"]),
            ("language", "config.json", b"\x93NUMPY", ["config.json"]),
            ("language", "config.json", b"[" * 100000, ["config.json", "nested"]),
            ("language", "config.json", {**config, "num_latent": 3}, ["config.json", "num_latent"]),
            ("language", "config.json", {**config, "d_latents": "many"}, ["config.json", "d_latents"]),
            ("language", "config.json", {**config, "num_latents": -4}, ["num_latents"]),
            ("language", "config.json", {**config, "num_latents": 2**60}, ["num_latents"]),
            ("language", "config.json", {**config, "num_self_attention_heads": 3}, ["3"]),
            ("language", "config.json", {**config, "architectures": ["BertModel"]}, ["BertModel"]),
            ("series", "spec.json", {**spec, "decodr": {}}, ["spec.json", "decodr", "decoder"]),
            ("series", "spec.json", {**spec, "inputs": []}, ["spec.json", "no input"]),
            ("series", "spec.json", [1, 2], ["spec.json"]),
            ("series", "preprocessor_config.json", b"7", ["preprocessor_config.json"]),
        ]
        for number, (base, file, contents, says) in enumerate(cases):
            with self.subTest(file=file, says=says):
                folder = self.broken(f"description{number}", base)
                bytes_ = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
                (folder / file).write_bytes(bytes_)
                self.refuse(folder, says)

    def test_two_descriptions_contradict(self):
        folder = self.broken("both")
        (folder / "config.json").write_text("{}")
        self.refuse(folder, ["config.json", "spec.json"])

    def test_weights_of_another_shape(self):
        weights = read_safetensors(self.path("series") / "model.safetensors")
        latents = weights["latents"]
        not_a_number = ("F32", latents[1], [float("nan"), *latents[2][1:]])
        infinite = ("F32", latents[1], [*latents[2][:-1], float("inf")])
        without = {name: value for name, value in weights.items() if name != "latents"}
        cases = [
            ({**weights, "latents": not_a_number}, ["latents"]),
            ({**weights, "latents": infinite}, ["latents"]),
            (without, ["latents"]),
            ({**weights, "more": zeros("F32", [2])}, ["more"]),
            ({**weights, "latents": zeros("F32", [5, 16])}, ["latents", "[5, 16]", "[4, 16]"]),
        ]
        for number, (tensors, says) in enumerate(cases):
            with self.subTest(says=says, number=number):
                folder = self.broken(f"weights{number}")
                write_safetensors(folder / "model.safetensors", tensors)
                self.refuse(folder, says)

    def test_files_that_are_no_weights(self):
        whole = (self.path("series") / "model.safetensors").read_bytes()
        cases = [b"", whole[:4], whole[:200], whole[:-3], whole + b"x", b"\x89PNG\r\n\x1a\n",
                 struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 99_000_000) + b"{",
                 whole.replace(b'"data_offsets":[0', b'"data_offsets":[8', 1)]
        for number, contents in enumerate(cases):
            with self.subTest(number=number):
                folder = self.broken(f"file{number}")
                (folder / "model.safetensors").write_bytes(contents)
                self.refuse(folder, ["model.safetensors"])

    def test_a_pickle_that_would_run_something_is_refused_and_not_run(self):
        witness = self.path("witness")
        evil = f"cos\nsystem\n(S'touch {witness}'\ntR.".encode()
        folder = self.broken("evil")
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(evil)
        self.refuse(folder, ["pytorch_model.bin"])
        self.path("evil.pickle").write_bytes(evil)
        self.refuse(self.path("evil.pickle"), ["evil.pickle"])
        self.assertFalse(witness.exists())

    def test_a_weights_file_is_not_a_model(self):
        self.bad("info", "-m", self.path("series") / "model.safetensors", says=["give the folder"])

    def test_the_wrong_kind_of_model(self):
        self.bad("fill-mask", "-m", self.path("series"), "a [MASK]", says=["series"])
        self.bad("classify", "-m", self.path("series"), "x.png", says=["series"])
        self.bad("verify", "-m", self.path("series"), says=["published"])
        self.bad("flow", "-m", self.path("series"), "-o", self.path("x.flo"), self.path("a"),
                 self.path("b"), says=["No such file"])


class Inputs(SystemTest):
    models = {"language": LANGUAGE, "sentiment": SENTIMENT, "pictures": PICTURES, "flow": FLOW,
              "multimodal": MULTIMODAL, "series": SERIES}

    def test_pictures(self):
        whole = png(31, 23)

        def header(width, height):
            body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
            return whole[:12] + body + struct.pack(">I", zlib.crc32(body)) + whole[33:]

        cases = {
            "empty": b"", "text": b"not a picture at all, but long enough to look at",
            "truncated": whole[:len(whole) // 2], "head_only": whole[:20],
            "huge": header(60000, 60000), "wide": header(2**31 - 1, 1), "no_size": header(0, 5),
            "mislabelled": (self.path("pictures") / "model.safetensors").read_bytes(),
            "film": b"\0\0\0\x20ftypisom" + b"\0" * 64,
        }
        for name, contents in cases.items():
            with self.subTest(name):
                file = self.path(f"{name}.png")
                file.write_bytes(contents)
                self.bad("classify", "-m", self.path("pictures"), file, says=[f"{name}.png"])
        self.bad("classify", "-m", self.path("pictures"), self.path("absent.png"),
                 says=["absent.png", "No such file"])
        self.bad("classify", "-m", self.path("pictures"), self.folder, says=[str(self.folder)])

    def test_texts(self):
        model = self.path("language")
        self.bad("fill-mask", "-m", model, "a" * 30 + "[MASK]", says=["33", "24"])
        self.bad("fill-mask", "-m", model, "no mask", says=["[MASK]"])
        self.bad("fill-mask", "-m", model, "abc", "--hide", "xyz", says=["xyz"])
        self.bad("fill-mask", "-m", model, "-", says=["standard input"])
        self.bad("classify", "-m", self.path("sentiment"), "b" * 23, says=["25", "24"])

    def test_frames(self):
        a, b, out = self.path("a.png"), self.path("b.png"), self.path("never.flo")
        a.write_bytes(png(40, 30))
        b.write_bytes(png(41, 30))
        self.bad("flow", "-m", self.path("flow"), a, b, "-o", out, says=["40 x 30", "41 x 30"])
        self.bad("flow", "-m", self.path("pictures"), a, a, "-o", out, says=["pictures"])
        self.assertFalse(out.exists())

    def test_films(self):
        out = self.path("never.mp4")
        for name, contents in {"none.mp4": b"", "words.mp4": b"hello" * 100, "still.mp4": png(8, 8),
                               "head.mp4": b"\0\0\0\x20ftypisom" + b"\0" * 64}.items():
            with self.subTest(name):
                self.path(name).write_bytes(contents)
                self.bad("autoencode", "-m", self.path("multimodal"), self.path(name), "-o", out,
                         says=[name])
        self.bad("autoencode", "-m", self.path("multimodal"), self.path("absent.mp4"), "-o", out,
                 says=["absent.mp4", "No such file"])
        self.assertFalse(out.exists())

    def test_tensors(self):
        for name, contents in {"none": b"", "words": b"hello, these are no tensors"}.items():
            file = self.path(f"{name}.safetensors")
            file.write_bytes(contents)
            self.bad("forward", "-m", self.path("series"), "-i", file, "-o", self.path("o"),
                     says=[file.name])
        self.bad("forward", "-m", self.path("series"), "-i", self.path("absent"), "-o",
                 self.path("o"), says=["absent", "No such file"])

    @unittest.skipUnless(WITH_TORCH, "this program does not train")
    def test_recipes(self):
        recipe = self.path("recipe.json")
        self.bad("train", recipe, says=["recipe.json", "No such file"])
        recipe.write_text('{"name": "x", "stepz": 3}')
        self.bad("train", recipe, says=["recipe.json"])


class Outputs(SystemTest):
    models = {"series": SERIES, "pictures": PICTURES, "flow": FLOW}

    def setUp(self):
        write_safetensors(self.path("in.safetensors"), {"inputs": zeros("F32", [1, 20, 2])})
        self.path("frame.png").write_bytes(png(40, 30))

    def writers(self, target):
        """Every verb that writes a file, writing `target`."""
        frame = self.path("frame.png")
        return {
            "forward": ["forward", "-m", self.path("series"), "-i", self.path("in.safetensors"), "-o",
                        target],
            "stats": ["forward", "-m", self.path("series"), "-i", self.path("in.safetensors"), "-o",
                      "/dev/null", "--stats", target],
            "attention": ["classify", "-m", self.path("pictures"), frame, "--attention", target],
            "flow picture": ["flow", "-m", self.path("flow"), frame, frame, "--picture", target],
            "convert": ["convert", self.path("series") / "model.safetensors", target],
        }

    def test_a_place_that_cannot_be_written(self):
        folder = self.path("folder.safetensors")
        folder.mkdir()
        cases = [(self.path("no/such/x.safetensors"), "No such file"), (folder, "directory"),
                 (self.path("in.safetensors") / "x.safetensors", "Not a directory")]
        for target, says in cases:
            for name, arguments in self.writers(target).items():
                with self.subTest(name, target=target):
                    self.bad(*arguments, says=[str(target), says])

    def test_a_full_disk(self):
        link = self.path("full.safetensors")
        os.symlink("/dev/full", link)
        for name, arguments in self.writers(link).items():
            with self.subTest(name):
                self.bad(*arguments, says=["No space left"])

    def test_a_disk_that_fills_up_leaves_nothing_behind(self):
        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        before = sorted(self.folder.iterdir())
        answer = self.bad("init", "--preset", "timeseries", self.path("new"), says=["new"],
                          preexec_fn=small_files, restore_signals=False)
        self.assertNotIn("pending", answer.err)
        self.bad("convert", self.path("series"), self.path("new"), preexec_fn=small_files,
                 restore_signals=False)
        target = self.path("x.safetensors")
        target.write_bytes(b"what was there before")
        self.bad("forward", "-m", self.path("series"), "-i", self.path("in.safetensors"), "-o", target,
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
                 restore_signals=False)
        self.assertEqual(target.read_bytes(), b"what was there before")
        target.unlink()
        self.assertEqual(sorted(self.folder.iterdir()), before)

    def test_a_model_folder_in_the_way(self):
        self.path("file").write_text("kept")
        self.bad("init", "--preset", "timeseries", self.path("file"), says=["file", "Not a directory"])
        self.bad("init", "--preset", "timeseries", self.path("no/such"), says=["no"])
        self.assertEqual(self.path("file").read_text(), "kept")

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_a_folder_without_permission(self):
        locked = self.path("locked")
        locked.mkdir(mode=0o500)
        self.bad("init", "--preset", "timeseries", locked / "m", says=["Permission denied"])


if __name__ == "__main__":
    main()
