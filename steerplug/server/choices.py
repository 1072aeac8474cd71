"""Answers of OpenAI's chats and completions: a list of `choices`, in one or as a stream.

What a choice looks like is theirs to say; when it is said is the same for both.
"""

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from steerplug.chat.tool import CallPiece
from steerplug.engine.engine import Piece
from steerplug.server.answer import Answer, Events
from steerplug.server.dialect import TEXT, Frame
from steerplug.server.responses import head, receipt, usage
from steerplug.session.receipt import Reply

Chosen = dict[str, Any]
"""One of the `choices` of an answer, or a part of it."""


class Choices(Answer):
    """Several replies, each a choice."""

    prefix: ClassVar[str]
    kinds: ClassVar[tuple[str, str]]
    """What OpenAI calls the answer, in one and as a part of a stream."""

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

    def whole(self, replies: list[Reply], pieces: list[list[Piece]]) -> dict[str, Any]:
        """Return all choices."""
        return {
            **head(self.prefix, self.kinds[0], self._body.model),
            "choices": [self.choice(i, reply, pieces[i]) for i, reply in enumerate(replies)],
            "usage": usage(replies, self._asked.n_prompts),
            "steering": receipt(self._asked.choice.mix, replies[0]),
        }

    async def stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yield each choice as it comes, all mixed."""
        options, event = self._body.stream_options, self.dialect.part
        tells_usage = bool(options and options.include_usage)
        first = head(self.prefix, self.kinds[1], self._body.model)
        if tells_usage:
            first["usage"] = None
        is_plain, numbers = self.is_plain, range(self._asked.n)
        frames = {
            (i, in_thought): Frame(
                self.dialect, {**first, "choices": [self.text(i, TEXT, in_thought=in_thought)]}
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
                        yield frames[i, part.in_thought].part(part.text)
                elif isinstance(part, Reply):
                    self._replies[i] = part
                    steering = receipt(self._asked.choice.mix, part)
                    yield event({**first, "choices": [self.end(i, part)], "steering": steering})
                else:
                    yield event({**first, "choices": [self.part(i, part)]})
        replies = self.finished()
        if tells_usage:
            yield event({**first, "choices": [], "usage": usage(replies, self._asked.n_prompts)})
