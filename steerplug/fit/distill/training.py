"""The loop that trains: the bare chat, steered, is to predict what the prompted one does.

    kl     mean over rows of sum_v p(v) (log p(v) - log q(v))        p prompted, q steered
           its gradient by the logits of q is q - p
    mse    mean over blocks of |steered - prompted|^2 / |bare - prompted|^2, over rows and values

Rows are the boundary token and the reply's tokens, which both chats read alike. Units: kl in nats
per token; mse is 1 for no steering. Some lessons are held back, and the pass that helped them most
is kept. All passes are made: where lessons are few, the first, at the full rate, may do harm that
the slower ones make good.

AdamW, its rate falling linearly to 0 (`Schedule`). Betas 0.9 and 0.95: a fit has some 140 steps,
too few for averages over 1,000. Weight decay 1 for gates, which would learn too well what holds for
these replies alone, and 0 for constants, which are fewer numbers and lose by it.

The prompted model's replies never show steering a state that it led into itself, such as a circle.
So a second round (`OWN`) adds the steered model's own replies to the same questions, read by the
prompted model, and goes on from where the first one ended.
Source: PSR, arXiv 2605.03907; rate, DESIGN section 3; the second round is DAgger's, arXiv
1011.0686; betas, decay and rounds were measured (benchmark/README).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from steerplug.engine.scope import Prompt
from steerplug.errors import FitError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill.deltas import Deltas
from steerplug.fit.distill.resuming import Run, bound_to
from steerplug.fit.distill.student import Passage, Prefix, Student, rows_of
from steerplug.fit.distill.trained import Trained
from steerplug.fit.progress import Report, steps
from steerplug.fit.teacher import Lesson, n_common
from steerplug.steering.value import Scope

Objective = Literal["kl", "mse"]

BETAS, DECAY = (0.9, 0.95), 1.0


@dataclass(frozen=True)
class Schedule:
    """How long a training is, and how fast.

    Args:
        passes: over all lessons.
        batch: lessons of a step.
        rate: of the first step; it falls linearly to 0.
        what: the training is called in reports.
    """

    passes: int
    batch: int
    rate: float
    what: str = "training"


FULL = Schedule(3, 4, 1e-2)
QUICK = Schedule(3, 2, 7e-3)
"""Of few lessons: more steps close .03 more of the gap, for an eighth more time."""
OWN = Schedule(1, 4, 4e-3, "training on replies of its own")
"""The second round."""

_HELD_BACK, _JUDGED = 12, 4
_LARGE_BATCH = 8
_LOGIT_BYTES, _BYTES_A_LOGIT = 2**28, 20
"""Of the rows whose logits are computed at a time: prompted, steered, and their gradients."""

_TRIED, _QUICK_TRIED = 40, 25
_SORTED = 32
"""So many exercises are sorted by length at a time."""


@dataclass(frozen=True)
class Exercise:
    """A lesson made ready: both sides, and the hidden states of the prompted rows."""

    bare: Passage
    prompted: Passage
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
    few = [order[i : i + _LARGE_BATCH] for i in range(0, len(order), _LARGE_BATCH)]
    exercises: dict[int, Exercise] = {}
    for numbers in steps(few, "reading the prompted model", report):
        some = [lessons[i] for i in numbers]
        asked = [_after(shared, common, lesson.prompted, lesson.reply) for lesson in some]
        with torch.no_grad():
            hidden = student.hidden(asked).split([lesson.n_rows for lesson in some])
        before = student.prefixes([_unsteered(lesson.bare, scope) for lesson in some])
        for i, prompted, rows, prefix in zip(numbers, asked, hidden, before, strict=True):
            bare = _after(prefix, prefix.n_tokens, lessons[i].bare, lessons[i].reply)
            exercises[i] = Exercise(bare, prompted, rows)
    return [exercises[i] for i in range(len(lessons))]


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
    medians: dict[int, float] = {}
    batch = [exercise.bare for exercise in exercises[:_LARGE_BATCH]]

    def measure(il: int, h: torch.Tensor) -> None:
        medians[il] = float(rows_of(h, batch).float().pow(2).mean(-1).sqrt().median())

    with torch.no_grad():
        student.hidden(batch, measure)
    return {il: medians[il] for il in layers}


def train(
    student: Student,
    exercises: Exercises,
    deltas: Trained,
    objective: Objective,
    schedule: Schedule,
    seed: int,
    report: Report,
    kept: Checkpoint | None = None,
) -> float:
    """Train deltas, or what takes their place, in place; return the loss on what is held back.

    They are left as they were after their best pass. A training that was interrupted goes on where
    `kept` says it was.

    Raises:
        FitError: the loss became infinite or NaN.
    """
    decay = DECAY if deltas.decays else 0.0
    optimizer = torch.optim.AdamW(deltas.parameters(), schedule.rate, BETAS, weight_decay=decay)
    n_steps = schedule.passes * math.ceil(len(exercises.fit) / schedule.batch)
    random = torch.Generator().manual_seed(seed)
    of = decided_by(student, exercises, deltas, objective, schedule, seed)
    run = Run(deltas, optimizer, kept, of)
    with run.kept_on_the_way():
        if run.passes < 0:
            run.judged(_left(student, exercises.held_back, deltas, objective))
        for number in range(schedule.passes):
            batches = _batches(exercises.fit, random, schedule.batch)
            if number < run.passes:
                continue
            before = run.step - number * len(batches)
            what = f"{schedule.what}, pass {number + 1} of {schedule.passes}"
            for batch in steps(batches[before:], what, report, before=before):
                optimizer.param_groups[0]["lr"] = schedule.rate * (1 - run.step / n_steps)
                optimizer.zero_grad()
                _add_gradient(student, batch, deltas, objective)
                optimizer.step()
                run.stepped()
            left = _left(student, exercises.held_back, deltas, objective)
            if not math.isfinite(left):
                raise FitError("training did not converge; write `method: chain`, or fewer layers.")
            run.judged(left)
    run.finish()
    return run.best


def decided_by(
    student: Student, exercises: Exercises, deltas: Trained, objective: Objective,
    schedule: Schedule, seed: int,
) -> str:  # fmt: skip
    """Return what a training is of: all that decides on its numbers."""
    texts = [(each.bare.tokens, each.prompted.tokens)
             for each in (*exercises.fit, *exercises.held_back)]  # fmt: skip
    return bound_to(
        texts, *deltas.of, objective, schedule, seed, BETAS, DECAY,
        str(next(student.module.parameters()).dtype),
    )  # fmt: skip


def seconds_a_row(
    student: Student, layers: Sequence[int], *, gated: bool, quick: bool = False
) -> float:
    """Return how long a row takes forward and backward, measured on one batch of made-up ones."""
    size, n_rows = (QUICK.batch, _QUICK_TRIED) if quick else (FULL.batch, _TRIED)
    width = student.head.weight.shape[1]
    deltas = Deltas(dict.fromkeys(layers, 1.0), width, gated=gated, seed=0).to(student.device)

    def trained() -> float:
        passage = Passage(Prefix(), tuple(range(n_rows)), 0)
        hidden = torch.zeros(n_rows, width, device=student.device, dtype=student.head.weight.dtype)
        begin = time.perf_counter()
        _add_gradient(student, [Exercise(passage, passage, hidden)] * size, deltas, "kl")
        return time.perf_counter() - begin

    trained()  # the first of its shape also makes ready
    return trained() / (size * n_rows)


def _batches(
    exercises: Sequence[Exercise], random: torch.Generator, size: int
) -> list[list[Exercise]]:
    """Return the exercises in random batches, each of about one length to need little padding."""
    order = [exercises[i] for i in torch.randperm(len(exercises), generator=random).tolist()]
    batches = []
    for begin in range(0, len(order), _SORTED):
        some = sorted(order[begin : begin + _SORTED], key=lambda each: len(each.bare.tokens))
        batches += [some[i : i + size] for i in range(0, len(some), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


def _add_gradient(
    student: Student, batch: Sequence[Exercise], deltas: Trained, objective: Objective
) -> None:
    """Add the gradient of a batch's mean loss to that of the deltas."""
    if objective == "mse":
        _loss(student, batch, deltas, objective).mean().backward()
        return
    hidden = deltas.read(student, [exercise.bare for exercise in batch])
    steered = hidden.detach().requires_grad_()
    prompted = torch.cat([exercise.hidden for exercise in batch])
    for rows in _few(student, len(hidden)):
        with torch.no_grad():
            p = torch.softmax(student.logits(prompted[rows]), -1, torch.float32)
        logits = student.logits(steered[rows])
        q = torch.softmax(logits.detach(), -1, torch.float32)
        logits.backward(q.sub_(p).div_(len(hidden)).to(logits.dtype))
    hidden.backward(steered.grad)


def _few(student: Student, n_rows: int) -> list[slice]:
    """Return parts of the rows, small enough for their logits."""
    n = max(_LOGIT_BYTES // (_BYTES_A_LOGIT * student.head.weight.shape[0]), 1)
    return [slice(i, i + n) for i in range(0, n_rows, n)]


def _loss(
    student: Student, batch: Sequence[Exercise], deltas: Trained, objective: Objective
) -> torch.Tensor:
    """Return the loss of every row, or of every block, of a batch."""
    if objective == "kl":
        return _divergence(student, batch, deltas)
    assert isinstance(deltas, Deltas)
    bare = [exercise.bare for exercise in batch]
    with torch.no_grad():
        prompted = _states(student, [exercise.prompted for exercise in batch], deltas)
        unsteered = _states(student, bare, deltas)
    steered = _states(student, bare, deltas, deltas)
    return torch.stack([
        (steered[il] - prompted[il]).pow(2).sum() / (unsteered[il] - prompted[il]).pow(2).sum()
        for il in deltas.place
    ])


def _divergence(
    student: Student, batch: Sequence[Exercise], deltas: Trained
) -> torch.Tensor:
    """Return KL(prompted || steered) of every row."""
    hidden = deltas.read(student, [exercise.bare for exercise in batch])
    prompted = torch.cat([exercise.hidden for exercise in batch])
    parts = []
    for rows in _few(student, len(hidden)):
        wanted, steered = (
            torch.log_softmax(student.logits(states[rows]), -1, torch.float32)
            for states in (prompted, hidden)
        )
        parts.append((wanted.exp() * (wanted - steered)).sum(-1))
    return torch.cat(parts)


def _states(
    student: Student, batch: Sequence[Passage], watched: Deltas, deltas: Deltas | None = None
) -> dict[int, torch.Tensor]:
    """Return the rows as they leave the watched blocks, (n_rows, n_embd) each, in float32."""
    states: dict[int, torch.Tensor] = {}

    def edit(il: int, h: torch.Tensor) -> torch.Tensor | None:
        if il not in watched.place:
            return None
        h = h if deltas is None else h + deltas(il, h)
        states[il] = rows_of(h, batch).float()
        return h

    student.hidden(batch, edit)
    return states


def _left(
    student: Student, exercises: Sequence[Exercise], deltas: Trained, objective: Objective
) -> float:
    """Return the mean loss over exercises that are not trained on."""
    with torch.no_grad():
        parts = [
            _loss(student, exercises[i : i + _JUDGED], deltas, objective)
            for i in range(0, len(exercises), _JUDGED)
        ]
    return float(torch.cat(parts).mean())
