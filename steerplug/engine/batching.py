"""What running replies decode in one step: the next token of each, or pieces of their prompts."""

from collections.abc import Sequence

from steerplug.engine.decoding import Part
from steerplug.engine.generation import Generation
from steerplug.engine.likelihood import most_rows
from steerplug.engine.prefix_cache import PrefixCache

PROMPT_ROWS_BESIDE_REPLIES = 128
"""Most prompt tokens in a step that others wait for to see their next token."""


class SharedBatches:
    """One row for each reply that generates, and beside them equal shares of prompts.

    Args:
        cache: the cells of a context.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache

    def choose(self, running: Sequence[Generation], n_rows: int) -> list[Part]:
        """Return what to decode next, n_rows in all.

        What short prompts do not need goes to longer ones.
        """
        parts = [Part(reply, 1) for reply in running if reply.n_missing == 1]
        if len(parts) == len(running):
            return parts
        reading = sorted((reply for reply in running if reply.n_missing > 1),
                         key=lambda reply: reply.n_missing)
        room = n_rows - len(parts)
        if parts:
            room = min(room, PROMPT_ROWS_BESIDE_REPLIES)
        if any(reply.is_scored for reply in reading):
            room = min(room, self._most_scored)
        for i, reply in enumerate(reading):
            n = self._piece(reply, -(-room // (len(reading) - i)))
            if n > 0:
                parts.append(Part(reply, n))
                room -= n
        return parts

    @property
    def _most_scored(self) -> int:
        return most_rows(self._cache.context.model.vocab.n_tokens)

    def _piece(self, reply: Generation, n: int) -> int:
        """Return how many of the next n tokens of a reply to decode at once."""
        assert reply.held is not None
        return self._cache.until_kept(reply.held, min(reply.n_missing, n))


class AlternatingBatches(SharedBatches):
    """Either one row for each reply that generates, or a piece of one prompt, by turns.

    llama.cpp regroups other batches of a recurrent model by sequence.
    """

    def choose(self, running: Sequence[Generation], n_rows: int) -> list[Part]:
        """Return what to decode next, at most n_rows; of prompts, the one that waited longest."""
        replies = [reply for reply in running if reply.n_missing == 1]
        reading = sorted((reply for reply in running if reply.n_missing > 1), key=_used_at)
        if replies and (not reading or min(map(_used_at, replies)) < _used_at(reading[-1])):
            return [Part(reply, 1) for reply in self._lined_up(replies)]
        most = min(n_rows, PROMPT_ROWS_BESIDE_REPLIES) if replies else n_rows
        if reading[0].is_scored:
            most = min(most, self._most_scored)
        return [Part(reading[0], self._piece(reading[0], most))]

    def _lined_up(self, replies: Sequence[Generation]) -> list[Generation]:
        """Return replies in the order of their sequences, which follow each other if they must."""
        self._cache.line_up([reply.held for reply in replies if reply.held is not None])
        return sorted(replies, key=lambda reply: reply.held.number if reply.held else -1)


def _used_at(reply: Generation) -> int:
    return reply.held.used_at if reply.held is not None else 0
