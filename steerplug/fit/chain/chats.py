"""What both chats of lessons have at blocks: prompted ones, and bare ones as steered so far.

What bare chats had at the last block is kept, and given to llama.cpp when they are read at the next
one: below it no more is computed than keys and values. That is right unless a block reads what
others have kept of the text, as in models that share keys and values; so the first lesson is
always read from its tokens as well, and all are where the two differ.
"""

from collections.abc import Sequence

import numpy as np

from steerplug.engine.hook import Given
from steerplug.engine.reader import Reader, reply_rows
from steerplug.fit.activations import capture
from steerplug.fit.progress import Report, steps
from steerplug.fit.teacher import Lesson, n_common
from steerplug.steering.value import Array, Mix, Scope

_SAME = 1e-3
"""What rounding may change, as a share of the largest value."""


def n_paired(lesson: Lesson, scope: Scope) -> int:
    """Return how many last rows of a lesson's two chats belong together."""
    if scope == "response":
        return lesson.n_rows
    pairs = zip(reversed(lesson.prompted.tokens), reversed(lesson.bare.tokens), strict=False)
    return len(lesson.reply) + next(
        (i for i, (a, b) in enumerate(pairs) if a != b), len(lesson.bare.tokens)
    )


def prompted(
    reader: Reader, lessons: Sequence[Lesson], scope: Scope, layers: Sequence[int], report: Report
) -> list[Array]:
    """Return the prompted activations of each lesson's rows: (n_blocks, n_rows, n_embd)."""
    return [
        capture(reader, (*lesson.prompted.tokens, *lesson.reply), layers,
                len(lesson.prompted.tokens) + len(lesson.reply) - n_paired(lesson, scope))
        for lesson in steps(lessons, "reading the prompted model", report)
    ]  # fmt: skip


class BareChats:
    """The bare chats of lessons, read block after block.

    Args:
        reader: of a context on the model.
        lessons: the lessons.
        scope: of what steers them.
    """

    def __init__(self, reader: Reader, lessons: Sequence[Lesson], scope: Scope) -> None:
        self._reader, self._lessons, self._scope = reader, lessons, scope
        self._common = n_common([lesson.bare.tokens for lesson in lessons])
        self._last: list[Given] = []

    def at(self, il: int, mix: Mix) -> list[Array]:
        """Return each lesson's rows at block il under `mix`, which steers only below it.

        Blocks are asked for rising. Each is (n_rows, n_embd).
        """
        last = self._last if self._last_is_enough(il, mix) else [None] * len(self._lessons)
        read = [self._read(*each, il, mix) for each in zip(self._lessons, last, strict=True)]
        self._last = [Given(il, rows) for rows in read]
        return [rows[-n_paired(lesson, self._scope) :]
                for rows, lesson in zip(read, self._lessons, strict=True)]

    def _last_is_enough(self, il: int, mix: Mix) -> bool:
        """Whether the first lesson's rows are the same, read from the last block or its tokens."""
        if not (self._last and self._reader.context.hook.takes_given):
            return False
        first = self._lessons[0]
        begun, whole = (self._read(first, last, il, mix) for last in (self._last[0], None))
        return bool(np.abs(begun - whole).max() <= _SAME * np.abs(whole).max())

    def _read(self, lesson: Lesson, last: Given | None, il: int, mix: Mix) -> Array:
        """Return the rows of a chat at block il, but for the tokens that all begin with.

        Those stay in the cells; nothing is computed above the block.
        """
        n_rows = len(lesson.bare.tokens) + len(lesson.reply)
        first = min(self._common, n_rows - n_paired(lesson, self._scope))
        # The last block computes only the rows whose logits are asked for.
        output_from = first if il == self._reader.context.model.n_layer - 1 else None
        rows = reply_rows(lesson.bare, lesson.reply, mix, output_from)
        self._reader.hold(rows[:first])
        return self._reader.peek(rows[first:], il, last)
