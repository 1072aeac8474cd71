"""From a model and its teacher's replies to steering, block after block.

Rows of a lesson are the boundary token and the reply's tokens; in scope `all` also the tokens
before them that both prompts end with. What the prompted model has at a block is read for as many
blocks at a time as 512 MB hold.
"""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from steerplug.engine.free_memory import available
from steerplug.engine.reader import Reader, reply_rows
from steerplug.errors import FitError
from steerplug.fit.activations import capture
from steerplug.fit.chain import prediction
from steerplug.fit.chain.prediction import fit_prediction, head_of
from steerplug.fit.chain.regression import Sums, regress, weights_of
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import Lesson, n_common
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Scope, Steering

RANK = 64
_PARTS = 4
"""Lessons are dealt into four parts, of which some choose the ridge."""

_QUESTION = np.float32(0.2)
"""What a row before the reply counts, where those are steered as well: no word of the answer."""

_MOST_BYTES = 2**29

Read = Callable[[Lesson], Array]
"""A lesson -> the bare chat's rows at the block that is fitted, those below being steered."""


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
    rows = sum(_n_paired(chain, lesson) for lesson in lessons)
    at_once = n_read_together(rows, chain.n_embd)
    common = n_common([lesson.bare.tokens for lesson in lessons])
    left = [il for il in layers if il not in deltas]
    for begin in range(0, len(left), at_once):
        some = left[begin : begin + at_once]
        wanted = _prompted(chain, reader, lessons, some, report)
        for i, il in enumerate(some):
            report("distilling block by block", len(layers) - len(left) + begin + i, len(layers))
            below = _mix(chain, {lower: deltas[lower] for lower in layers if lower < il})
            prompted = [rows[i] for rows in wanted]
            read = partial(_steered, chain, reader, common=common, mix=below, il=il)
            is_last = il == chain.n_layer - 1
            fitted = _by_prediction if is_last else partial(_by_regression, rank=rank)
            deltas[il] = fitted(reader, lessons, prompted, read)
    report("distilling block by block", len(layers), len(layers))
    return Steering(
        chain.name, chain.n_embd, chain.n_layer, {il: deltas[il] for il in layers}, chain.scope
    )


def _by_regression(
    _reader: Reader, lessons: Sequence[Lesson], prompted: Sequence[Array], read: Read, rank: int
) -> Delta:
    present = [read(lesson) for lesson in lessons]
    missing = [rows - h for rows, h in zip(prompted, present, strict=True)]
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
    reader: Reader, lessons: Sequence[Lesson], prompted: Sequence[Array], read: Read
) -> Delta:
    present = [read(lesson)[-lesson.n_rows :] for lesson in lessons]
    wanted = [rows[-lesson.n_rows :] for rows, lesson in zip(prompted, lessons, strict=True)]
    return fit_prediction(head_of(reader, lessons), present, wanted)


def n_read_together(n_rows: int, n_embd: int) -> int:
    """Return for how many blocks at a time the prompted model is read."""
    return max(_MOST_BYTES // (4 * n_rows * n_embd), 1)


def memory_needed(n_embd: int, n_rows: int, n_blocks: int) -> int:
    """Return the bytes that it takes, about: blocks, one's rows and sums, and the last one."""
    last, blocks = prediction.memory_needed(n_embd, n_rows), 4 * n_rows * n_embd * n_blocks
    return min(blocks, _MOST_BYTES) + 20 * n_embd * n_rows + 8 * 2 * n_embd**2 * (_PARTS + 4) + last


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


def _n_paired(chain: Chain, lesson: Lesson) -> int:
    """Return how many last rows of a lesson's two chats belong together."""
    if chain.scope == "response":
        return lesson.n_rows
    pairs = zip(reversed(lesson.prompted.tokens), reversed(lesson.bare.tokens), strict=False)
    return len(lesson.reply) + next(
        (i for i, (a, b) in enumerate(pairs) if a != b), len(lesson.bare.tokens)
    )


def _prompted(
    chain: Chain, reader: Reader, lessons: Sequence[Lesson], layers: Sequence[int], report: Report
) -> list[Array]:
    """Return the prompted activations of each lesson's rows: (n_blocks, n_rows, n_embd)."""
    return [
        capture(reader, (*lesson.prompted.tokens, *lesson.reply), layers,
                len(lesson.prompted.tokens) + len(lesson.reply) - _n_paired(chain, lesson))
        for lesson in steps(lessons, "reading the prompted model", report)
    ]  # fmt: skip


def _steered(
    chain: Chain, reader: Reader, lesson: Lesson, *, common: int, mix: Mix, il: int
) -> Array:
    """Return the bare chat's rows at block il under `mix`: (n_rows of the lesson, n_embd).

    The first `common` tokens, which all lessons share, stay in the cells; nothing else is computed
    above the block.
    """
    n_rows = _n_paired(chain, lesson)
    first = min(common, len(lesson.bare.tokens) + len(lesson.reply) - n_rows)
    # The last block computes only the rows whose logits are asked for.
    output_from = first if il == chain.n_layer - 1 else None
    rows = reply_rows(lesson.bare, lesson.reply, mix, output_from)
    reader.hold(rows[:first])
    return reader.peek(rows[first:], il)[-n_rows:]
