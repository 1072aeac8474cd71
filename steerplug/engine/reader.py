"""The KV cells of one sequence, and the rule by which they are used again.

A cell may be reused only where (token, steering applied to it) are both equal, for every token from
the start. Two presets therefore share the cells of an unsteered prompt and nothing else; another
strength, mix, preset file or model has another key.

Of a model that cannot be cut back, states are kept where one text parted from the last, and before
what is only peeked at; each text goes on from the last of those that it begins with.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from steerplug.engine import threads
from steerplug.engine.capture import Capture, Given
from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt, plan
from steerplug.engine.sequences import State
from steerplug.steering.value import Array, Mix

_MOST_KEPT = 4


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
    steering = [*laid.prompt, *[laid.generated] * len(reply)]
    first = len(tokens) if output_from is None else output_from
    return [Row(token, i, i >= first, steering[i]) for i, token in enumerate(tokens)]


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
    """What a context's cache holds for its sequence 0, kept in step with llama.cpp.

    Args:
        context: one whose cache it alone fills from now on.
        held: rows that it holds already.
    """

    def __init__(self, context: Context, held: Sequence[Row] = ()) -> None:
        self.context = context
        self._held: list[tuple[int, str | None]] = list(map(_cell, held))
        self._kept: list[tuple[int, State]] = []
        self._parting = 0

    def __len__(self) -> int:
        return len(self._held)

    def reuse(self, rows: Sequence[Row]) -> int:
        """Keep the longest prefix that agrees with `rows`, drop the rest; return its length."""
        same = 0
        for held, row in zip(self._held, rows, strict=False):
            if held != _cell(row):
                break
            same += 1
        self._parting = same
        return self._cut(same)

    def _cut(self, n: int) -> int:
        """Drop cells from position n on, or from the last kept state before it; return where."""
        if not self.context.reaches(n, 0):
            self._kept = [kept for kept in self._kept if kept[0] <= n]
            n, state = self._kept[-1] if self._kept else (0, None)
            if state is not None:
                self.context.restore(state, 0)
        n = self.context.keep(n)
        del self._held[n:]
        return n

    def _keep_state(self) -> None:
        """Keep a state that cannot be cut back to, where this text and the last one parted."""
        n = len(self._held)
        is_kept = n == 0 or any(at == n for at, _ in self._kept)
        if n == self._parting and not (is_kept or self.context.can_be_cut):
            self._kept = [*self._kept[-_MOST_KEPT + 1 :], (n, self.context.save(0))]

    def hold(self, rows: Sequence[Row]) -> None:
        """Hold the cells of these rows alone: what agrees is kept, and the rest decoded."""
        for _ in self.decode(rows[self.reuse(rows) :]):
            pass

    def peek(
        self, rows: Sequence[Row], layers: Sequence[int], given: Given | None = None
    ) -> Array:
        """Return what rows that would follow have at some blocks; hold none of them.

        Nothing above the blocks is computed, nor below what is given, where the hook `takes_given`.

        Returns:
            (n_blocks, n_rows, n_embd)

        Raises:
            EngineError: as `decode` does.
        """
        self._parting = start = len(self._held)
        self._keep_state()
        parts = [batch.captured for batch in self._decode(rows, layers, only=True, given=given)
                 if batch.captured is not None]
        self._cut(start)
        return np.concatenate(parts, axis=1)

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
        self, rows: Sequence[Row], capture: Sequence[int], *, only: bool = False,
        given: Given | None = None,
    ) -> Iterator[Decoded]:  # fmt: skip
        begin = 0
        while begin < len(rows):
            batch = rows[begin : begin + self._n_at_once()]
            of_batch = given and Given(given.il, given.rows[begin : begin + len(batch)])
            wanted = Capture(capture, range(len(batch)), only, of_batch) if capture else None
            try:
                captured = self.context.decode(batch, wanted)
            except BaseException:
                self._held.clear()
                self._kept.clear()
                self.context.clear()
                raise
            self._held.extend(map(_cell, batch))
            self._keep_state()
            begin += len(batch)
            yield Decoded(begin - len(batch), begin, captured)
        threads.give_back()

    def _n_at_once(self) -> int:
        """Return how many rows to decode next: no further than to where a state is kept."""
        to_parting = self._parting - len(self._held)
        stops = to_parting > 0 and not self.context.can_be_cut
        return min(self.context.n_batch, to_parting) if stops else self.context.n_batch


def _cell(row: Row) -> tuple[int, str | None]:
    return row.token, row.steering.key if row.steering else None
