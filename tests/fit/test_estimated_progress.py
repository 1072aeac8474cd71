"""How long a build will take: corrected by what was seen, and told without standing still."""

from steerplug.fit.estimated_progress import EstimatedProgress, Plan, Stage, Standing

ASKING = Stage("asking", "ask", 100.0, 32)
STAGES = (
    ASKING, Stage("reading", "read", 20.0, 2), Stage("training", "train", 60.0, 2),
    Stage("chaining", "read", 18.0, each=(3.0, 6.0, 9.0)), Stage("asking again", "ask", 50.0, 8),
)  # fmt: skip
STEPS = {"asking": 200, "reading": 25, "training": 50, "chaining": 3, "asking again": 40}


class Build:
    """A build on a machine that is slower than was guessed, by a factor for each kind of work."""

    def __init__(self, plan: Plan, slower: dict[str, float]) -> None:
        self.now, self.told = 0.0, list[tuple[float, Standing]]()
        self.progress = EstimatedProgress(
            lambda at: self.told.append((self.now, at)), clock=lambda: self.now
        )
        self.progress.expect(plan)
        self._slower = slower

    def run(self, stage: Stage, begin: int = 0) -> None:
        n, factor = STEPS[stage.what], self._slower[stage.kind]
        started = self.now
        for done in range(begin, n + 1):
            whole = stage.seconds * factor
            passed = sum(stage.each[:done]) * factor if stage.each else whole * (done - begin) / n
            if done > begin and stage.what == "asking":  # a wave of 32 ends at once
                passed = whole * min(-(-(done - begin) // 32) * 32, n - begin) / n
            self.now = started + passed
            self.progress(stage.what, done, n)


def test_after_a_tenth_of_the_work_the_time_left_is_right() -> None:
    build = Build(Plan("psr", STAGES, 0), {"ask": 3.0, "read": 0.9, "train": 1.1})
    for stage in STAGES:
        build.run(stage)
    early = [(now, at) for now, at in build.told if now >= 0.1 * build.now]
    for now, at in early:
        assert at.seconds_left is not None
        assert abs(now + at.seconds_left - build.now) < 0.2 * build.now
        assert abs(at.share - now / build.now) < 0.1
    shares = [at.share for _, at in build.told]
    assert shares == sorted(shares)


def test_nothing_is_said_before_anything_was_seen() -> None:
    build = Build(Plan("psr", STAGES, 0), {"ask": 3.0})
    build.run(ASKING)
    for _, at in build.told:
        assert (at.seconds_left is None) == (at.done < 32)


def test_what_was_done_before_is_not_taken_for_speed() -> None:
    build = Build(Plan("psr", STAGES, 0), dict.fromkeys(("ask", "read", "train"), 2.0))
    build.run(ASKING, begin=160)
    for stage in STAGES[1:]:
        build.run(stage)
    now, at = next((now, at) for now, at in build.told if at.what == "training" and at.done == 9)
    assert at.seconds_left is not None
    assert abs(now + at.seconds_left - build.now) < 0.05 * build.now


def test_stages_that_do_not_come_are_not_waited_for() -> None:
    build = Build(Plan("psr", STAGES, 0), dict.fromkeys(("ask", "read", "train"), 1.0))
    build.run(STAGES[-1])
    assert build.told[-1][1].seconds_left == 0.0
