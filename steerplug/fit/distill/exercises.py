"""What is trained on: lessons made ready, so that a step reads the bare side alone.

The prompted side is read once: hidden states of its rows, (n_rows, n_embd), from which the head
makes what is predicted. Of the bare side what comes before the steered tokens is read once too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steerplug.engine.scope import Prompt
from steerplug.fit.distill.student import (
    MOST_TOGETHER,
    Batch,
    Changes,
    Passage,
    Prefix,
    Student,
)
from steerplug.fit.progress import Report, steps
from steerplug.fit.teacher import READING, Lesson, n_common
from steerplug.steering.value import Scope

_HELD_BACK = 12


@dataclass(frozen=True)
class Exercise:
    """A lesson made ready: the bare side; tokens and rows' hidden states of the prompted one."""

    bare: Passage
    prompted: tuple[int, ...]
    hidden: torch.Tensor


@dataclass(frozen=True)
class Exercises:
    """What is trained on, and what is held back to judge a training by: each twelfth of a round."""

    fit: Sequence[Exercise]
    held_back: Sequence[Exercise]

    @staticmethod
    def of(round: Sequence[Exercise]) -> "Exercises":
        """Hold some of a round back; where there is but one, it is both."""
        held_back = round[::_HELD_BACK]
        return Exercises([each for i, each in enumerate(round) if i % _HELD_BACK] or held_back,
                         held_back)  # fmt: skip

    def __add__(self, other: "Exercises") -> "Exercises":
        return Exercises([*self.fit, *other.fit], [*self.held_back, *other.held_back])


def prepare(
    student: Student, lessons: Sequence[Lesson], scope: Scope, report: Report
) -> list[Exercise]:
    """Return lessons made ready; what all prompted sides begin with is computed once."""
    common = n_common([lesson.prompted.tokens for lesson in lessons])
    (shared,) = student.prefixes([lessons[0].prompted.tokens[:common]])
    order = sorted(range(len(lessons)), key=lambda i: _n_read(lessons[i], common))
    few = [order[i : i + MOST_TOGETHER] for i in range(0, len(order), MOST_TOGETHER)]
    exercises: dict[int, Exercise] = {}
    for numbers in steps(few, READING, report):
        some = [lessons[i] for i in numbers]
        asked = [_after(shared, common, lesson.prompted, lesson.reply) for lesson in some]
        with torch.no_grad():
            hidden = student.hidden(asked).split([lesson.n_rows for lesson in some])
        bare = bare_side(student, some, scope)
        for i, prompted, rows, passage in zip(numbers, asked, hidden, bare, strict=True):
            exercises[i] = Exercise(passage, prompted.tokens, rows)
    return [exercises[i] for i in range(len(lessons))]


def bare_side(student: Student, lessons: Sequence[Lesson], scope: Scope) -> list[Passage]:
    """Return the bare side of lessons, with what comes before the first steered token read."""
    before = student.prefixes([_unsteered(lesson.bare, scope) for lesson in lessons])
    return [
        _after(prefix, prefix.n_tokens, lesson.bare, lesson.reply)
        for prefix, lesson in zip(before, lessons, strict=True)
    ]


def _n_read(lesson: Lesson, common: int) -> int:
    """Return how many tokens of its prompted side are read; a batch is as long as its longest."""
    return len(lesson.prompted.tokens) - common + len(lesson.reply)


def _unsteered(bare: Prompt, scope: Scope) -> tuple[int, ...]:
    return bare.tokens[: len(bare.tokens) - 1 if scope == "response" else int(bare.has_bos)]


def _after(prefix: Prefix, n: int, prompt: Prompt, reply: Sequence[int]) -> Passage:
    """Return what follows the first n tokens of a prompt: its rest, and the reply."""
    return Passage(prefix, (*prompt.tokens[n:], *reply), len(prompt.tokens) - 1 - n)


def sizes(
    student: Student, exercises: Sequence[Exercise], layers: Sequence[int]
) -> dict[int, float]:
    """Return for each of the blocks the median over bare rows of sqrt(mean(h^2))."""
    parts: dict[int, list[torch.Tensor]] = {il: [] for il in layers}

    def watched(batch: Batch) -> Changes:
        def measure(il: int, h: torch.Tensor) -> None:
            rows = h if len(h) < n_tokens else h[_rows(batch)]
            parts[il].append(rows.float().pow(2).mean(-1).sqrt())

        n_tokens = sum(len(passage.tokens) for passage in batch)
        return student.at_blocks(measure, layers)

    with torch.no_grad():
        student.hidden([exercise.bare for exercise in exercises[:MOST_TOGETHER]], watched)
    return {il: float(torch.cat(parts[il]).median()) for il in layers}


def _rows(batch: Batch) -> list[int]:
    """Return which tokens of passages, one after the other, are rows."""
    rows, begin = list[int](), 0
    for passage in batch:
        rows += range(begin + passage.first, begin + len(passage.tokens))
        begin += len(passage.tokens)
    return rows
