"""Ways of doing the same thing, timed in turns.

    ratio = median over turns of  seconds(way) / seconds(first way)  in the same turn

The spread runs from the lower to the upper quartile of these ratios. All ways do the thing once per
turn, so that a slow moment of the machine hits all of them; whoever was first in one turn is last
in the next. The first round warms up and is not counted.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steerplug.fit.progress import Report

Way = Callable[[], float]
"""Does the thing once; returns the seconds it took, of each token where there are several."""


@dataclass(frozen=True)
class Task:
    """One thing that can be done in several ways.

    Args:
        name: what is done.
        ways: how, by name; the first is what the others are compared with.
        turns: how often each way does it in a round.
        prepare: called before each round.
        notes: what is said of single ways, besides their times.
        left_out: ways that are not there, because what they need is not installed.
    """

    name: str
    ways: Mapping[str, Way]
    turns: int = 1
    prepare: Callable[[], None] = lambda: None
    notes: Mapping[str, str] | None = None
    left_out: tuple[str, ...] = ()


class Timing(NamedTuple):
    """How long one way took.

    Args:
        seconds: the median.
        ratio: to the first way's; 1 for itself.
        low, high: the quartiles of that ratio.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def take_turns(
    opened: AbstractContextManager[Task], rounds: int, report: Report
) -> tuple[Task, dict[str, Timing]]:
    """Time a task's ways; what it holds is freed afterwards."""
    with opened as task:
        seconds: dict[str, list[float]] = {way: [] for way in task.ways}
        for i in range(rounds + 1):
            report(task.name, i, rounds + 1)
            task.prepare()
            for turn in range(task.turns):
                for way in list(task.ways)[:: 1 if (i + turn) % 2 else -1]:
                    took = task.ways[way]()
                    if i:
                        seconds[way].append(took)
        return task, _timings(seconds)


def _timings(seconds: Mapping[str, Sequence[float]]) -> dict[str, Timing]:
    reference = np.array(next(iter(seconds.values())))
    timings = {}
    for way, taken in seconds.items():
        ratios = np.array(taken) / reference
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        timings[way] = Timing(float(np.median(taken)), float(middle), float(low), float(high))
    return timings
