"""What a run shows: lines of JSON, a log, a picture of its curves."""

import json
import xml.etree.ElementTree as ElementTree

from runs import CLOCK, FinishedRun, main
from program import run

SVG = "{http://www.w3.org/2000/svg}"


class Watch(FinishedRun):
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
    main()
