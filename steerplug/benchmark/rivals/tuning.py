"""The learning rate of a rival, sought on held-back lessons: an untuned one proves nothing.

The middle rate is tried, three times as much and a third; as long as the best is at an end, one
more beyond it, five in all at most. The same lessons, passes and loss at each. What was trained is
kept, so that a run that was interrupted goes on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from steerplug.errors import FitError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill.exercises import Exercises
from steerplug.fit.distill.student import Student
from steerplug.fit.distill.trained import Trained
from steerplug.fit.distill.training import FULL, QUICK, decided_by, train
from steerplug.fit.progress import Report

_STEP, _MOST = 3.0, 5
_LEFT = "left"


@dataclass(frozen=True)
class Tuned:
    """What came of a search.

    Args:
        trained: at the best rate.
        rate: which that is.
        left: mean KL on the lessons that are held back, by rate, in nats; infinite where training
            did not converge.
    """

    trained: Trained
    rate: float
    left: dict[float, float]

    @property
    def n_parameters(self) -> int:
        """How many numbers were trained."""
        return sum(parameter.numel() for parameter in self.trained.parameters())


@dataclass(frozen=True)
class Trainer:
    """How all are trained alike.

    Args:
        student: the torch copy.
        seed: of the order of the lessons.
        quick: whether the lessons are the few of a quick fit.
        kept: what was trained before.
        report: told how far it is.
    """

    student: Student
    seed: int
    quick: bool
    kept: Checkpoint
    report: Report

    def at(
        self, name: str, make: Callable[[], Trained], exercises: Exercises, rate: float
    ) -> tuple[Trained, float]:
        """Return what is trained at a rate, and its loss on what is held back."""
        trained = make().to(self.student.device)
        schedule = replace(QUICK if self.quick else FULL, rate=rate)
        of = decided_by(self.student, exercises, trained, schedule, self.seed)
        if (before := self._before(of, trained)) is not None:
            return trained, before

        def report(what: str, done: float, total: int) -> None:
            self.report(f"{name}, rate {rate:.2g}: {what}", done, total)

        try:
            left = train(
                self.student, exercises, trained, schedule, self.seed, report
            )  # fmt: skip
        except FitError:
            left = math.inf
        self._keep(of, trained, left)
        return trained, left

    def tuned(
        self, name: str, make: Callable[[], Trained], exercises: Exercises, middle: float
    ) -> Tuned:
        """Return what is trained at the best of several rates."""
        left: dict[float, float] = {}
        best: Trained | None = None
        rate: float | None = middle
        while rate is not None:
            trained, left[rate] = self.at(name, make, exercises, rate)
            best = trained if left[rate] == min(left.values()) else best
            rate = next_rate(left, middle)
        assert best is not None
        return Tuned(best, min(left, key=lambda each: left[each]), left)

    def _before(self, of: str, trained: Trained) -> float | None:
        """Set what was trained before, and return its loss; None if it was not."""
        kept = self.kept.training
        if f"{of}.{_LEFT}" not in kept:
            return None
        names = [name for name, _ in trained.named_parameters()]
        trained.load_state_dict({name: torch.from_numpy(kept[f"{of}.{name}"]) for name in names})
        return float(kept[f"{of}.{_LEFT}"])

    def _keep(self, of: str, trained: Trained, left: float) -> None:
        parameters = trained.named_parameters()
        arrays = {f"{of}.{name}": each.detach().cpu().numpy() for name, each in parameters}
        loss = torch.tensor(left, dtype=torch.float64).numpy()
        self.kept.keep_training({**self.kept.training, **arrays, f"{of}.{_LEFT}": loss})


def next_rate(left: dict[float, float], middle: float) -> float | None:
    """Return the rate to try next, or None when the best one lies between two worse.

    Args:
        left: the losses so far, by rate.
        middle: the rate that was tried first.
    """
    for rate in (middle * _STEP, middle / _STEP):
        if rate not in left:
            return rate
    best = min(left, key=lambda each: left[each])
    if len(left) >= _MOST or min(left) < best < max(left):
        return None
    return best * _STEP if best == max(left) else best / _STEP
