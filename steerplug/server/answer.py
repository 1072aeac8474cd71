"""One request being answered, in whatever shape: in one, or as a stream.

Shapes are `choices` for OpenAI's chats and completions, `responses_api` for its Responses, and
`ollama` for Ollama's; when something is said, noted and counted is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from steerplug.engine.engine import Piece
from steerplug.server.asking import Asked
from steerplug.server.dialect import OPENAI, Dialect
from steerplug.server.merge_streams import Numbered, begun, unless_gone
from steerplug.server.requests import Body
from steerplug.server.state import ServerState
from steerplug.session.receipt import Reply

Events = AsyncGenerator[Numbered, None]


class Answer(ABC):
    """The replies to one request.

    Args:
        serving: the server.
        request: who asks.
        body: what for.
        asked: the replies that will come, and how they are steered.
    """

    dialect: ClassVar[Dialect] = OPENAI

    def __init__(self, serving: ServerState, request: Request, body: Body, asked: Asked) -> None:
        self._serving, self._request, self._body, self._asked = serving, request, body, asked
        self._replies: list[Reply | None] = [None] * asked.n
        self.vocab = asked.served.session.model.vocab

    @abstractmethod
    def whole(self, replies: list[Reply], pieces: list[list[Piece]]) -> dict[str, Any]:
        """Return the answer in one: its replies, and the pieces that each was made of."""

    @abstractmethod
    def stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yield the parts of the answer as its replies come."""

    async def respond(self) -> Response:
        """Return the response to the request."""
        choice, events = self._asked.choice, self._asked.events
        headers = {
            "x-steering-digest": choice.digest or "none",
            "x-steering-carrier": choice.carrier or "none",
        }
        if self._body.stream:
            parts = self.stream(await begun(events, self._serving.config.heartbeat))
            return self._serving.stream(self._request, parts, headers, self.dialect)
        whole = await unless_gone(self._request.receive, self._in_one(events))
        return JSONResponse(whole, headers=headers)

    async def _in_one(self, events: Events) -> dict[str, Any]:
        pieces: list[list[Piece]] = [[] for _ in self._replies]
        async with aclosing(events):
            async for i, part in events:
                if isinstance(part, Reply):
                    self._replies[i] = part
                elif isinstance(part, Piece):
                    pieces[i].append(part)
        return self.whole(self.finished(), pieces)

    def finished(self) -> list[Reply]:
        """Return all replies, which are there now, and note them."""
        replies = [reply for reply in self._replies if reply is not None]
        self._serving.note(self._request, self._asked.served, self._asked.choice, replies)
        return replies
