"""A reply that was paid for: who asks the same again is given it, and nothing is computed.

What is asked is known by all of its request, its prompt included, but for the few fields that leave
the reply as it is.
"""

import hashlib
from collections.abc import MutableMapping
from dataclasses import fields
from typing import Any, NamedTuple

from steerplug.engine.engine import Engine
from steerplug.engine.request import Request, tokens_of
from steerplug.steering.value import Mix


class Said(NamedTuple):
    """A reply: its tokens, and the text of its answer."""

    tokens: tuple[int, ...]
    text: str


IDLE = frozenset({"logprobs", "timeout", "partition", "must_fit", "scored", "tells_moved"})
"""Fields of a request that tell more of a reply, or refuse it, and never make it another one."""

Known = MutableMapping[str, Said]
"""Replies by what was asked; see `name_of`."""


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


def ask(engine: Engine, request: Request, known: Known | None = None) -> Said:
    """Return the reply to a request, which is put among those that are known."""
    name = name_of(request)
    if known is not None and name in known:
        return known[name]
    pieces = list(engine.generate(request, whole=True))
    text = "".join(piece.text for piece in pieces if not piece.in_thought)
    said = Said(tokens_of(pieces), text)
    if known is not None:
        known[name] = said
    return said
