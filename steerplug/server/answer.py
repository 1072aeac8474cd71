"""One request being answered: its replies as they come, in one or as a stream.

What chats and completions look like is theirs to say; when it is said is the same for both.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from steerplug.chat.tool import CallPiece
from steerplug.engine.engine import Piece
from steerplug.server.merge_streams import Numbered, begun, unless_gone
from steerplug.server.requests import Body
from steerplug.server.responses import TEXT, Frame, event, head, receipt, usage
from steerplug.server.state import ServerState
from steerplug.server.steering_choice import SteeringChoice
from steerplug.session.receipt import Reply

Events = AsyncGenerator[Numbered, None]
Chosen = dict[str, Any]
"""One of the `choices` of an answer, or a part of it."""


class Answer(ABC):
    """The replies to one request.

    Args:
        serving: the model.
        request: who asks.
        body: what for.
        choice: how the replies are steered.
        n: how many replies there are.
        n_prompts: to how many prompts.
    """

    prefix: ClassVar[str]
    kinds: ClassVar[tuple[str, str]]
    """What OpenAI calls the answer, in one and as a part of a stream."""

    def __init__(
        self, serving: ServerState, request: Request, body: Body, choice: SteeringChoice, n: int,
        n_prompts: int = 1,
    ) -> None:  # fmt: skip
        self._serving, self._request, self._body = serving, request, body
        self._choice, self._n_prompts = choice, n_prompts
        self._replies: list[Reply | None] = [None] * n
        self.vocab = serving.session.model.vocab

    @abstractmethod
    def opening(self, i: int) -> Chosen | None:
        """Return what a stream says before the first piece of reply i."""

    @property
    @abstractmethod
    def is_plain(self) -> bool:
        """Whether a stream tells nothing of a piece but its text."""

    @abstractmethod
    def text(self, i: int, text: str, *, in_thought: bool = False) -> Chosen:
        """Return what a text adds to the stream of reply i, to its answer or its thoughts."""

    @property
    def tells_thoughts(self) -> bool:
        """Whether thoughts are told at all."""
        return True

    @abstractmethod
    def part(self, i: int, piece: Piece | CallPiece) -> Chosen:
        """Return what a piece of reply i adds to a stream, with all that is told of it."""

    @abstractmethod
    def end(self, i: int, reply: Reply) -> Chosen:
        """Return what a stream says when reply i is finished."""

    @abstractmethod
    def choice(self, i: int, reply: Reply, pieces: list[Piece]) -> Chosen:
        """Return the whole of reply i."""

    async def respond(self, events: Events) -> Response:
        """Return the response to a request whose replies are `events`."""
        headers = {
            "x-steering-digest": self._choice.digest or "none",
            "x-steering-carrier": self._choice.carrier or "none",
        }
        if self._body.stream:
            chunks = self._stream(await begun(events, self._serving.config.heartbeat))
            return self._serving.stream(self._request, chunks, headers)
        whole = await unless_gone(self._request.receive, self._whole(events))
        return JSONResponse(whole, headers=headers)

    async def _whole(self, events: Events) -> dict[str, Any]:
        pieces: list[list[Piece]] = [[] for _ in self._replies]
        async with aclosing(events):
            async for i, part in events:
                if isinstance(part, Reply):
                    self._replies[i] = part
                elif isinstance(part, Piece):
                    pieces[i].append(part)
        replies = self._finished()
        return {
            **head(self.prefix, self.kinds[0], self._body.model),
            "choices": [self.choice(i, reply, pieces[i]) for i, reply in enumerate(replies)],
            "usage": usage(replies, self._n_prompts),
            "steering": receipt(self._choice.mix, replies[0]),
        }

    async def _stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        options = self._body.stream_options
        tells_usage = bool(options and options.include_usage)
        first = head(self.prefix, self.kinds[1], self._body.model)
        if tells_usage:
            first["usage"] = None
        is_plain, numbers = self.is_plain, range(len(self._replies))
        frames = {
            (i, in_thought): Frame(
                {**first, "choices": [self.text(i, TEXT, in_thought=in_thought)]}
            )
            for i in numbers for in_thought in (False, True)
        }  # fmt: skip
        for i in numbers:
            if opening := self.opening(i):
                yield event({**first, "choices": [opening]})
        async with aclosing(events):
            async for i, part in events:
                if isinstance(part, Piece) and part.in_thought and not self.tells_thoughts:
                    continue
                if is_plain and isinstance(part, Piece):
                    if part.text:
                        yield frames[i, part.in_thought].event(part.text)
                elif isinstance(part, Reply):
                    self._replies[i] = part
                    steering = receipt(self._choice.mix, part)
                    yield event({**first, "choices": [self.end(i, part)], "steering": steering})
                else:
                    yield event({**first, "choices": [self.part(i, part)]})
        replies = self._finished()
        if tells_usage:
            yield event({**first, "choices": [], "usage": usage(replies, self._n_prompts)})

    def _finished(self) -> list[Reply]:
        replies = [reply for reply in self._replies if reply is not None]
        self._serving.note(self._request, self._choice, replies)
        return replies
