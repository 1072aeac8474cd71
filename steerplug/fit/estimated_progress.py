"""How far all of a build is: the share that is done, and the seconds that are left.

A plan says which stages there will be and how long each should take here, guessed from what one
batch took in the first seconds. As stages are gone through, each tells by what factor its kind of
work was guessed wrong, and what is left of that kind is corrected by it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from steerplug.fit.progress import Report

Kind = Literal["ask", "read", "train"]


@dataclass(frozen=True)
class Stage:
    """A part of the work, as it will be reported.

    Args:
        what: what is being done, in the report's words.
        kind: of work: stages of one kind are guessed wrong alike.
        seconds: how long it should take.
        at_once: steps that are done side by side, so that none tells anything before all do.
        each: how long each step should take, where they differ.
    """

    what: str
    kind: Kind
    seconds: float
    at_once: int = 1
    each: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The work of a build, or of a report alone.

    Args:
        method: by which it is done; empty where nothing is fitted.
        stages: in their order; one that does not come is skipped.
        n_bytes: memory that it takes beside the loaded model, about.
    """

    method: str
    stages: tuple[Stage, ...]
    n_bytes: int


@dataclass(frozen=True)
class Standing:
    """How far a build is.

    Args:
        what: what is being done, of which `done` of `total` steps are, whole ones counted.
        share: of the whole that is done, 0 to 1.
        seconds_left: until the end, about; None until enough was seen to say so.
        plan: of the whole, if there is one.
    """

    what: str = ""
    done: int = 0
    total: int = 0
    share: float = 0.0
    seconds_left: float | None = None
    plan: Plan | None = None


class EstimatedProgress:
    """A report that estimates how far the whole is.

    Args:
        tell: called with how far the whole is, at every step.
        clock: seconds.
        agree: called with each plan before its work begins, and raises to have none.
    """

    def __init__(
        self,
        tell: Callable[[Standing], None],
        clock: Callable[[], float] = time.monotonic,
        agree: Callable[[Plan], None] = lambda _: None,
    ) -> None:
        self._tell, self._clock, self._agree = tell, clock, agree
        self._plan: Plan | None = None
        self._ahead: tuple[Stage, ...] = ()
        self._current: _Current | None = None
        self._seen: dict[Kind, _Seen] = {}
        self._began = clock()
        self._standing = Standing()

    def expect(self, plan: Plan) -> None:
        """Take note of the stages from here on; they take the place of those of before."""
        asked = self._clock()
        self._agree(plan)
        self._began += self._clock() - asked  # nobody worked meanwhile
        self._plan, self._ahead, self._current = plan, plan.stages, None

    def __call__(self, what: str, done: float, total: int) -> None:
        """Take note that `done` of `total` steps of `what` are done."""
        now, before = self._clock(), self._standing
        if what != before.what or total != before.total or int(done) < before.done:
            self._begin(what, done, total, now)
        seen = dict(self._seen)
        left = self._current.left(done, now, seen) if self._current else 0.0
        left += sum(stage.seconds * _factor(seen, stage.kind) for stage in self._ahead)
        share = max(before.share, min((now - self._began) / max(now - self._began + left, 1e-9), 1))
        if not seen or self._plan is None:
            self._standing = Standing(what, int(done), total, before.share, None, self._plan)
        else:
            self._standing = Standing(what, int(done), total, share, left, self._plan)
        self._tell(self._standing)

    def _begin(self, what: str, done: float, total: int, now: float) -> None:
        """Learn from the stage that has ended, and find the one that begins in the plan."""
        if self._current is not None:
            self._current.left(self._current.total, now, self._seen)
        self._current = None
        for i, stage in enumerate(self._ahead):
            if stage.what == what:
                self._ahead, self._current = self._ahead[i + 1 :], _Current(stage, done, total, now)
                return


def expect(report: Report, plan: Plan) -> None:
    """Tell a report what will come, if it can use that."""
    if isinstance(report, EstimatedProgress):
        report.expect(plan)


class _Seen(NamedTuple):
    """What a kind of work took, and what it should have taken, in seconds."""

    took: float = 0.0
    guessed: float = 0.0


def _factor(seen: Mapping[Kind, _Seen], kind: Kind) -> float:
    return seen[kind].took / seen[kind].guessed if kind in seen else 1.0


@dataclass
class _Current:
    """A stage that is gone through since `began`, `first` of whose steps had been done before.

    It was looked at when `done` steps had taken `took` seconds: where steps are done side by side,
    each time as many more have ended.
    """

    stage: Stage
    first: float
    total: int
    began: float
    done: float = 0.0
    took: float = 0.0

    def left(self, done: float, now: float, seen: dict[Kind, _Seen]) -> float:
        """Return the seconds left of it, and add to what was seen what it tells."""
        stage, took = self.stage, now - self.began
        n = len(stage.each) or self.total - self.first
        if n <= 0:
            return 0.0
        done = min(done - self.first, n)
        if done == n or done // stage.at_once > self.done // stage.at_once:
            self.done, self.took = done, took
        whole = sum(stage.each) or stage.seconds * n / self.total
        guessed = sum(stage.each[: int(self.done)]) or whole * self.done / n
        if not guessed:
            expected = whole * _factor(seen, stage.kind)
            return max(expected - took, expected / 10)
        before = seen.get(stage.kind, _Seen())
        seen[stage.kind] = _Seen(before.took + self.took, before.guessed + guessed)
        return max(self.took * whole / guessed - took, 0.0)
