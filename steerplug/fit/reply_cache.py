"""A reply that was paid for: who asks the same again is given it, and nothing is computed.

What is asked is known by all of its request, its prompt included, but for the few fields that leave
the reply as it is.
"""

import hashlib
from collections.abc import MutableMapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from steerplug.engine.engine import Engine
from steerplug.engine.request import Progress, Request, tokens_of
from steerplug.fit.progress import Report, at_once, silent
from steerplug.steering.value import Mix


class CachedReply(NamedTuple):
    """A reply: its tokens, and the text of its answer."""

    tokens: tuple[int, ...]
    text: str


IDLE = frozenset({"logprobs", "timeout", "partition", "must_fit", "scored", "tells_moved"})
"""Fields of a request that tell more of a reply, or refuse it, and never make it another one."""

ReplyCache = MutableMapping[str, CachedReply]
"""Replies by what was asked; see `name_of`."""

_READING = 0.2
"""The share of a reply's time that goes by before its first token, about."""


def name_of(request: Request) -> str:
    """Return by what the reply to a request is known."""
    asked = {
        field.name: _told(getattr(request, field.name))
        for field in fields(request) if field.name not in IDLE
    }  # fmt: skip
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:32]


def _told(value: Any) -> Any:
    """Return what is the same text in every process: sets have no order, and a mix has no name."""
    if isinstance(value, Mix):
        return value.digest
    return sorted(value) if isinstance(value, frozenset) else value


def ask_all(
    engine: Engine,
    requests: Sequence[Request],
    cache: ReplyCache | None,
    what: str,
    report: Report = silent,
    *,
    before: int = 0,
) -> list[CachedReply]:
    """Return the replies to requests, made side by side and told token by token.

    They end at about the same time: told one by one, nothing would move until then.

    Args:
        engine: the model.
        requests: what is asked.
        cache: replies that are not asked for again; new ones are put in.
        what: it is called in reports.
        report: told how far the work is.
        before: how many more there are, which had been asked earlier.
    """
    running = [(request, Progress()) for request in requests]
    return at_once(
        lambda each: ask(engine, each[0], cache, each[1]), running, what, report,
        before=before, part=_part,
    )  # fmt: skip


def _part(running: tuple[Request, Progress]) -> float:
    """Return how much of a reply is there, counting the reading of its prompt once it has begun."""
    request, progress = running
    if not progress.n_generated or not request.max_tokens:
        return 0.0
    return _READING + (1 - _READING) * min(progress.n_generated / request.max_tokens, 1.0)


def ask(
    engine: Engine, request: Request, cache: ReplyCache | None = None,
    progress: Progress | None = None,
) -> CachedReply:
    """Return the reply to a request, which is put into the cache."""
    name = name_of(request)
    if cache is not None and name in cache:
        return cache[name]
    pieces = list(engine.generate(request, progress, whole=True))
    text = "".join(piece.text for piece in pieces if not piece.in_thought)
    reply = CachedReply(tokens_of(pieces), text)
    if cache is not None:
        cache[name] = reply
    return reply
