"""From a model and its teacher's replies to steering, block after block.

Rows of a lesson are the boundary token and the reply's tokens; in scope `all` also the tokens
before them that both prompts end with. What the prompted model has at a block is read for as many
blocks at a time as 512 MB hold.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerplug.engine.free_memory import available
from steerplug.engine.reader import Reader
from steerplug.errors import FitError
from steerplug.fit.chain import prediction
from steerplug.fit.chain.chats import Chats, n_paired
from steerplug.fit.chain.prediction import fit_prediction, head_of
from steerplug.fit.chain.regression import Sums, regress, weights_of
from steerplug.fit.progress import Report, silent
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Scope, Steering

RANK = 64
_PARTS = 4
"""Lessons are dealt into four parts, of which some choose the ridge."""

_QUESTION = np.float32(0.2)
"""What a row before the reply counts, where those are steered as well: no word of the answer."""

_MOST_BYTES = 2**29


@dataclass(frozen=True)
class Chain:
    """What is being distilled: for which model, under which name, in which scope."""

    name: str
    n_embd: int
    n_layer: int
    scope: Scope


def fit_chain(
    chain: Chain,
    reader: Reader,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    *,
    rank: int = RANK,
    deltas: MutableMapping[int, Delta] | None = None,
    report: Report = silent,
) -> Steering:
    """Return the steering that brings the bare chat to the prompted one, block after block.

    Args:
        chain: what is distilled.
        reader: of a context on the model.
        lessons: replies of the prompted model.
        layers: the blocks to steer, rising.
        rank: k.
        deltas: blocks that are fitted already; each new one is put in.
        report: told how far the work is.
    """
    deltas = {} if deltas is None else deltas
    rows = sum(n_paired(lesson, chain.scope) for lesson in lessons)
    at_once = n_read_together(rows, chain.n_embd)
    prompted = Chats(reader, lessons, [lesson.prompted for lesson in lessons], chain.scope)
    bare = Chats(reader, lessons, [lesson.bare for lesson in lessons], chain.scope)
    left = [il for il in layers if il not in deltas]
    for begin in range(0, len(left), at_once):
        some = left[begin : begin + at_once]
        wanted = prompted.at(some, report=report)
        for i, il in enumerate(some):
            report("distilling block by block", len(layers) - len(left) + begin + i, len(layers))
            below = _mix(chain, {lower: deltas[lower] for lower in layers if lower < il})
            there = [rows[i] for rows in wanted]
            present = [rows[0] for rows in bare.at([il], below)]
            if il == chain.n_layer - 1:
                deltas[il] = _by_prediction(reader, lessons, there, present)
            else:
                deltas[il] = _by_regression(lessons, there, present, rank)
    report("distilling block by block", len(layers), len(layers))
    return Steering(
        chain.name, chain.n_embd, chain.n_layer, {il: deltas[il] for il in layers}, chain.scope
    )


def _by_regression(
    lessons: Sequence[Lesson], wanted: Sequence[Array], present: Sequence[Array], rank: int
) -> Delta:
    missing = [rows - h for rows, h in zip(wanted, present, strict=True)]
    ends = np.cumsum([len(rows) for rows in missing])[:-1]
    weights = np.split(weights_of(np.concatenate(missing)), ends)
    for lesson, counted in zip(lessons, weights, strict=True):
        counted[: -lesson.n_rows] *= _QUESTION
    parts = [
        Sums.of(*(np.concatenate(of[part::_PARTS]) for of in (present, missing, weights)))
        for part in range(min(_PARTS, len(lessons)))
    ]
    return regress(parts, rank)


def _by_prediction(
    reader: Reader, lessons: Sequence[Lesson], wanted: Sequence[Array], present: Sequence[Array]
) -> Delta:
    replies = (
        [rows[-lesson.n_rows :] for rows, lesson in zip(chats, lessons, strict=True)]
        for chats in (present, wanted)
    )
    return fit_prediction(head_of(reader, lessons), *replies)


def n_read_together(n_rows: int, n_embd: int) -> int:
    """Return for how many blocks at a time the prompted model is read."""
    return max(_MOST_BYTES // (4 * n_rows * n_embd), 1)


def memory_needed(n_embd: int, n_rows: int, n_blocks: int) -> int:
    """Return the bytes that it takes, about: blocks, one's rows and sums, and the last one."""
    last, blocks = prediction.memory_needed(n_embd, n_rows), 4 * n_rows * n_embd * n_blocks
    return min(blocks, _MOST_BYTES) + 28 * n_embd * n_rows + 8 * 2 * n_embd**2 * (_PARTS + 4) + last


def check_memory(n_embd: int, n_rows: int, n_blocks: int) -> None:
    """Refuse a fit for which too little memory is free.

    Raises:
        FitError: how much it takes.
    """
    needed, free = memory_needed(n_embd, n_rows, n_blocks), available()
    if free is not None and needed > free:
        raise FitError(
            f"a fit by `chain` takes about {needed / 1e9:.1f} GB of memory beside the model, and "
            f"{free / 1e9:.1f} GB are free; end other programs (a quick fit takes least)."
        )


def _mix(chain: Chain, deltas: dict[int, Delta]) -> Mix:
    if not deltas:
        return NOTHING
    return Mix.of(Steering(chain.name, chain.n_embd, chain.n_layer, deltas, chain.scope))
