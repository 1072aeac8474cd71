"""What the chats of lessons have at blocks, prompted or bare, read from lower blocks to upper ones.

What all tokens had at the last block is kept, and given to llama.cpp when the next one is read: of
those below nothing is computed then. That is right unless a block reads what others have kept of
the text, as in models that share keys and values; so the first lesson is always read from its
tokens as well, and all are where the two differ.
"""

from collections.abc import Sequence

import numpy as np

from steerplug.engine.capture import Given
from steerplug.engine.reader import Reader, reply_rows
from steerplug.engine.scope import Prompt
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import READING, Lesson, n_common
from steerplug.steering.value import NOTHING, Array, Mix, Scope

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


class Chats:
    """The chats of lessons after one kind of prompt.

    Args:
        reader: of a context on the model.
        lessons: the lessons.
        prompts: of each lesson, the prompted one or the bare one.
        scope: of what steers them.
    """

    def __init__(
        self, reader: Reader, lessons: Sequence[Lesson], prompts: Sequence[Prompt], scope: Scope
    ) -> None:
        self._reader, self._lessons, self._prompts = reader, lessons, prompts
        self._n_paired = [n_paired(lesson, scope) for lesson in lessons]
        self._common = n_common([prompt.tokens for prompt in prompts])
        self._last: list[Given] = []

    def at(
        self, layers: Sequence[int], mix: Mix = NOTHING, report: Report = silent
    ) -> list[Array]:
        """Return each lesson's paired rows at some blocks under `mix`, which steers below them.

        Each is (n_blocks, n_rows, n_embd). Blocks are asked for rising.
        """
        last = self._last if self._last_is_enough(layers, mix) else None
        paired, self._last = [], []
        for i in steps(range(len(self._lessons)), READING, report):
            read = self._read(i, layers, mix, last[i] if last else None)
            paired.append(read[:, -self._n_paired[i] :].copy())
            self._last.append(Given(layers[-1], read[-1].copy()))
        return paired

    def _last_is_enough(self, layers: Sequence[int], mix: Mix) -> bool:
        """Whether the first lesson's rows are the same, read from the last block or its tokens."""
        if not (self._last and self._reader.context.hook.takes_given):
            return False
        begun, whole = (self._read(0, layers, mix, last) for last in (self._last[0], None))
        return bool(np.abs(begun - whole).max() <= _SAME * np.abs(whole).max())

    def _read(self, i: int, layers: Sequence[int], mix: Mix, last: Given | None) -> Array:
        """Return the rows of a chat at some blocks, but for the tokens that all begin with.

        Those stay in the cells; nothing is computed above the blocks.
        """
        prompt, reply = self._prompts[i], self._lessons[i].reply
        first = min(self._common, len(prompt.tokens) + len(reply) - self._n_paired[i])
        # The last block computes only the rows whose logits are asked for.
        output_from = first if self._reader.context.model.n_layer - 1 in layers else None
        rows = reply_rows(prompt, reply, mix, output_from)
        self._reader.hold(rows[:first])
        return self._reader.peek(rows[first:], layers, last)
