"""A response, in one or as the events that build it up."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import count
from typing import Any

from fastapi import Request

from steerplug.chat.tool import CallPiece, ToolCall
from steerplug.engine.engine import Piece
from steerplug.server.answer import Answer, Events
from steerplug.server.asking import Asked
from steerplug.server.dialect import RESPONSES
from steerplug.server.requests import ChatBody
from steerplug.server.responses import chat_logprobs, receipt
from steerplug.server.responses_api import items
from steerplug.server.responses_api.items import Item
from steerplug.server.responses_api.requests import ResponsesBody
from steerplug.server.state import ServerState
from steerplug.session.receipt import Reply


class ResponseAnswer(Answer):
    """The response to one request.

    Args:
        serving, request, body, asked: see `Answer`.
        said: the request as it came.
    """

    dialect = RESPONSES
    _body: ChatBody

    def __init__(
        self, serving: ServerState, request: Request, body: ChatBody, asked: Asked,
        said: ResponsesBody,
    ) -> None:  # fmt: skip
        super().__init__(serving, request, body, asked)
        self._response = items.opening(said)

    def whole(self, replies: list[Reply], pieces: list[list[Piece]]) -> dict[str, Any]:
        """Return the response with all its items."""
        (reply,) = replies
        return self._ended(reply, items.output(reply, self._likely(pieces[0])))

    async def stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yield the events that build the response up, all numbered."""
        numbers, building = count(), _Building()

        def spelt(event: Item) -> bytes:
            kind = event.pop("type")
            return self.dialect.part({"type": kind, "sequence_number": next(numbers), **event})

        for kind in ("created", "in_progress"):
            yield spelt({"type": f"response.{kind}", "response": self._response})
        async with aclosing(events):
            async for _, part in events:
                if isinstance(part, Reply):
                    self._replies[0] = part
                    continue
                likely = self._likely([part]) if isinstance(part, Piece) else []
                for event in building.add(part, likely):
                    yield spelt(event)
        (reply,) = self.finished()
        for event in building.finish():
            yield spelt(event)
        ended = self._ended(reply, building.output)
        yield spelt({"type": f"response.{ended['status']}", "response": ended})

    def _ended(self, reply: Reply, output: list[Item]) -> dict[str, Any]:
        steering = receipt(self._asked.choice.mix, reply)
        return {**self._response, **items.ending(reply, output, steering)}

    def _likely(self, pieces: list[Piece]) -> list[Item]:
        if not self._body.logprobs:
            return []
        told: list[Item] = chat_logprobs(pieces, self.vocab)["content"]
        return told


class _Building:
    """The items of a response as far as they are there; the last one may be open."""

    def __init__(self) -> None:
        self.output: list[Item] = []
        self._said, self._likely = "", list[Item]()
        self._is_open = False

    def add(self, part: Piece | CallPiece, likely: list[Item]) -> Iterator[Item]:
        """Yield the events that a part of the reply makes."""
        if isinstance(part, CallPiece):
            if part.id is not None:
                begun = items.call(ToolCall(part.id, part.name or "", ""))
                yield from self._begin(begun)
            self._said += part.arguments
            yield self._event("function_call_arguments.delta", delta=part.arguments)
            return
        if not part.text:
            return
        kind = "reasoning" if part.in_thought else "message"
        if not self._is_open or self.output[-1]["type"] != kind:
            yield from self._begin(items.thought() if part.in_thought else items.message())
        self._said += part.text
        self._likely += likely
        if part.in_thought:
            yield self._event("reasoning_text.delta", delta=part.text, content_index=0)
        else:
            delta = {"delta": part.text, "logprobs": likely, "content_index": 0}
            yield self._event("output_text.delta", **delta)

    def finish(self) -> Iterator[Item]:
        """Yield the events that end the last item; a response without any is an empty message."""
        if not self.output:
            yield from self._begin(items.message())
        yield from self._close()

    def _begin(self, item: Item) -> Iterator[Item]:
        yield from self._close()
        self.output.append(item)
        self._said, self._likely, self._is_open = "", [], True
        yield {"type": "response.output_item.added", "output_index": len(self.output) - 1,
               "item": dict(item)}  # fmt: skip
        if item["type"] == "message":
            yield self._event("content_part.added", content_index=0, part=items.text_part(""))
        elif item["type"] == "reasoning":
            yield self._event("content_part.added", content_index=0, part=items.thought_part(""))

    def _close(self) -> Iterator[Item]:
        if not self._is_open:
            return
        item, text = self.output[-1], self._said
        if item["type"] == "function_call":
            item["arguments"] = text
            done = {"arguments": text, "name": item["name"]}
            yield self._event("function_call_arguments.done", **done)
        else:
            yield from self._close_text(item, text)
        item["status"], self._is_open = "completed", False
        yield {"type": "response.output_item.done", "output_index": len(self.output) - 1,
               "item": dict(item)}  # fmt: skip

    def _close_text(self, item: Item, text: str) -> Iterator[Item]:
        if item["type"] == "message":
            part = items.text_part(text, self._likely)
            done = {"text": text, "logprobs": self._likely, "content_index": 0}
            yield self._event("output_text.done", **done)
        else:
            part = items.thought_part(text)
            yield self._event("reasoning_text.done", text=text, content_index=0)
        item["content"] = [part]
        yield self._event("content_part.done", content_index=0, part=part)

    def _event(self, kind: str, **content: Any) -> Item:
        place = {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}
        return {"type": f"response.{kind}", **place, **content}
