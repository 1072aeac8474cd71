"""`POST /v1/chat/completions`."""

from functools import cached_property
from typing import Any

from fastapi import FastAPI, Request, Response

from steerplug.chat.tool import CallPiece
from steerplug.engine.engine import Piece
from steerplug.server.asking import ask_chat
from steerplug.server.choices import Choices, Chosen
from steerplug.server.requests import ChatBody
from steerplug.server.responses import call, call_delta, chat_logprobs
from steerplug.server.state import ServerState
from steerplug.server.thinking import asked_thinking
from steerplug.session.receipt import Reply

_THOUGHT = "reasoning_content"


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoint."""

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response:
        """Return the assistant's next message, or stream it."""
        asked = await ask_chat(serving, request, body)
        return await ChatAnswer(serving, request, body, asked).respond()


class ChatAnswer(Choices):
    """The next messages of a chat."""

    prefix, kinds = "chatcmpl", ("chat.completion", "chat.completion.chunk")
    _body: ChatBody

    def opening(self, i: int) -> Chosen:
        """Say whose message it is."""
        return _chunk(i, {"role": "assistant", "content": ""})

    @property
    def is_plain(self) -> bool:
        """Whether neither probabilities nor a trace are asked for."""
        return not (self._body.logprobs or self._body.steering_trace)

    def text(self, i: int, text: str, *, in_thought: bool = False) -> Chosen:
        """Return more of the message."""
        return _chunk(i, {_THOUGHT if in_thought else "content": text})

    @cached_property
    def tells_thoughts(self) -> bool:
        """Whether thoughts are told at all."""
        return asked_thinking(self._body).told

    def part(self, i: int, piece: Piece | CallPiece) -> Chosen:
        """Return text with what is told of it, or a part of a call."""
        if isinstance(piece, CallPiece):
            return _chunk(i, {"tool_calls": [call_delta(piece)]})
        said = self.text(i, piece.text, in_thought=piece.in_thought)
        if self._body.logprobs:
            said["logprobs"] = chat_logprobs([piece], self.vocab)
        if self._body.steering_trace:
            said["moved"] = piece.moved
        return said

    def end(self, i: int, reply: Reply) -> Chosen:
        """Say why it ended."""
        return _chunk(i, {}, reply.finish_reason)

    def choice(self, i: int, reply: Reply, pieces: list[Piece]) -> Chosen:
        """Return the message."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.reasoning and self.tells_thoughts:
            message[_THOUGHT] = reply.reasoning
        if reply.tool_calls:
            message["content"] = reply.text or None
            message["tool_calls"] = [call(one) for one in reply.tool_calls]
        return {
            "index": i,
            "message": message,
            "logprobs": chat_logprobs(pieces, self.vocab) if self._body.logprobs else None,
            "finish_reason": reply.finish_reason,
        }


def _chunk(i: int, delta: dict[str, Any], finish_reason: str | None = None) -> Chosen:
    return {"index": i, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
