"""The loop that trains: the bare chat, steered, is to predict what the prompted one does.

    loss    mean over rows of sum_v p(v) (log p(v) - log q(v))       p prompted, q steered
            its gradient by the logits of q is q - p

Rows are the boundary token and the reply's tokens, which both chats read alike. Unit: nats per
token. Some lessons are held back, and the pass that helped them most is kept. All passes are made:
where lessons are few, the first, at the full rate, may do harm that the slower ones make good.

AdamW, its rate falling linearly to 0 (`Schedule`). Betas 0.9 and 0.95: a fit has some 140 steps,
too few for averages over 1,000. Weight decay 1 for gates, which would learn too well what holds for
these replies alone, and 0 for constants, which are fewer numbers and lose by it.

The prompted model's replies never show steering a state that it led into itself, such as a circle.
So a second round (`OWN`) adds the steered model's own replies to the same questions, read by the
prompted model, and goes on from where the first one ended; unless that left next to nothing of the
loss (`ENOUGH`), as on Qwen2.5-Coder-0.5B.
Source: PSR, arXiv 2605.03907; the second round is DAgger's, arXiv 1011.0686; rate, betas, decay
and rounds were measured (benchmark/EXPERIMENTS).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steerplug.engine.free_memory import give_back
from steerplug.errors import FitError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill.deltas import Deltas
from steerplug.fit.distill.exercises import Exercise, Exercises
from steerplug.fit.distill.resuming import Run, bound_to
from steerplug.fit.distill.student import Passage, Prefix, Student
from steerplug.fit.distill.trained import Trained
from steerplug.fit.progress import Report, steps

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
ENOUGH = 0.05
"""Of the loss on what is held back, so much may be left by the first round to have no second."""

_JUDGED = 4
_LOGIT_BYTES, _BYTES_A_LOGIT = 2**28, 20
"""Of the rows whose logits are computed at a time: prompted, steered, and their gradients."""

_TRIED, _QUICK_TRIED = 40, 25
_SORTED = 32
"""So many exercises are sorted by length at a time."""


def train(
    student: Student,
    exercises: Exercises,
    trained: Trained,
    schedule: Schedule,
    seed: int,
    report: Report,
    kept: Checkpoint | None = None,
) -> float:
    """Train in place; return the loss on what is held back.

    What is trained is left as it was after its best pass. A training that was interrupted goes on
    where `kept` says it was.

    Raises:
        FitError: the loss became infinite or NaN.
    """
    decay = DECAY if trained.decays else 0.0
    optimizer = torch.optim.AdamW(trained.parameters(), schedule.rate, BETAS, weight_decay=decay)
    n_steps = schedule.passes * math.ceil(len(exercises.fit) / schedule.batch)
    random = torch.Generator().manual_seed(seed)
    of = decided_by(student, exercises, trained, schedule, seed)
    run = Run(trained, optimizer, kept, of)
    with run.kept_on_the_way():
        if run.passes < 0:
            run.judged(loss(student, exercises.held_back, trained))
        for number in range(schedule.passes):
            batches = _batches(exercises.fit, random, schedule.batch)
            if number < run.passes:
                continue
            give_back()
            before = run.step - number * len(batches)
            what = f"{schedule.what}, pass {number + 1} of {schedule.passes}"
            for batch in steps(batches[before:], what, report, before=before):
                optimizer.param_groups[0]["lr"] = schedule.rate * (1 - run.step / n_steps)
                optimizer.zero_grad()
                _add_gradient(student, batch, trained)
                optimizer.step()
                run.stepped()
            left = loss(student, exercises.held_back, trained)
            if not math.isfinite(left):
                raise FitError("training did not converge; write `method: chain`, or fewer layers.")
            run.judged(left)
    run.finish()
    return run.best


def loss(student: Student, exercises: Sequence[Exercise], trained: Trained) -> float:
    """Return the mean loss over exercises, such as those that are not trained on."""
    with torch.no_grad():
        parts = [
            _divergence(student, exercises[i : i + _JUDGED], trained)
            for i in range(0, len(exercises), _JUDGED)
        ]
    return float(torch.cat(parts).mean())


def decided_by(
    student: Student, exercises: Exercises, trained: Trained, schedule: Schedule, seed: int
) -> str:  # fmt: skip
    """Return what a training is of: all that decides on its numbers."""
    texts = [(each.bare.tokens, each.prompted)
             for each in (*exercises.fit, *exercises.held_back)]  # fmt: skip
    return bound_to(
        texts, *trained.of, schedule, seed, BETAS, DECAY,
        str(student.dtype),
    )  # fmt: skip


def seconds_a_row(
    student: Student, layers: Sequence[int], *, gated: bool, quick: bool = False
) -> float:
    """Return how long a row takes forward and backward, measured on one batch of made-up ones."""
    size, n_rows = (QUICK.batch, _QUICK_TRIED) if quick else (FULL.batch, _TRIED)
    width = student.model.n_embd
    deltas = Deltas(dict.fromkeys(layers, 1.0), width, gated=gated, seed=0).to(student.device)

    def trained() -> float:
        passage = Passage(Prefix(), tuple(range(n_rows)), 0)
        hidden = torch.zeros(n_rows, width, device=student.device, dtype=student.dtype)
        begin = time.perf_counter()
        _add_gradient(student, [Exercise(passage, passage.tokens, hidden)] * size, deltas)
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


def _add_gradient(student: Student, batch: Sequence[Exercise], trained: Trained) -> None:
    """Add the gradient of a batch's mean loss to what is trained."""
    hidden = trained.read(student, [exercise.bare for exercise in batch])
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
    n = max(_LOGIT_BYTES // (_BYTES_A_LOGIT * student.n_vocab), 1)
    return [slice(i, i + n) for i in range(0, n_rows, n)]


def _divergence(student: Student, batch: Sequence[Exercise], trained: Trained) -> torch.Tensor:
    """Return KL(prompted || steered) of every row."""
    hidden = trained.read(student, [exercise.bare for exercise in batch])
    prompted = torch.cat([exercise.hidden for exercise in batch])
    parts = []
    for rows in _few(student, len(hidden)):
        wanted, steered = (
            torch.log_softmax(student.logits(states[rows]), -1, torch.float32)
            for states in (prompted, hidden)
        )
        parts.append((wanted.exp() * (wanted - steered)).sum(-1))
    return torch.cat(parts)
