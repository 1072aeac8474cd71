"""The KV cells of one sequence, and the rule by which they are used again.

A cell may be reused only where (token, steering applied to it) are both equal, for every token from
the start. Two presets therefore share the cells of an unsteered prompt and nothing else; another
strength, mix, preset file or model has another key.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from steerplug.engine import threads
from steerplug.engine.context import Context, Row
from steerplug.engine.hook import Capture
from steerplug.engine.model import Model
from steerplug.engine.scope import Prompt, plan
from steerplug.steering.value import Array, Mix


class Decoded(NamedTuple):
    """One batch that was decoded: rows [begin, end) of those given, and what it captured."""

    begin: int
    end: int
    captured: Array | None


def reply_rows(
    prompt: Prompt, reply: Sequence[int], mix: Mix, output_from: int | None = None
) -> list[Row]:
    """Return the rows of a prompt and a reply to it, each steered as when the reply was drawn.

    Args:
        prompt: the tokens before the reply.
        reply: its tokens.
        mix: what steers.
        output_from: the first row whose logits are asked for; none are if None.
    """
    tokens = (*prompt.tokens, *reply)
    laid = plan(mix, prompt)
    applied = [*laid.prompt, *[laid.generated] * len(reply)]
    first = len(tokens) if output_from is None else output_from
    return [Row(token, i, i >= first, applied[i]) for i, token in enumerate(tokens)]


@contextmanager
def reading(model: Model, n_ctx: int) -> Iterator["Reader"]:
    """Give what reads texts in a context of its own, freed in the end.

    Args:
        model: the model.
        n_ctx: how many tokens a text may have.

    Raises:
        ModelError: no such context could be made.
    """
    context = Context(model, n_ctx=n_ctx)
    try:
        yield Reader(context)
    finally:
        context.close()


class Reader:
    """What a context's cache holds for its sequence 0, kept in step with llama.cpp."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._held: list[tuple[int, str | None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def reuse(self, rows: Sequence[Row]) -> int:
        """Keep the longest prefix that agrees with `rows`, drop the rest; return its length."""
        same = 0
        for held, row in zip(self._held, rows, strict=False):
            if held != _cell(row):
                break
            same += 1
        same = self.context.keep(same)
        del self._held[same:]
        return same

    def hold(self, rows: Sequence[Row]) -> None:
        """Hold the cells of these rows alone: what agrees is kept, and the rest decoded."""
        for _ in self.decode(rows[self.reuse(rows) :]):
            pass

    def peek(self, rows: Sequence[Row], il: int) -> Array:
        """Return what rows that would follow have at block il, (n_rows, n_embd); hold none of them.

        Nothing above the block is computed.
        """
        start = len(self._held)
        parts = [batch.captured[0] for batch in self._decode(rows, [il], only=True)
                 if batch.captured is not None]
        del self._held[self.context.keep(start) :]
        return np.concatenate(parts)

    def decode(self, rows: Sequence[Row], capture: Sequence[int] = ()) -> Iterator[Decoded]:
        """Decode rows that follow the held cells, batch by batch.

        Args:
            rows: the tokens to add, at the positions after the held cells.
            capture: blocks whose activations of all these rows are handed over.

        Raises:
            EngineError: llama.cpp failed, or steering did; no cell is held then.
        """
        return self._decode(rows, capture)

    def _decode(
        self, rows: Sequence[Row], capture: Sequence[int], *, only: bool = False
    ) -> Iterator[Decoded]:
        for begin in range(0, len(rows), self.context.n_batch):
            batch = rows[begin : begin + self.context.n_batch]
            wanted = Capture(capture, range(len(batch)), only) if capture else None
            try:
                captured = self.context.decode(batch, wanted)
            except BaseException:
                self._held.clear()
                self.context.clear()
                raise
            self._held.extend(map(_cell, batch))
            yield Decoded(begin, begin + len(batch), captured)
        threads.give_back()


def _cell(row: Row) -> tuple[int, str | None]:
    return row.token, row.applied.key if row.applied else None
