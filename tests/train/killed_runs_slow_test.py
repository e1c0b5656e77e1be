"""Two hundred runs killed at random moments."""

from runs import RunsTest, main


class KilledRuns(RunsTest):
    def test_two_hundred_random_moments(self):
        inside = self.kill_at_random(kills=200, seed=7)
        print(f"{inside} of 200 kills fell into a save")


if __name__ == "__main__":
    main()
