"""The three models row by row, over the same reply: prompted, bare, and steered without prompt.

Per row (the boundary token and each token of the reply), in nats::

    gap    KL(p_prompted || p_bare)       what the prompt does there
    left   KL(p_prompted || p_steered)    what steering leaves of that to do
    drift  KL(p_bare || p_steered)        what steering does there

KL(p || q) = sum over the vocabulary of exp(p) (p - q), p and q log-probabilities.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.reader import Reader
from steerplug.fit.measure import divergence, prompted_log_probs, reply_log_probs
from steerplug.fit.progress import Report, steps
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Mix

Numbers = NDArray[Any]



@dataclass(frozen=True, eq=False)
class Rows:
    """One lesson's rows; every array is (n_rows,), the last three hold the likeliest tokens."""

    gap: Numbers
    left: Numbers
    drift: Numbers
    prompted: Numbers
    bare: Numbers
    steered: Numbers

    @staticmethod
    def of(prompted: Array, bare: Array, steered: Array) -> "Rows":
        """Compare log-probabilities, each (n_rows, n_vocab)."""
        p, b = np.exp(prompted), np.exp(bare)
        return Rows(
            divergence(p, prompted, bare),
            divergence(p, prompted, steered),
            divergence(b, bare, steered),
            *(rows.argmax(axis=-1) for rows in (prompted, bare, steered)),
        )


def compare(
    reader: Reader, lessons: Sequence[Lesson], mix: Mix, report: Report
) -> Iterator[tuple[Lesson, Rows]]:
    """Yield each lesson with its rows."""
    counted = steps(lessons, "comparing token by token", report)
    for _, (lesson, prompted) in zip(counted, prompted_log_probs(reader, lessons), strict=True):
        bare, steered = reply_log_probs(reader, lesson.bare, lesson.reply, [NOTHING, mix])
        yield lesson, Rows.of(prompted, bare, steered)


def per_prompt(
    compared: Sequence[tuple[Lesson, Rows]], value: Callable[[Rows], Any]
) -> list[float]:
    """Return the sums of a value over the rows of each prompt, (n_prompts,)."""
    sums: dict[Any, float] = {}
    for lesson, rows in compared:
        sums[lesson.bare] = sums.get(lesson.bare, 0.0) + float(np.sum(value(rows)))
    return list(sums.values())
