"""`POST /api/chat` and `/api/generate`: replies in Ollama's words, a line of JSON for each part."""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from steerplug.chat.tool import ToolCall
from steerplug.engine.engine import Piece
from steerplug.server import fields
from steerplug.server.answer import Answer, Events
from steerplug.server.asking import ask_chat, ask_texts
from steerplug.server.dialect import OLLAMA, TEXT, Frame
from steerplug.server.ollama.requests import (
    GenerateBody,
    OllamaBody,
    OllamaChatBody,
    chat_body,
    generate_body,
    plain_name,
    tagged,
)
from steerplug.server.requests import Body, ChatBody, CompletionBody
from steerplug.server.responses import chat_logprobs, receipt
from steerplug.server.state import ServerState
from steerplug.session.receipt import Reply

Part = dict[str, Any]

_NANOSECONDS = 1e9


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""

    @app.post("/api/chat", response_model=None)
    async def chat(body: OllamaChatBody, request: Request) -> Response:
        """Return the assistant's next message as Ollama does, or stream it."""
        asked_for = chat_body(body)
        if not body.messages:
            return await loaded(body, asked_for, OllamaChat.said())
        asked = await ask_chat(serving, request, asked_for)
        return await OllamaChat(serving, request, asked_for, asked).respond()

    @app.post("/api/generate", response_model=None)
    async def generate(body: GenerateBody, request: Request) -> Response:
        """Return the reply to a prompt as Ollama does, or stream it."""
        asked_for = generate_body(body)
        if not body.prompt:
            return await loaded(body, asked_for, OllamaText.said())
        if isinstance(asked_for, ChatBody):
            asked = await ask_chat(serving, request, asked_for)
        else:
            asked = await ask_texts(serving, request, asked_for)
        return await OllamaText(serving, request, asked_for, asked).respond()

    async def loaded(body: OllamaBody, asked_for: Body, said: Part) -> Response:
        """Say that the model is loaded, which is all that a request without a text asks for."""
        fields.check(asked_for)
        name = plain_name(body.model)
        chooser = serving.models.find(name).chooser
        await asyncio.to_thread(chooser.choose, name, None, None)
        end = {**_head(body.model), **said, "done": True, "done_reason": "load"}
        return JSONResponse(end)


class OllamaAnswer(Answer):
    """One reply."""

    dialect = OLLAMA
    _body: ChatBody | CompletionBody

    @staticmethod
    @abstractmethod
    def said(text: str = "", thought: str = "", calls: Sequence[ToolCall] = ()) -> Part:
        """Return what a text, a thought and calls are in Ollama's words."""

    def whole(self, replies: list[Reply], pieces: list[list[Piece]]) -> Part:
        """Return the reply, with how long it took."""
        (reply,) = replies
        said = self.said(reply.text, reply.reasoning, reply.tool_calls)
        return {
            **self._head(), **said, **self._likely(pieces[0]), **_counts(reply),
            "steering": receipt(self._asked.choice.mix, reply),
        }  # fmt: skip

    async def stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yield the reply as it comes; calls come whole, and how long it took comes last."""
        first, line = {**self._head(), "done": False}, self.dialect.part
        frames = [
            Frame(self.dialect, {**first, **said})
            for said in (self.said(TEXT), self.said(thought=TEXT))
        ]
        async with aclosing(events):
            async for _, part in events:
                if isinstance(part, Reply):
                    self._replies[0] = part
                elif isinstance(part, Piece) and self._tells_likely:
                    texts = ("", part.text) if part.in_thought else (part.text, "")
                    yield line({**first, **self.said(*texts), **self._likely([part])})
                elif isinstance(part, Piece) and part.text:
                    yield frames[part.in_thought].part(part.text)
        (reply,) = self.finished()
        if reply.tool_calls:
            yield line({**first, **self.said(calls=reply.tool_calls)})
        steering = receipt(self._asked.choice.mix, reply)
        yield line({**first, **self.said(), **_counts(reply), "steering": steering})

    def _head(self) -> Part:
        return _head(tagged(self._body.model))

    def _likely(self, pieces: list[Piece]) -> Part:
        if not self._tells_likely:
            return {}
        return {"logprobs": chat_logprobs(pieces, self.vocab)["content"]}

    @cached_property
    def _tells_likely(self) -> bool:
        """Whether probabilities are asked for; for a text, 0 of the likeliest are some."""
        return self._body.logprobs is not None and self._body.logprobs is not False


class OllamaChat(OllamaAnswer):
    """The next message of a chat."""

    @staticmethod
    def said(text: str = "", thought: str = "", calls: Sequence[ToolCall] = ()) -> Part:
        """Return a message."""
        message: Part = {"role": "assistant", "content": text}
        if thought:
            message["thinking"] = thought
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in calls
            ]
        return {"message": message}


class OllamaText(OllamaAnswer):
    """The reply to a prompt."""

    @staticmethod
    def said(text: str = "", thought: str = "", calls: Sequence[ToolCall] = ()) -> Part:
        """Return a text; nothing can be called here."""
        assert not calls
        return {"response": text, **({"thinking": thought} if thought else {})}


def _head(model: str) -> Part:
    return {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _counts(reply: Reply) -> Part:
    """Return why a reply ended, and its tokens and times; the model was there already."""
    to_first, whole = reply.seconds_to_first, reply.seconds
    return {
        "done": True,
        "done_reason": "length" if reply.finish_reason == "length" else "stop",
        "total_duration": int(whole * _NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": reply.usage.prompt_tokens,
        "prompt_eval_duration": int(to_first * _NANOSECONDS),
        "eval_count": reply.usage.completion_tokens,
        "eval_duration": int((whole - to_first) * _NANOSECONDS),
    }
