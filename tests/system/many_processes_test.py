"""`perceiver train` as several processes on one machine: what they compute, and how they end."""

import json
import sys

from processes import ENDLESS, Processes, clean_environment
from program import WITH_TORCH, main


class Results(Processes):
    def test_two_processes_equal_one_with_the_doubled_batch(self):
        self.alone(self.recipe(batch_size=16), "doubled")
        answers = self.train(self.recipe(), "halves")
        self.assert_near("doubled", "halves", 1e-6)
        self.assertIn("rank 0 of 2", answers[0][2])
        self.assertIn("accuracy", answers[0][1])
        self.assertEqual(answers[1][1:], ("", ""))  # only rank 0 speaks
        self.train(self.recipe(batch_size=4, accumulate=2), "quarters")
        self.assert_near("doubled", "quarters", 1e-6)
        self.train(self.recipe(), "again")
        self.assertEqual((self.path("halves") / "model.safetensors").read_bytes(),
                         (self.path("again") / "model.safetensors").read_bytes())

    def test_processes_that_read_parts_of_the_input_equal_one(self):
        self.alone(self.recipe(), "whole")
        self.train(self.recipe(), "parts", "--input-parallel", size=3)
        self.assert_near("whole", "parts", 1e-5)  # float32 in another order of operations

    def test_input_parallel_refuses_a_model_it_cannot_split(self):
        recipe = self.recipe(input_parallel=True)
        spec = json.loads(recipe.read_text())
        spec["model"]["spec"]["encoder"].update(num_blocks=2, num_cross_attends=2)
        recipe.write_text(json.dumps(spec))
        for code, _, err in self.finish(self.start(recipe, "refused")):
            self.assertEqual(code, 1)
            self.assertIn("input_parallel: together reads its input 2 times", err)

    def test_resumes_with_any_number_of_processes(self):
        schedule = {"kind": "constant", "steps": 12}
        # 2 processes take 16 examples a step, 1 takes 8: 3 + 6 + 3 steps = 3 * 16 + 6 * 8 + 3 * 16
        for steps, size in ((3, 2), (9, 1), (12, 2)):
            options = ["--resume"] if steps > 3 else []
            self.train(self.recipe(steps=steps, schedule=schedule), "changing", *options, size=size)
        lines = (self.path("changing") / "training/log.jsonl").read_text().splitlines()
        self.assertEqual(json.loads(lines[-1])["step"], 12)


class Ends(Processes):
    def test_sigterm_on_one_stops_all_at_the_same_step(self):
        processes = self.start(self.recipe(**ENDLESS, checkpoint_every=5), "stopped")
        self.wait_for_steps(processes[0], "stopped")
        processes[1].terminate()
        answers = self.finish(processes)
        self.assertEqual([answer[0] for answer in answers], [3, 3], answers)
        step = int(answers[0][1].split("stopped after ")[1].split()[0])
        self.assertTrue((self.path("stopped") / "training"
                         / f"checkpoint-{step:09}.safetensors").exists())

    def test_a_killed_process_ends_the_others_and_is_named(self):
        for err in self.killed(1, size=3):
            self.assertRegex(err, r"rank [02] of 3.*rank 1 \(.*process \d+\) is silent")
            self.assertIn("the last checkpoint is", err)

    def test_why_one_stops_is_what_all_say(self):
        blocked = self.path("blocked")
        blocked.write_text("not a folder")
        answers = self.finish(self.start(self.recipe(), "blocked"))
        self.assertEqual([answer[0] for answer in answers], [1, 1], answers)
        self.assertIn("blocked", answers[0][2])
        self.assertRegex(answers[1][2], r"rank 1 of 2.*rank 0 \(.*stopped: .*blocked")

    def test_another_recipe_is_refused(self):
        answers = self.finish(self.start(self.recipe(), "differ", last=("--set", "seed=9")))
        for code, _, err in answers:
            self.assertEqual(code, 1)
            self.assertIn("rank 1 runs another recipe than rank 0", err)

    def test_half_set_variables_are_named(self):
        environment = {**clean_environment(), "RANK": "1"}
        self.bad("train", self.recipe(), env=environment, says=["RANK is 1", "WORLD_SIZE is not set"])


if __name__ == "__main__":
    if not WITH_TORCH:
        print("skipped: this program does not train")
        sys.exit(77)
    main()
