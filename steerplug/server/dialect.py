"""How each kind of client reads a server: what a stream is made of, and what an error looks like.

OpenAI's clients read server-sent events, those of its Responses API with a name each; Ollama's
read a line of JSON for each part. What is said in the parts is the answers' business.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Content = dict[str, Any]

TEXT = "\0"
"""What stands for the text in the part that a `Frame` is made of."""

_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Dialect:
    """What a kind of client reads.

    Args:
        media_type: of a stream.
        part: spells one part of a stream.
        alive: what shows in a silent stream that it is alive, and is no part.
        end: what ends a stream.
        error: an error as the body of an answer, from OpenAI's envelope.
        broken: an error as a part of a stream, from that envelope.
    """

    media_type: str
    part: Callable[[Content], bytes]
    alive: bytes
    end: bytes
    error: Callable[[Content], Content]
    broken: Callable[[Content], Content]


def _event(content: Content) -> bytes:
    return f"data: {_json(content)}\n\n".encode()


def _named_event(content: Content) -> bytes:
    return f"event: {content['type']}\ndata: {_json(content)}\n\n".encode()


def _line(content: Content) -> bytes:
    return f"{_json(content)}\n".encode()


def _as_it_is(envelope: Content) -> Content:
    return envelope


def _error_event(envelope: Content) -> Content:
    return {**envelope["error"], **envelope, "type": "error"}


def _sentence(envelope: Content) -> Content:
    return {"error": envelope["error"]["message"]}


_SSE, _ALIVE = "text/event-stream", b": still here\n\n"

OPENAI = Dialect(_SSE, _event, _ALIVE, b"data: [DONE]\n\n", _as_it_is, _as_it_is)
RESPONSES = Dialect(_SSE, _named_event, _ALIVE, b"", _as_it_is, _error_event)
OLLAMA = Dialect("application/x-ndjson", _line, b" ", b"", _sentence, _sentence)


def dialect_of(path: str) -> Dialect:
    """Return what clients of a path read an error in."""
    return OLLAMA if path.startswith("/api/") else OPENAI


class Frame:
    """Parts that differ in one text alone, so that saying a token costs next to nothing.

    Args:
        dialect: what they are spelt in.
        content: such a part, with `TEXT` as its last text.
    """

    def __init__(self, dialect: Dialect, content: Content) -> None:
        self._before, _, self._after = dialect.part(content).rpartition(_json(TEXT).encode())

    def part(self, text: str) -> bytes:
        """Return the part that says this text."""
        return self._before + _json(text).encode() + self._after
