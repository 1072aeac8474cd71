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
from steerplug.fit.measure import divergence, reply_log_probs
from steerplug.fit.progress import Report
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Mix

Numbers = NDArray[Any]

_AT_ONCE = 4  # lessons whose prompted log-probabilities are held in memory


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
    cells: Reader, lessons: Sequence[Lesson], mix: Mix, report: Report
) -> Iterator[tuple[Lesson, Rows]]:
    """Yield each lesson with its rows.

    Lessons are read a few at a time, first all their prompted chats and then all their bare ones,
    so that a long prompt is computed once for all of them.
    """
    for start in range(0, len(lessons), _AT_ONCE):
        report("comparing token by token", start, len(lessons))
        some = lessons[start : start + _AT_ONCE]
        taught = [
            next(reply_log_probs(cells, lesson.prompted, lesson.reply, [NOTHING]))
            for lesson in some
        ]
        for lesson, prompted in zip(some, taught, strict=True):
            bare, steered = reply_log_probs(cells, lesson.bare, lesson.reply, [NOTHING, mix])
            yield lesson, Rows.of(prompted, bare, steered)
    report("comparing token by token", len(lessons), len(lessons))


def per_prompt(
    compared: Sequence[tuple[Lesson, Rows]], value: Callable[[Rows], Any]
) -> list[float]:
    """Return the sums of a value over the rows of each prompt, (n_prompts,)."""
    sums: dict[Any, float] = {}
    for lesson, rows in compared:
        sums[lesson.bare] = sums.get(lesson.bare, 0.0) + float(np.sum(value(rows)))
    return list(sums.values())
