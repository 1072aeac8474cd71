"""A reply that was paid for: who asks the same again is given it, and nothing is computed.

What is asked is known by all that decides on the reply: the prompt's tokens, the mix, how tokens
are drawn and how many, and the grammar.
"""

import hashlib
from collections.abc import MutableMapping
from typing import NamedTuple

from steerplug.engine.engine import Engine
from steerplug.engine.request import Request, tokens_of


class Said(NamedTuple):
    """A reply: its tokens, and the text of its answer."""

    tokens: tuple[int, ...]
    text: str


Known = MutableMapping[str, Said]
"""Replies by what was asked; see `name_of`."""


def name_of(request: Request) -> str:
    """Return by what the reply to a request is known."""
    asked = (
        request.prompt.tokens, request.mix.digest, request.sampling, request.max_tokens,
        request.grammar, request.thinking_budget,
    )  # fmt: skip
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:32]


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
