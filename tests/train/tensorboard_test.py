"""The curve file of a run, read by TensorBoard itself."""

import sys

from runs import FinishedRun, main

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as missing:
    print(f"skipped: {missing}; pip install tensorboard", file=sys.stderr)
    raise SystemExit(77) from missing


class TensorBoard(FinishedRun):
    def test_tensorboard_reads_the_curves(self):
        events = EventAccumulator(str(self.out / "training"), size_guidance={"scalars": 0})
        events.Reload()
        steps = [line for line in self.log if "finished" not in line]
        for name in ("loss", "learning_rate", "gradient_norm"):
            read = [(event.step, event.value) for event in events.Scalars(name)]
            self.assertEqual([step for step, _ in read], [line["step"] for line in steps])
            for (_, value), line in zip(read, steps):
                self.assertAlmostEqual(value, line[name], delta=1e-6 * abs(line[name]))
        read = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
        wanted = [(line["step"], line["metrics"]["accuracy"]) for line in self.log if "metrics" in line]
        self.assertEqual([step for step, _ in read], [10, 20, 30, 40])
        for (_, value), (_, accuracy) in zip(read, wanted):
            self.assertAlmostEqual(value, accuracy, places=6)
        self.assertAlmostEqual(events.Scalars("loss")[0].wall_time, self.log[0]["time"], places=3)


if __name__ == "__main__":
    main()
