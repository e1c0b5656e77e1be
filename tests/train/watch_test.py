"""What a run shows: lines of JSON, a log, curves for TensorBoard, a picture."""

import json
import sys
import xml.etree.ElementTree as ElementTree

from runs import CLOCK, RunsTest, finish, main, start, write_recipe
from program import run

SVG = "{http://www.w3.org/2000/svg}"


class Watch(RunsTest):
    def setUp(self):
        super().setUp()
        recipe = write_recipe(self.folder, evaluate_every=10)
        self.out = self.folder / "out"
        code, self.lines, err = finish(start(recipe, self.out))
        self.assertEqual(code, 0, err)
        self.log = [json.loads(line)
                    for line in (self.out / "training/log.jsonl").read_text().splitlines()]

    def test_json_is_a_line_per_step_and_the_result_last(self):
        lines = [json.loads(line) for line in self.lines]
        self.assertEqual([line["step"] for line in lines[:-1]], list(range(1, 41)))
        for key in ("loss", "learning_rate", "gradient_norm", *CLOCK):
            self.assertIn(key, lines[0])
        result = lines[-1]
        self.assertEqual(result["out"], str(self.out))
        self.assertEqual(result["steps"], 40)
        self.assertIs(result["stopped"], False)
        self.assertEqual(result["metrics"], self.log[-1]["metrics"])
        self.assertGreater(result["median_step_seconds"], 0)
        self.assertGreater(result["peak_rss_bytes"], 10 << 20)
        self.assertLessEqual(result["waiting_share"], 1)

    def test_tensorboard_reads_the_curves(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        events = EventAccumulator(str(self.out / "training"), size_guidance={"scalars": 0})
        events.Reload()
        for name in ("loss", "learning_rate", "gradient_norm"):
            read = [(event.step, event.value) for event in events.Scalars(name)]
            self.assertEqual([step for step, _ in read], [line["step"] for line in self.log])
            for (_, value), line in zip(read, self.log):
                self.assertAlmostEqual(value, line[name], delta=1e-6 * abs(line[name]))
        read = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
        wanted = [(line["step"], line["metrics"]["accuracy"]) for line in self.log if "metrics" in line]
        self.assertEqual([step for step, _ in read], [10, 20, 30, 40])
        for (_, value), (_, accuracy) in zip(read, wanted):
            self.assertAlmostEqual(value, accuracy, places=6)
        self.assertAlmostEqual(events.Scalars("loss")[0].wall_time, self.log[0]["time"], places=3)

    def test_plot_draws_the_log(self):
        picture = self.folder / "curves.svg"
        answer = run("plot", self.out, "--out", picture, "--log", "loss", "--json")
        self.assertEqual(answer.code, 0, answer)
        self.assertEqual(answer.json["quantities"],
                         ["loss", "learning_rate", "gradient_norm", "test/accuracy"])
        root = ElementTree.parse(picture).getroot()
        self.assertEqual(root.tag, f"{SVG}svg")
        curves = {line.find(f"{SVG}title").text: line.get("points").split()
                  for line in root.iter(f"{SVG}polyline")}
        self.assertEqual(sorted(curves), sorted(
            f"out: {name}" for name in ("loss", "mean_loss", "learning_rate", "gradient_norm",
                                        "test/accuracy")))
        self.assertEqual(len(curves["out: loss"]), 40)
        self.assertEqual(len(curves["out: test/accuracy"]), 4)
        width, height = float(root.get("width")), float(root.get("height"))
        for points in curves.values():
            across = [float(point.split(",")[0]) for point in points]
            self.assertEqual(across, sorted(across))
            self.assertTrue(all(0 < x < width for x in across))
            self.assertTrue(all(0 < float(point.split(",")[1]) < height for point in points))
        bad = run("plot", self.out, "--out", picture, "--only", "los")
        self.assertEqual(bad.code, 1)
        self.assertIn("no run logged 'los'; there are: loss,", bad.err)


if __name__ == "__main__":
    try:
        import tensorboard  # noqa: F401
    except ImportError as missing:
        print(f"skipped: {missing}; pip install tensorboard", file=sys.stderr)
        raise SystemExit(77) from missing
    main()
